package bridge

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"skiff/netns/netlink"
)

// A resolver answers one container's queries at the gateway's address.
//
// Its sockets are bound to the container's own link (SO_BINDTODEVICE,
// socket(7)), so every run may have port 53 of the same address, and nobody
// else's packets come in.
type resolver struct {
	udp   net.PacketConn
	tcp   net.Listener
	owner *netlink.Conn // of the redirecting table; nil as a rule
}

func (r *resolver) close() error {
	if r == nil {
		return nil
	}
	err := errors.Join(r.udp.Close(), r.tcp.Close())
	if r.owner != nil {
		err = errors.Join(err, r.owner.Close())
	}
	return err
}

// serve starts a resolver. Where a server of the host's has port 53 of all
// addresses, another port is taken and queries are redirected to it.
func (h *Host) serve(link string, c Container) (*resolver, error) {
	r, err := listen(link, netip.AddrPortFrom(h.Gateway, 53))
	if errors.Is(err, unix.EADDRINUSE) {
		if h.guarded {
			return nil, blocked("iptables' INPUT chain, with port 53 taken,")
		}
		if r, err = listen(link, netip.AddrPortFrom(h.Gateway, 0)); err == nil {
			if err = r.redirect(link, h.Gateway, c.Addr); err != nil {
				r.close()
			}
		}
	}
	if err != nil {
		return nil, err
	}
	go c.DNS.ServeUDP(r.udp)
	go c.DNS.ServeTCP(r.tcp)
	return r, nil
}

func listen(link string, at netip.AddrPort) (*resolver, error) {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if e := c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), link) }); e != nil {
			return e
		}
		return err
	}}
	config.SetMultipathTCP(false)
	udp, err := config.ListenPacket(context.Background(), "udp4", at.String())
	if err != nil {
		return nil, err
	}
	tcp, err := config.Listen(context.Background(), "tcp4", at.String())
	if err != nil {
		udp.Close()
		return nil, err
	}
	return &resolver{udp: udp, tcp: tcp}, nil
}

// redirect sends queries to the resolver's own ports, by a table that the
// kernel deletes with its socket, when skiff ends. Only such hosts pay the
// milliseconds that this takes (see the package comment).
func (r *resolver) redirect(link string, gateway, container netip.Addr) error {
	owner, err := netlink.Open(unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	tx := netlink.NewTransaction(netlink.FamilyIPv4)
	tx.NewTable(link, netlink.TableOwner)
	tx.NewChain(netlink.Chain{Table: link, Name: "dns", Type: "nat", Hook: unix.NF_INET_PRE_ROUTING, Priority: -100})
	for proto, port := range map[byte]uint16{
		unix.IPPROTO_UDP: uint16(r.udp.LocalAddr().(*net.UDPAddr).Port),
		unix.IPPROTO_TCP: uint16(r.tcp.Addr().(*net.TCPAddr).Port),
	} {
		tx.Rule(link, "dns", netlink.IIfName(link),
			netlink.Source(netip.PrefixFrom(container, 32)), netlink.Dest(netip.PrefixFrom(gateway, 32)),
			netlink.L4Proto(proto), netlink.DPort(53), netlink.RedirectTo(port))
	}
	if err := owner.Commit(tx); err != nil {
		owner.Close()
		return missingNft(err)
	}
	r.owner = owner
	return nil
}
