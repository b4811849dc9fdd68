package netlink

import (
	"bytes"
	"slices"

	"golang.org/x/sys/unix"
)

// Attributes and messages of nfnetlink's connection tracking
// (linux/netfilter/nfnetlink_conntrack.h).
const (
	ctSubsys = unix.NFNL_SUBSYS_CTNETLINK << 8
	ctGet    = ctSubsys | 1 // IPCTNL_MSG_CT_GET
	ctDelete = ctSubsys | 2 // IPCTNL_MSG_CT_DELETE

	ctaTupleOrig  = 1
	ctaStatus     = 3
	ctaTupleProto = 2
	ctaProtoNum   = 1
	ctaProtoDPort = 3

	ipsDstNAT = 1 << 5
)

// ForgetUDP makes connection tracking forget the IPv4 datagrams whose destination
// was rewritten and, before that, was a port that match knows. A flow that never falls silent
// keeps its destination otherwise, whoever has that by now, and whatever the rules are.
// It goes through all that is tracked. EOPNOTSUPP: the kernel has no nf_conntrack_netlink.
func (c *Conn) ForgetUDP(match func(port uint16) bool) error {
	var b Batch
	b.message("list tracked connections", ctGet, unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	b.nfgen(unix.AF_INET, 0)
	b.end()
	var flows [][]byte // their original tuples
	err := c.query(&b, func() { flows = nil }, func(typ uint16, body []byte) {
		if typ>>8 != unix.NFNL_SUBSYS_CTNETLINK || len(body) < 4 {
			return
		}
		var tuple []byte
		var status uint32
		attrs(body[4:], func(typ uint16, data []byte) {
			switch typ {
			case ctaTupleOrig:
				tuple = data
			case ctaStatus:
				status = be32(data)
			}
		})
		if status&ipsDstNAT != 0 && udpTo(tuple, match) {
			flows = append(flows, bytes.Clone(tuple))
		}
	})
	for some := range slices.Chunk(flows, 500) {
		b.Reset()
		for _, tuple := range some {
			b.message("forget tracked connection", ctDelete, unix.NLM_F_REQUEST)
			b.nfgen(unix.AF_INET, 0)
			b.attr(ctaTupleOrig|unix.NLA_F_NESTED, tuple)
			b.end()
			b.Ignore(unix.ENOENT) // it has just ended
		}
		if err == nil {
			err = c.Do(&b)
		}
	}
	return err
}

// udpTo reads a tuple's protocol and destination port.
func udpTo(tuple []byte, match func(port uint16) bool) bool {
	found := false
	attrs(tuple, func(typ uint16, data []byte) {
		if typ != ctaTupleProto {
			return
		}
		var proto byte
		var port uint16
		attrs(data, func(typ uint16, data []byte) {
			switch {
			case typ == ctaProtoNum && len(data) == 1:
				proto = data[0]
			case typ == ctaProtoDPort && len(data) == 2:
				port = uint16(data[0])<<8 | uint16(data[1])
			}
		})
		found = proto == unix.IPPROTO_UDP && match(port)
	})
	return found
}
