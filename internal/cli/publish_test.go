package cli

import (
	"net/netip"
	"strings"
	"testing"

	"skiff/netns/ports"
	"skiff/run/state"

	"github.com/google/go-cmp/cmp"
)

func TestPublished(t *testing.T) {
	port := func(a netip.Addr, first, last, inside uint16, proto ports.Proto) ports.Port {
		return ports.Port{Address: a, First: first, Last: last, Container: inside, Proto: proto}
	}
	var none netip.Addr
	v4, v6 := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")
	all4, all6 := netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("::")
	for _, c := range []struct {
		text string
		want []ports.Port
	}{
		{"80", []ports.Port{port(none, 0, 0, 80, "tcp")}},
		{"80/udp", []ports.Port{port(none, 0, 0, 80, "udp")}},
		{"80/UDP", []ports.Port{port(none, 0, 0, 80, "udp")}},
		{":80", []ports.Port{port(none, 0, 0, 80, "tcp")}},
		{"::80", []ports.Port{port(none, 0, 0, 80, "tcp")}},
		{"0:80", []ports.Port{port(none, 0, 0, 80, "tcp")}},
		{"8080:80", []ports.Port{port(none, 8080, 8080, 80, "tcp")}},
		{"127.0.0.1:8080:80", []ports.Port{port(v4, 8080, 8080, 80, "tcp")}},
		{"127.0.0.1::80/tcp", []ports.Port{port(v4, 0, 0, 80, "tcp")}},
		{"[::1]:8080:80", []ports.Port{port(v6, 8080, 8080, 80, "tcp")}},
		{"[::1]::80", []ports.Port{port(v6, 0, 0, 80, "tcp")}},
		{"::1:8080:80", []ports.Port{port(v6, 8080, 8080, 80, "tcp")}},
		{"[::ffff:127.0.0.1]::80", []ports.Port{port(v4, 0, 0, 80, "tcp")}},
		{"0.0.0.0:8080:80", []ports.Port{port(all4, 8080, 8080, 80, "tcp")}},
		{"[::]:8080:80", []ports.Port{port(all6, 8080, 8080, 80, "tcp")}},
		{"80-81", []ports.Port{port(none, 0, 0, 80, "tcp"), port(none, 0, 0, 81, "tcp")}},
		{"8080-8081:80-81/udp", []ports.Port{port(none, 8080, 8080, 80, "udp"), port(none, 8081, 8081, 81, "udp")}},
		{"8080-8082:80", []ports.Port{port(none, 8080, 8082, 80, "tcp")}},
		{"65535:65535", []ports.Port{port(none, 65535, 65535, 65535, "tcp")}},
		{"65534-65535:65534-65535", []ports.Port{port(none, 65534, 65534, 65534, "tcp"), port(none, 65535, 65535, 65535, "tcp")}},
	} {
		got, err := published(c.text)
		if diff := cmp.Diff(c.want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", c.text, err, diff)
		}
	}
	for _, c := range []struct{ text, want string }{
		{"", "no number"},
		{"/tcp", "no number"},
		{"http", "no number"},
		{"0", "container port 0"},
		{"8080:0", "container port 0"},
		{"-1", "no number"},
		{"80-", "no number"},
		{"81-80", "upwards"},
		{"65536", "no number"},
		{"+80", "no number"},
		{"80/sctp", "sctp"},
		{"80/", `protocol ""`},
		{"80/tcp/udp", `protocol "tcp/udp"`},
		{"0-2:80", "begins no range"},
		{"8080-8082:80-81", "3 ports of the host and 2"},
		{"8080:80-81", "1 ports of the host and 2"},
		{"127.0.0.1:80", "which port of 127.0.0.1"},
		{"[::1]:80", "which port of ::1"},
		{"localhost:8080:80", "no address"},
		{"[127.0.0.1]:8080:80", "brackets"},
		{"[::1:8080:80", "no address"},
		{"fe80::1%eth0:8080:80", "zone"},
		{"1:2:3:4", "no address"},
	} {
		if got, err := published(c.text); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, %v, want %q", c.text, got, err, c.want)
		}
	}
}

func FuzzPublished(f *testing.F) {
	for _, s := range []string{"80", "127.0.0.1:8080-8082:80-82/udp", "[::1]::80", ":::", "0-1:0-1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		list, err := published(text)
		if err == nil && len(list) == 0 {
			t.Error("neither ports nor an error")
		}
		for _, p := range list {
			if p.Container == 0 || p.First > p.Last || p.First == 0 && p.Last != 0 || p.Proto != ports.TCP && p.Proto != ports.UDP || p.Address.Zone() != "" {
				t.Errorf("%+v", p)
			}
		}
	})
}

func TestPortsColumn(t *testing.T) {
	on := func(ip string, host, inside uint16, proto string) state.Port {
		return state.Port{HostIP: ip, HostPort: host, ContainerPort: inside, Protocol: proto}
	}
	for _, c := range []struct {
		ports   []state.Port
		exposed []string
		want    string
	}{
		{nil, nil, ""},
		{nil, []string{"80/tcp", "nonsense"}, "80/tcp"},
		{[]state.Port{on("127.0.0.1", 8080, 80, "tcp"), on("::1", 8080, 80, "tcp")}, []string{"80/tcp", "443/tcp"}, "443/tcp, 127.0.0.1:8080->80/tcp, [::1]:8080->80/tcp"},
		{[]state.Port{on("0.0.0.0", 8002, 8002, "tcp"), on("0.0.0.0", 8000, 8000, "tcp"), on("0.0.0.0", 8001, 8001, "tcp")}, nil, "0.0.0.0:8000-8002->8000-8002/tcp"},
		{[]state.Port{on("0.0.0.0", 53, 53, "udp"), on("0.0.0.0", 53, 53, "tcp"), on("0.0.0.0", 55, 55, "tcp")}, nil, "0.0.0.0:53->53/tcp, 0.0.0.0:55->55/tcp, 0.0.0.0:53->53/udp"},
		{nil, []string{"8000-8010/udp"}, "8000-8010/udp"},
	} {
		l := state.Listed{Container: state.Container{Ports: c.ports, Exposed: c.exposed}, Status: state.Running}
		if got := portsColumn(portsOf(l)); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
		l.Status = state.Stopped
		if got := portsColumn(portsOf(l)); got != "" {
			t.Errorf("one that has ended has %s", got)
		}
	}
}
