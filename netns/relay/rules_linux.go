package relay

import (
	"errors"
	"net/netip"

	"skiff/netns/netlink"

	"golang.org/x/sys/unix"
)

// filter adds the rules of R and binds the queue, from the given rung down. A
// kernel that cannot do it for IPv6 may do without.
func (r *Relay) filter(from Hold) error {
	err := r.filterFrom(from)
	if err != nil && r.address6.IsValid() && r.options.IPv6 == Auto {
		r.without6()
		err = r.filterFrom(from)
	}
	return err
}

func (r *Relay) filterFrom(from Hold) error {
	nft := netlink.New(r.in.netfilter)
	for h := max(from, HoldQueue); ; h++ {
		err := r.rules(nft, h)
		if err == nil && h != HoldNone {
			if err = r.bindQueue(nft); err != nil {
				if err := r.dropRules(nft); err != nil {
					return &Error{Step: "delete nftables rules", Err: err}
				}
			}
		}
		switch {
		case err == nil:
			r.hold = h
			return nil
		case h == HoldNone:
			return filterError(err)
		}
	}
}

// filterError says which module the last rung lacked.
func filterError(err error) error {
	e := &Error{Step: "add nftables rules", Err: err}
	switch {
	case errors.Is(err, unix.ENOENT):
		e.Missing = "nft_tproxy"
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL):
		e.Missing = "nf_tables"
	}
	return e
}

const (
	table  = "relay"
	divert = "divert"
	hold   = "hold"
	stray  = "stray"

	// mark is on every packet of our sockets in R.
	mark = 1
)

// rules adds R's tables, one for each family.
//
// Only the container's own address is listened to: with raw sockets it could
// claim another (SECURITY case 115). What is neither TCP nor UDP nor of use to
// the relay is dropped, such as router advertisements (case 120).
//
// Every destination is R's own, so the kernel would answer every ping itself.
// Those answers, which are not marked, are dropped on their way out.
//
// Only SYNs need TPROXY: the socket that answers one has the destination as its
// address, which is local.
//
// A packet that comes just while another processor replaces the request of its
// connection by the socket finds neither, and the kernel resets (before commit
// 1532ed0d0753, 6.19). A container that writes the moment it is connected meets
// this once in some ten thousand connections. So resets that are not of our
// sockets, which are marked, are dropped, and the packet comes again.
func (r *Relay) rules(nft *netlink.Conn, h Hold) error {
	t := netlink.NewTransaction(netlink.FamilyIPv4)
	addRules(t, h, &families[0], r.address.Addr())
	if r.address6.IsValid() {
		t.Family(families[1].number)
		addRules(t, h, &families[1], r.address6.Addr())
	}
	return nft.Commit(t)
}

// A family is what differs between the tables.
type family struct {
	number      byte
	icmp        byte // the protocol
	echo, reply byte // types of it
	unreachable byte
}

var families = [...]family{
	{netlink.FamilyIPv4, unix.IPPROTO_ICMP, icmp4Echo, icmp4Reply, icmp4Unreachable},
	{netlink.FamilyIPv6, unix.IPPROTO_ICMPV6, icmp6Echo, icmp6Reply, icmp6Unreachable},
}

// addRules adds the table of one family, whose address the container has.
func addRules(t *netlink.Transaction, h Hold, f *family, address netip.Addr) {
	t.NewTable(table, 0)
	add := func(chain string, exprs ...netlink.Expr) {
		t.NewRule(netlink.Rule{Table: table, Chain: chain, Exprs: exprs})
	}
	own := netip.PrefixFrom(address, address.BitLen())
	syn := netlink.All(netlink.L4Proto(unix.IPPROTO_TCP), netlink.TCPFlags(tcpSYN|tcpACK|tcpRST, tcpSYN))
	icmp := func(typ byte) netlink.Expr { return netlink.All(netlink.L4Proto(f.icmp), netlink.ICMPType(typ)) }
	if h != HoldNone {
		t.NewChain(netlink.Chain{Table: table, Name: hold, Type: "filter", Hook: unix.NF_INET_PRE_ROUTING, Priority: -300})
		queue := netlink.Queue(queueNumber, 1, 0)
		if h == HoldCompat {
			queue = netlink.QueueCompat(queueNumber, 1)
		}
		add(hold, syn, netlink.Source(own), queue)
	}
	t.NewChain(netlink.Chain{Table: table, Name: divert, Type: "filter", Hook: unix.NF_INET_PRE_ROUTING, Priority: -150, Drop: true})
	add(divert, netlink.NotIIfName(routerLink), netlink.Accept())
	if address.Is6() {
		// Sockets cannot tell these from IPv4's, and nobody sends them (RFC 4291, 2.5.5.2).
		add(divert, netlink.Dest(mapped), netlink.Drop())
	}
	add(divert, netlink.NotSource(own), netlink.Drop())
	if address.Is6() {
		// From its own address only: each other would fill the kernel's table of
		// neighbours, which is the host's, too.
		add(divert, icmp(neighbourSolicitation), netlink.Accept())
		add(divert, icmp(neighbourAdvertisement), netlink.Accept())
	}
	add(divert, syn, netlink.TProxyTo(uint32(f.number), tcpPort), netlink.Accept())
	add(divert, netlink.L4Proto(unix.IPPROTO_TCP), netlink.Accept())
	add(divert, netlink.L4Proto(unix.IPPROTO_UDP), netlink.TProxyTo(uint32(f.number), udpPort), netlink.Accept())
	add(divert, icmp(f.echo), netlink.Accept())
	add(divert, icmp(f.unreachable), netlink.Accept())
	t.NewChain(netlink.Chain{Table: table, Name: stray, Type: "filter", Hook: unix.NF_INET_LOCAL_OUT})
	unmarked := netlink.All(netlink.Meta(unix.NFT_META_MARK, unix.NFT_REG_1), netlink.Cmp(unix.NFT_REG_1, unix.NFT_CMP_EQ, make([]byte, 4)))
	add(stray, unmarked, netlink.L4Proto(unix.IPPROTO_TCP), netlink.TCPFlags(tcpRST, tcpRST), netlink.Drop())
	add(stray, unmarked, icmp(f.reply), netlink.Drop())
}

// mapped is the addresses of IPv6 that stand for those of IPv4.
var mapped = netip.PrefixFrom(netip.AddrFrom16(address4([4]byte{})), 96)

// dropRules takes back what rules added.
func (r *Relay) dropRules(nft *netlink.Conn) error {
	t := netlink.NewTransaction(netlink.FamilyIPv4)
	t.DeleteTable(table)
	if r.address6.IsValid() {
		t.Family(netlink.FamilyIPv6)
		t.DeleteTable(table)
	}
	return nft.Commit(t)
}

// synCopy is how much of a SYN is copied: its headers with all options.
const synCopy = 128

func (r *Relay) bindQueue(nft *netlink.Conn) error {
	var b netlink.Batch
	b.QueueBind(queueNumber)
	b.QueueCopy(queueNumber, synCopy)
	b.QueueMaxLen(queueNumber, queueLength)
	return nft.Do(&b)
}
