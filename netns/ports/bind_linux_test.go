package ports

import (
	"errors"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

var here = netip.MustParseAddr("127.0.0.1")

func bind(t *testing.T, list ...Port) []Socket {
	t.Helper()
	s, err := Bind(list, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { Close(s) })
	return s
}

// A port of the kernel's choice is the same at all addresses.
func TestBindChosen(t *testing.T) {
	s := bind(t, Port{Container: 80, Proto: TCP}, Port{Container: 53, Proto: UDP})
	for _, one := range s {
		if !one.Chosen || one.Host.Port() == 0 || !one.Host.Addr().IsLoopback() {
			t.Errorf("%+v", one)
		}
		if flags, err := unix.FcntlInt(uintptr(one.FD), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("%s would be inherited", one.Host)
		}
	}
	if len(s) == 4 && (s[0].Host.Port() != s[1].Host.Port() || s[2].Host.Port() != s[3].Host.Port()) {
		t.Errorf("one port is two: %+v", s)
	}
}

// What is named is not taken by what is chosen, whatever the order.
func TestBindOrder(t *testing.T) {
	first := bind(t, Port{Address: here, Container: 1, Proto: TCP})[0].Host.Port()
	if first > 65000 {
		t.Skip("no room for a range above")
	}
	// The range has its first port taken by the one that is named after it.
	s, err := Bind([]Port{
		{Address: here, First: first + 1, Last: first + 9, Container: 80, Proto: TCP},
		{Address: here, First: first + 1, Last: first + 1, Container: 81, Proto: TCP},
	}, nil)
	if errors.Is(err, unix.EADDRINUSE) {
		t.Skip("somebody else has that port: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer Close(s)
	if s[0].Container != 80 || s[0].Host.Port() <= first+1 || s[1].Host.Port() != first+1 {
		t.Errorf("%+v", s)
	}
}

func TestBindErrors(t *testing.T) {
	taken := bind(t, Port{Address: here, Container: 1, Proto: TCP}, Port{Address: here, Container: 1, Proto: UDP})
	tcp, udp := taken[0].Host.Port(), taken[1].Host.Port()
	free := func() uint16 {
		s := bind(t, Port{Address: here, Container: 1, Proto: TCP})
		Close(s)
		return s[0].Host.Port()
	}()
	for _, c := range []struct {
		list []Port
		want string
		err  error
	}{
		{[]Port{{here, tcp, tcp, 80, TCP}}, "publish " + taken[0].Host.String() + "/tcp: address already in use", unix.EADDRINUSE},
		{[]Port{{here, udp, udp, 80, UDP}}, "publish " + taken[1].Host.String() + "/udp: address already in use", unix.EADDRINUSE},
		{[]Port{{here, 0, 0, 79, TCP}, {netip.MustParseAddr("192.0.2.1"), 1080, 1080, 80, TCP}}, "publish 192.0.2.1:1080/tcp: the host has no such address", unix.EADDRNOTAVAIL},
		{[]Port{{here, free, free, 80, TCP}, {here, free, free, 81, TCP}}, "publish " + netip.AddrPortFrom(here, free).String() + "/tcp: is published twice", ErrTwice},
	} {
		s, err := Bind(c.list, nil)
		if err == nil {
			Close(s)
		}
		if !errors.Is(err, c.err) || err.Error() != c.want {
			t.Errorf("%v, want %s", err, c.want)
		}
	}
	// Nothing is kept of a list that failed.
	l, err := net.Listen("tcp4", netip.AddrPortFrom(here, free).String())
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

// TCP and UDP have ports of their own.
func TestBindBoth(t *testing.T) {
	port := bind(t, Port{Address: here, Container: 53, Proto: TCP})[0].Host.Port()
	s, err := Bind([]Port{{here, port, port, 53, UDP}}, nil)
	if errors.Is(err, unix.EADDRINUSE) {
		t.Skip("somebody else has that port: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	Close(s)
}
