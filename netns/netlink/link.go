package netlink

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// A Link names an interface: by Index, or by Name where Index is 0.
type Link struct {
	Index int
	Name  string
}

func (l Link) String() string {
	if l.Name != "" {
		return l.Name
	}
	return "link " + itoa(l.Index)
}

// Lo is the loopback interface, which has index 1 in every network namespace
// (LOOPBACK_IFINDEX).
var Lo = Link{Index: 1, Name: "lo"}

// None, in place of a network namespace's descriptor, says that a link stays
// in the socket's own.
const None = -1

// A LinkSpec is what a new interface shall be. The zero value leaves every
// choice but the name to the kernel.
type LinkSpec struct {
	Name   string
	MAC    []byte // 6 bytes; nil: random
	MTU    int    // 0: the kind's default
	Up     bool
	Master int // index of the bridge it becomes a port of; 0: none
}

const linkFlags = unix.NLM_F_REQUEST | unix.NLM_F_ACK

// link starts a RTM_NEWLINK message. With an index, that one is meant, else
// the name's; both in one message would rename.
func (b *Batch) link(op string, flags uint16, l Link, up, change uint32) {
	b.message(op, unix.RTM_NEWLINK, flags)
	b.ifinfo(unix.AF_UNSPEC, l.Index, up, change)
	if l.Index == 0 {
		b.attrStr(unix.IFLA_IFNAME, l.Name, unix.IFNAMSIZ)
	}
}

// ifinfo appends a struct ifinfomsg.
func (b *Batch) ifinfo(family byte, index int, flags, change uint32) {
	b.raw(family, 0, 0, 0)
	b.rawU32(uint32(index))
	b.rawU32(flags)
	b.rawU32(change)
}

// LinkUp brings an interface up.
func (b *Batch) LinkUp(l Link) {
	b.link("set "+l.String()+" up", linkFlags, l, unix.IFF_UP, unix.IFF_UP)
	b.end()
}

// LinkDown takes an interface down.
func (b *Batch) LinkDown(l Link) {
	b.link("set "+l.String()+" down", linkFlags, l, 0, unix.IFF_UP)
	b.end()
}

// LinkName renames an interface, which must be given by index and be down
// (kernels before 6.2 refuse others with EBUSY).
func (b *Batch) LinkName(index int, name string) {
	b.link("rename link "+itoa(index)+" to "+name, linkFlags, Link{Index: index}, 0, 0)
	b.attrStr(unix.IFLA_IFNAME, name, unix.IFNAMSIZ)
	b.end()
}

// LinkMaster makes an interface a port of the bridge with that index; 0 takes
// it out.
func (b *Batch) LinkMaster(l Link, master int) {
	b.link("set master of "+l.String(), linkFlags, l, 0, 0)
	b.attrU32(unix.IFLA_MASTER, uint32(master))
	b.end()
}

// LinkMTU sets the MTU in bytes.
func (b *Batch) LinkMTU(l Link, mtu int) {
	b.link("set mtu of "+l.String(), linkFlags, l, 0, 0)
	b.attrU32(unix.IFLA_MTU, uint32(mtu))
	b.end()
}

// LinkMAC sets the hardware address, 6 bytes.
func (b *Batch) LinkMAC(l Link, mac []byte) {
	b.link("set address of "+l.String(), linkFlags, l, 0, 0)
	b.mac(mac)
	b.end()
}

// LinkNetns moves an interface into the network namespace that fd refers to.
func (b *Batch) LinkNetns(l Link, fd int) {
	b.link("move "+l.String()+" to another network namespace", linkFlags, l, 0, 0)
	b.attrU32(unix.IFLA_NET_NS_FD, uint32(fd))
	b.end()
}

// LinkNoIPv6LinkLocal keeps the kernel from giving the interface a fe80::
// address by itself, if said before the interface is up. EAFNOSUPPORT means
// that the kernel, or this interface, has no IPv6 at all.
func (b *Batch) LinkNoIPv6LinkLocal(l Link) {
	b.link("turn off link-local address of "+l.String(), linkFlags, l, 0, 0)
	spec := b.nest(unix.IFLA_AF_SPEC)
	v6 := b.nest(unix.AF_INET6)
	b.attrU8(unix.IFLA_INET6_ADDR_GEN_MODE, addrGenNone)
	b.unnest(v6)
	b.unnest(spec)
	b.end()
}

const addrGenNone = 1 // IN6_ADDR_GEN_MODE_NONE, linux/if_link.h

// LinkForwarding has packets that come in by an interface passed on to others.
// Source: linux/net/ipv4/devinet.c, inet_set_link_af; IPV4_DEVCONF_FORWARDING is 1.
func (b *Batch) LinkForwarding(l Link) {
	b.link("forward from "+l.String(), linkFlags, l, 0, 0)
	spec := b.nest(unix.IFLA_AF_SPEC)
	v4 := b.nest(unix.AF_INET)
	conf := b.nest(ifaInetConf)
	b.attrU32(devconfForwarding, 1)
	b.unnest(conf)
	b.unnest(v4)
	b.unnest(spec)
	b.end()
}

const (
	ifaInetConf       = 1 // IFLA_INET_CONF
	devconfForwarding = 1 // IPV4_DEVCONF_FORWARDING
)

// LinkIsolated keeps a bridge port from exchanging frames with other isolated
// ports (IFLA_BRPORT_ISOLATED, kernel 4.18).
func (b *Batch) LinkIsolated(l Link) {
	b.link("isolate bridge port "+l.String(), linkFlags, l, 0, 0)
	info := b.nest(unix.IFLA_LINKINFO)
	b.attrStr(unix.IFLA_INFO_SLAVE_KIND, "bridge", 16)
	data := b.nest(unix.IFLA_INFO_SLAVE_DATA)
	b.attrU8(unix.IFLA_BRPORT_ISOLATED, 1)
	b.unnest(data)
	b.unnest(info)
	b.end()
}

// LinkDelete deletes an interface. For a veth this waits for RCU grace periods
// (about 20 ms): no exit path should want it.
func (b *Batch) LinkDelete(l Link) {
	b.message("delete "+l.String(), unix.RTM_DELLINK, linkFlags)
	b.ifinfo(unix.AF_UNSPEC, l.Index, 0, 0)
	if l.Index == 0 {
		b.attrStr(unix.IFLA_IFNAME, l.Name, unix.IFNAMSIZ)
	}
	b.end()
}

// Veth creates a pair: here in the socket's network namespace, peer in peerNS
// (None: here as well). Both ends get everything in their LinkSpec in this one
// request; only here's Master is looked at.
//
// One queue each way is asked for. Unasked the kernel makes one for each
// processor and takes all but one away again, for which it waits for RCU grace
// periods, 1 ms or more (veth_init_queues).
//
// EEXIST: one of the names is taken. EOPNOTSUPP: the kernel has no veth.
func (b *Batch) Veth(here, peer LinkSpec, peerNS int) {
	b.create("create veth "+here.Name, here)
	b.oneQueue()
	info := b.nest(unix.IFLA_LINKINFO)
	b.attrStr(unix.IFLA_INFO_KIND, "veth", 16)
	data := b.nest(unix.IFLA_INFO_DATA)
	p := b.nest(vethInfoPeer)
	up := upFlag(peer.Up)
	b.ifinfo(unix.AF_UNSPEC, 0, up, up)
	b.spec(peer)
	b.oneQueue()
	if peerNS != None {
		b.attrU32(unix.IFLA_NET_NS_FD, uint32(peerNS))
	}
	b.unnest(p)
	b.unnest(data)
	b.unnest(info)
	b.end()
}

const vethInfoPeer = 1 // VETH_INFO_PEER, linux/veth.h

// Bridge creates a bridge. EEXIST: the name is taken. EOPNOTSUPP: the kernel
// has no bridge module.
func (b *Batch) Bridge(s LinkSpec) {
	b.create("create bridge "+s.Name, s)
	info := b.nest(unix.IFLA_LINKINFO)
	b.attrStr(unix.IFLA_INFO_KIND, "bridge", 16)
	b.unnest(info)
	b.end()
}

// create starts a RTM_NEWLINK that makes a new link, with its specification.
func (b *Batch) create(op string, s LinkSpec) {
	b.message(op, unix.RTM_NEWLINK, linkFlags|unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	up := upFlag(s.Up)
	b.ifinfo(unix.AF_UNSPEC, 0, up, up)
	b.spec(s)
	if s.Master != 0 {
		b.attrU32(unix.IFLA_MASTER, uint32(s.Master))
	}
}

// spec appends the attributes that are alike for both ends of a veth.
func (b *Batch) spec(s LinkSpec) {
	b.attrStr(unix.IFLA_IFNAME, s.Name, unix.IFNAMSIZ)
	if s.MAC != nil {
		b.mac(s.MAC)
	}
	if s.MTU != 0 {
		b.attrU32(unix.IFLA_MTU, uint32(s.MTU))
	}
}

func (b *Batch) oneQueue() {
	b.attrU32(unix.IFLA_NUM_TX_QUEUES, 1)
	b.attrU32(unix.IFLA_NUM_RX_QUEUES, 1)
}

func (b *Batch) mac(mac []byte) {
	if len(mac) != 6 {
		b.fail(unix.EINVAL, "hardware address of wrong length")
		return
	}
	b.attr(unix.IFLA_ADDRESS, mac)
}

func upFlag(up bool) uint32 {
	if up {
		return unix.IFF_UP
	}
	return 0
}

// A LinkInfo is what is used of a RTM_NEWLINK answer.
type LinkInfo struct {
	Index  int
	Name   string
	Kind   string // "veth", "bridge"; empty for hardware and lo
	MAC    []byte // 6 bytes for Ethernet
	MTU    int
	Flags  uint32 // IFF_UP and friends
	Master int    // index of the bridge; 0: none
	Peer   int    // IFLA_LINK: of a veth, the other end's index in its own network namespace
}

// Link looks up one interface. ENODEV: there is none.
func (c *Conn) Link(l Link) (LinkInfo, error) {
	var b Batch
	b.message("look up "+l.String(), unix.RTM_GETLINK, linkFlags)
	b.ifinfo(unix.AF_UNSPEC, l.Index, 0, 0)
	if l.Index == 0 {
		b.attrStr(unix.IFLA_IFNAME, l.Name, unix.IFNAMSIZ)
	}
	b.attrU32(unix.IFLA_EXT_MASK, extSkipStats)
	b.end()
	var info LinkInfo
	err := c.query(&b, func() {}, func(typ uint16, body []byte) {
		if typ == unix.RTM_NEWLINK {
			info = parseLink(body)
		}
	})
	return info, err
}

// LinkIndex is the index of the interface with that name. ENODEV: none has it.
func (c *Conn) LinkIndex(name string) (int, error) {
	info, err := c.Link(Link{Name: name})
	return info.Index, err
}

// Links lists all interfaces.
func (c *Conn) Links() ([]LinkInfo, error) {
	var b Batch
	b.message("list links", unix.RTM_GETLINK, unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	b.ifinfo(unix.AF_UNSPEC, 0, 0, 0)
	b.attrU32(unix.IFLA_EXT_MASK, extSkipStats)
	b.end()
	var links []LinkInfo
	err := c.query(&b, func() { links = nil }, func(typ uint16, body []byte) {
		if typ == unix.RTM_NEWLINK {
			links = append(links, parseLink(body))
		}
	})
	return links, err
}

const extSkipStats = 8 // RTEXT_FILTER_SKIP_STATS, linux/rtnetlink.h

func parseLink(body []byte) LinkInfo {
	var info LinkInfo
	if len(body) < unix.SizeofIfInfomsg {
		return info
	}
	info.Index = int(binary.NativeEndian.Uint32(body[4:]))
	info.Flags = binary.NativeEndian.Uint32(body[8:])
	attrs(body[unix.SizeofIfInfomsg:], func(typ uint16, data []byte) {
		switch typ {
		case unix.IFLA_IFNAME:
			info.Name = cstr(data)
		case unix.IFLA_ADDRESS:
			info.MAC = append([]byte(nil), data...)
		case unix.IFLA_MTU:
			info.MTU = int(u32(data))
		case unix.IFLA_MASTER:
			info.Master = int(u32(data))
		case unix.IFLA_LINK:
			info.Peer = int(u32(data))
		case unix.IFLA_LINKINFO:
			attrs(data, func(typ uint16, data []byte) {
				if typ == unix.IFLA_INFO_KIND {
					info.Kind = cstr(data)
				}
			})
		}
	})
	return info
}
