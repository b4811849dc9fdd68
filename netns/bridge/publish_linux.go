package bridge

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"skiff/netns/netlink"
	"skiff/netns/ports"
)

// Publish has what comes to published ports from elsewhere, and from the host itself to
// an address that is not loopback, forwarded to the container as it is: the container
// sees the client, at the network's own speed. What is left to whoever serves the sockets
// is loopback, which could be forwarded only with route_localnet, IPv6, and what other
// containers send, to which the static table gives no way to this one.
//
// The rules are in a table that the kernel deletes with its socket, when skiff ends. That
// takes an RCU grace period: see the package comment. So there is one only where an
// address asks for it; it returns nil where none does.
func (h *Host) Publish(n *Network, to netip.Addr, sockets []ports.Socket) (owner *netlink.Conn, err error) {
	list := forwarded(sockets)
	if len(list) == 0 {
		return nil, nil
	}
	if owner, err = netlink.Open(unix.NETLINK_NETFILTER); err != nil {
		return nil, err
	}
	if err := owner.Commit(publishTable(n.Link+"-ports", to, list)); err != nil {
		owner.Close()
		return nil, fmt.Errorf("publish ports: %w", missingNft(err))
	}
	// Of a container that had the ports before. A kernel without the means keeps them.
	if udp := udpPorts(list); len(udp) > 0 {
		owner.ForgetUDP(func(port uint16) bool { return udp[port] })
	}
	return owner, nil
}

func udpPorts(list []*group) map[uint16]bool {
	udp := map[uint16]bool{}
	for _, g := range list {
		for _, e := range g.ports {
			if g.proto == ports.UDP {
				udp[binary.BigEndian.Uint16(e.Key)] = true
			}
		}
	}
	return udp
}

// A group is the ports of one address and protocol.
type group struct {
	address netip.Addr
	proto   ports.Proto
	ports   []netlink.Element // the host's port, and the container's
}

// forwarded are the ports that others may reach.
func forwarded(sockets []ports.Socket) (list []*group) {
	for _, s := range sockets {
		a := s.Host.Addr()
		if !a.Is4() || a.IsLoopback() {
			continue
		}
		var g *group
		for _, other := range list {
			if other.address == a && other.proto == s.Proto {
				g = other
			}
		}
		if g == nil {
			g = &group{address: a, proto: s.Proto}
			list = append(list, g)
		}
		g.ports = append(g.ports, netlink.Element{Key: be16(s.Host.Port()), Data: be16(s.Container)})
	}
	return list
}

// elementsMost is how many elements go into one message, whose attributes have 64 KiB at most.
const elementsMost = 1000

// publishTable rewrites destinations: a map for each group, a rule for each in each chain.
// A chain of nat sees only the first packet of a connection.
func publishTable(table string, to netip.Addr, list []*group) *netlink.Transaction {
	const arriving, leaving = "prerouting", "output"
	tx := netlink.NewTransaction(netlink.FamilyIPv4)
	tx.NewTable(table, netlink.TableOwner)
	tx.NewChain(netlink.Chain{Table: table, Name: arriving, Type: "nat", Hook: unix.NF_INET_PRE_ROUTING, Priority: -100})
	tx.NewChain(netlink.Chain{Table: table, Name: leaving, Type: "nat", Hook: unix.NF_INET_LOCAL_OUT, Priority: -100})
	tx.Rule(table, arriving, netlink.IIfPrefix(linkPrefix), netlink.Return())
	tx.Rule(table, leaving, netlink.Dest(loopback), netlink.Return())
	for i, g := range list {
		const inetService = 13 // nft's name for the type of a port
		set := fmt.Sprintf("ports%d", i)
		id := tx.NewSet(netlink.Set{
			Table: table, Name: set, KeyType: inetService, KeyLen: 2, DataType: inetService, DataLen: 2,
		})
		for rest := g.ports; len(rest) > 0; {
			n := min(len(rest), elementsMost)
			tx.AddElements(table, set, id, rest[:n])
			rest = rest[n:]
		}
		destination, proto := netlink.ToLocal(), byte(unix.IPPROTO_TCP)
		if !g.address.IsUnspecified() {
			destination = netlink.Dest(netip.PrefixFrom(g.address, 32))
		}
		if g.proto == ports.UDP {
			proto = unix.IPPROTO_UDP
		}
		for _, chain := range []string{arriving, leaving} {
			tx.Rule(table, chain, netlink.L4Proto(proto), destination,
				netlink.Payload(unix.NFT_REG_1, unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2),
				netlink.Lookup(set, id, unix.NFT_REG_1, unix.NFT_REG_3),
				netlink.Immediate(unix.NFT_REG_2, to.AsSlice()),
				netlink.DNAT(netlink.FamilyIPv4, unix.NFT_REG_2, unix.NFT_REG_3))
		}
	}
	return tx
}

func be16(v uint16) []byte { return []byte{byte(v >> 8), byte(v)} }
