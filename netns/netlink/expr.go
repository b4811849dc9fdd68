package netlink

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// An Expr is one nftables expression or a few, encoded. Those that match stop
// the rule for packets that do not; others load registers or decide.
//
// Registers 1 to 4 hold 16 bytes each (unix.NFT_REG_1 and following).
type Expr struct {
	list []byte // NFTA_LIST_ELEM attributes
	err  *Error
}

const (
	reg1 = unix.NFT_REG_1
	reg2 = unix.NFT_REG_2
)

// expr encodes one expression; fill appends its attributes.
func expr(name string, fill func(b *Batch)) Expr {
	b := Batch{buf: make([]byte, 0, 96)}
	at := b.nest(unix.NFTA_LIST_ELEM)
	b.attrStr(unix.NFTA_EXPR_NAME, name, 32)
	data := b.nest(unix.NFTA_EXPR_DATA)
	fill(&b)
	b.unnest(data)
	b.unnest(at)
	return Expr{list: b.buf, err: b.err}
}

// All joins expressions into one that can be used where an Expr is wanted.
func All(exprs ...Expr) Expr {
	var all Expr
	for _, x := range exprs {
		all.list = append(all.list, x.list...)
		if all.err == nil {
			all.err = x.err
		}
	}
	return all
}

// Meta loads something about the packet: unix.NFT_META_*.
func Meta(key, reg uint32) Expr {
	return expr("meta", func(b *Batch) {
		b.attrBE32(unix.NFTA_META_DREG, reg)
		b.attrBE32(unix.NFTA_META_KEY, key)
	})
}

// MetaSet stores a register, such as into the packet's mark.
func MetaSet(key, reg uint32) Expr {
	return expr("meta", func(b *Batch) {
		b.attrBE32(unix.NFTA_META_SREG, reg)
		b.attrBE32(unix.NFTA_META_KEY, key)
	})
}

// Cmp matches if the register compares to data: unix.NFT_CMP_EQ and friends.
func Cmp(reg, op uint32, data []byte) Expr {
	return expr("cmp", func(b *Batch) {
		b.attrBE32(unix.NFTA_CMP_SREG, reg)
		b.attrBE32(unix.NFTA_CMP_OP, op)
		b.data(unix.NFTA_CMP_DATA, data)
	})
}

// Payload loads n bytes of the packet, counted from
// unix.NFT_PAYLOAD_LL_HEADER, _NETWORK_HEADER or _TRANSPORT_HEADER.
func Payload(reg, base, offset, n uint32) Expr {
	return expr("payload", func(b *Batch) {
		b.attrBE32(unix.NFTA_PAYLOAD_DREG, reg)
		b.attrBE32(unix.NFTA_PAYLOAD_BASE, base)
		b.attrBE32(unix.NFTA_PAYLOAD_OFFSET, offset)
		b.attrBE32(unix.NFTA_PAYLOAD_LEN, n)
	})
}

// Bitwise replaces the register by (register & mask) ^ xor; both are as long
// as the value.
func Bitwise(reg uint32, mask, xor []byte) Expr {
	return expr("bitwise", func(b *Batch) {
		if len(mask) != len(xor) {
			b.fail(unix.EINVAL, "mask and xor of unlike length")
		}
		b.attrBE32(unix.NFTA_BITWISE_SREG, reg)
		b.attrBE32(unix.NFTA_BITWISE_DREG, reg)
		b.attrBE32(unix.NFTA_BITWISE_LEN, uint32(len(mask)))
		b.data(unix.NFTA_BITWISE_MASK, mask)
		b.data(unix.NFTA_BITWISE_XOR, xor)
	})
}

// Immediate loads a constant.
func Immediate(reg uint32, v []byte) Expr {
	return expr("immediate", func(b *Batch) {
		b.attrBE32(unix.NFTA_IMMEDIATE_DREG, reg)
		b.data(unix.NFTA_IMMEDIATE_DATA, v)
	})
}

// verdict decides about the packet; chain is for jump and goto.
func verdict(code int32, chain string) Expr {
	return expr("immediate", func(b *Batch) {
		b.attrBE32(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT)
		d := b.nest(unix.NFTA_IMMEDIATE_DATA)
		v := b.nest(unix.NFTA_DATA_VERDICT)
		b.attrBE32(unix.NFTA_VERDICT_CODE, uint32(code))
		if chain != "" {
			b.attrStr(unix.NFTA_VERDICT_CHAIN, chain, maxNftName)
		}
		b.unnest(v)
		b.unnest(d)
	})
}

// Accept ends this base chain for the packet; others still see it.
func Accept() Expr { return verdict(nfAccept, "") }

// Drop discards the packet, finally.
func Drop() Expr { return verdict(nfDrop, "") }

// Jump continues in a chain of the same table and comes back.
func Jump(chain string) Expr { return verdict(unix.NFT_JUMP, chain) }

// Return leaves the chain.
func Return() Expr { return verdict(unix.NFT_RETURN, "") }

// Ct loads something about the packet's connection: unix.NFT_CT_*.
func Ct(key, reg uint32) Expr {
	return expr("ct", func(b *Batch) {
		b.attrBE32(unix.NFTA_CT_DREG, reg)
		b.attrBE32(unix.NFTA_CT_KEY, key)
	})
}

// Connection states for CtState (enum ip_conntrack_info as nft's bit mask).
const (
	CtInvalid     = 1
	CtEstablished = 2
	CtRelated     = 4
	CtNew         = 8
)

// CtState matches if the connection is in one of the states of mask.
func CtState(mask uint32) Expr {
	m := binary.NativeEndian.AppendUint32(nil, mask)
	return All(Ct(unix.NFT_CT_STATE, reg1), Bitwise(reg1, m, zeros(4)), Cmp(reg1, unix.NFT_CMP_NEQ, zeros(4)))
}

// CtDNAT matches connections whose destination was rewritten
// (IPS_DST_NAT, linux/netfilter/nf_conntrack_common.h).
func CtDNAT() Expr {
	m := binary.NativeEndian.AppendUint32(nil, 1<<5)
	return All(Ct(unix.NFT_CT_STATUS, reg1), Bitwise(reg1, m, zeros(4)), Cmp(reg1, unix.NFT_CMP_NEQ, zeros(4)))
}

// SNAT rewrites the source to the address in addrReg and, unless it is 0, the
// port in portReg. family is FamilyIPv4 or FamilyIPv6. Chains of type nat only.
func SNAT(family, addrReg, portReg uint32) Expr {
	return nat(unix.NFT_NAT_SNAT, family, addrReg, portReg)
}

// DNAT rewrites the destination, as SNAT the source.
func DNAT(family, addrReg, portReg uint32) Expr {
	return nat(unix.NFT_NAT_DNAT, family, addrReg, portReg)
}

func nat(typ, family, addrReg, portReg uint32) Expr {
	return expr("nat", func(b *Batch) {
		b.attrBE32(unix.NFTA_NAT_TYPE, typ)
		b.attrBE32(unix.NFTA_NAT_FAMILY, family)
		if addrReg != 0 {
			b.attrBE32(unix.NFTA_NAT_REG_ADDR_MIN, addrReg)
		}
		if portReg != 0 {
			b.attrBE32(unix.NFTA_NAT_REG_PROTO_MIN, portReg)
		}
	})
}

// Masquerade rewrites the source to the outgoing interface's address.
func Masquerade() Expr { return expr("masq", func(*Batch) {}) }

// Redirect rewrites the destination to this host, and to the port in portReg
// unless that is 0 (network byte order).
func Redirect(portReg uint32) Expr {
	return expr("redir", func(b *Batch) {
		if portReg != 0 {
			b.attrBE32(unix.NFTA_REDIR_REG_PROTO_MIN, portReg)
		}
	})
}

// RedirectTo is Redirect to a constant port.
func RedirectTo(port uint16) Expr { return All(Immediate(reg1, be16(port)), Redirect(reg1)) }

// TProxy hands the packet to a transparent socket of this host: one bound to
// the address in addrReg (0: any) and the port in portReg (network byte order).
// Chains of type filter at prerouting only. ENOENT: the kernel has no nft_tproxy.
func TProxy(family, addrReg, portReg uint32) Expr {
	return expr("tproxy", func(b *Batch) {
		b.attrBE32(1, family) // NFTA_TPROXY_FAMILY, linux/netfilter/nf_tables.h
		if addrReg != 0 {
			b.attrBE32(2, addrReg) // NFTA_TPROXY_REG_ADDR
		}
		if portReg != 0 {
			b.attrBE32(3, portReg) // NFTA_TPROXY_REG_PORT
		}
	})
}

// TProxyTo is TProxy to a constant port, whatever the address.
func TProxyTo(family uint32, port uint16) Expr {
	return All(Immediate(reg1, be16(port)), TProxy(family, 0, reg1))
}

// Queue hands the packet to one of total NFQUEUEs from num on. flags:
// unix.NFT_QUEUE_FLAG_BYPASS accepts packets while nobody listens.
// ENOENT: the kernel has no nft_queue; QueueCompat may still work.
func Queue(num, total, flags uint16) Expr {
	return expr("queue", func(b *Batch) {
		b.attrBE16(unix.NFTA_QUEUE_NUM, num)
		b.attrBE16(unix.NFTA_QUEUE_TOTAL, max(total, 1))
		if flags != 0 {
			b.attrBE16(unix.NFTA_QUEUE_FLAGS, flags)
		}
	})
}

// QueueCompat is Queue through iptables' NFQUEUE target (nft_compat and
// xt_NFQUEUE), revision 1: struct xt_NFQ_info_v1, padded to 8 bytes.
func QueueCompat(num, total uint16) Expr {
	info := binary.NativeEndian.AppendUint16(nil, num)
	info = binary.NativeEndian.AppendUint16(info, max(total, 1))
	return Target("NFQUEUE", 1, append(info, zeros(4)...))
}

// Target performs an iptables target. info is its private structure, padded to
// 8 bytes (XT_ALIGN); the kernel checks its size.
func Target(name string, rev uint32, info []byte) Expr {
	return expr("target", func(b *Batch) { // enum nft_target_attributes, linux/netfilter/nf_tables_compat.h
		b.attrStr(1, name, 29) // XT_EXTENSION_MAXNAMELEN
		b.attrBE32(2, rev)
		b.attr(3, info)
	})
}

// Fib looks up a route. result is unix.NFT_FIB_RESULT_*, flags are
// unix.NFTA_FIB_F_*.
func Fib(reg, result, flags uint32) Expr {
	return expr("fib", func(b *Batch) {
		b.attrBE32(unix.NFTA_FIB_DREG, reg)
		b.attrBE32(unix.NFTA_FIB_RESULT, result)
		b.attrBE32(unix.NFTA_FIB_FLAGS, flags)
	})
}

// Spoofed matches packets whose source address is not reached through the
// interface they came in on (strict reverse path filtering, RFC 3704).
func Spoofed() Expr {
	return All(Fib(reg1, unix.NFT_FIB_RESULT_OIF, unix.NFTA_FIB_F_SADDR|unix.NFTA_FIB_F_IIF),
		Cmp(reg1, unix.NFT_CMP_EQ, zeros(4)))
}

// ICMPType matches an ICMP message type; L4Proto goes before, with unix.IPPROTO_ICMP or IPPROTO_ICMPV6.
func ICMPType(typ byte) Expr {
	return All(Payload(reg1, unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 1), Cmp(reg1, unix.NFT_CMP_EQ, []byte{typ}))
}

// ToLocal matches packets whose destination is an address of this host.
func ToLocal() Expr {
	return All(Fib(reg1, unix.NFT_FIB_RESULT_ADDRTYPE, unix.NFTA_FIB_F_DADDR),
		Cmp(reg1, unix.NFT_CMP_EQ, binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL)))
}

// Limit matches rate packets per unit seconds, and burst more at once.
func Limit(rate, unit uint64, burst uint32) Expr {
	return expr("limit", func(b *Batch) {
		b.attrBE64(unix.NFTA_LIMIT_RATE, rate)
		b.attrBE64(unix.NFTA_LIMIT_UNIT, unit)
		b.attrBE32(unix.NFTA_LIMIT_BURST, burst)
		b.attrBE32(unix.NFTA_LIMIT_TYPE, unix.NFT_LIMIT_PKTS)
	})
}

// Counter counts packets and bytes.
func Counter() Expr {
	return expr("counter", func(b *Batch) {
		b.attrBE64(unix.NFTA_COUNTER_BYTES, 0)
		b.attrBE64(unix.NFTA_COUNTER_PACKETS, 0)
	})
}

// Lookup matches if the register is a key of the set, or loads a map's value
// into dreg unless that is 0. id is Transaction.NewSet's, 0 for an older set.
func Lookup(set string, id, sreg, dreg uint32) Expr {
	return expr("lookup", func(b *Batch) {
		b.attrStr(unix.NFTA_LOOKUP_SET, set, maxNftName)
		b.attrBE32(unix.NFTA_LOOKUP_SREG, sreg)
		if dreg != 0 {
			b.attrBE32(unix.NFTA_LOOKUP_DREG, dreg)
		}
		if id != 0 {
			b.attrBE32(unix.NFTA_LOOKUP_SET_ID, id)
		}
	})
}

// Reject answers with an error: unix.NFT_REJECT_TCP_RST, _ICMP_UNREACH or
// _ICMPX_UNREACH with its code.
func Reject(typ uint32, code uint8) Expr {
	return expr("reject", func(b *Batch) {
		b.attrBE32(unix.NFTA_REJECT_TYPE, typ)
		b.attrU8(unix.NFTA_REJECT_ICMP_CODE, code)
	})
}

// IIfName matches the interface a packet came in on; OIfName, goes out on.
func IIfName(name string) Expr { return ifName(unix.NFT_META_IIFNAME, unix.NFT_CMP_EQ, name) }

// OIfName matches the interface that a packet goes out on.
func OIfName(name string) Expr { return ifName(unix.NFT_META_OIFNAME, unix.NFT_CMP_EQ, name) }

// NotIIfName matches packets that did not come in on the interface.
func NotIIfName(name string) Expr { return ifName(unix.NFT_META_IIFNAME, unix.NFT_CMP_NEQ, name) }

// NotOIfName matches packets that do not go out on the interface.
func NotOIfName(name string) Expr { return ifName(unix.NFT_META_OIFNAME, unix.NFT_CMP_NEQ, name) }

// IIfPrefix matches interfaces whose names begin with prefix ("skf*" in nft).
func IIfPrefix(prefix string) Expr { return ifPrefix(unix.NFT_META_IIFNAME, unix.NFT_CMP_EQ, prefix) }

// OIfPrefix is IIfPrefix for the interface that a packet goes out on.
func OIfPrefix(prefix string) Expr { return ifPrefix(unix.NFT_META_OIFNAME, unix.NFT_CMP_EQ, prefix) }

// NotOIfPrefix matches what OIfPrefix does not.
func NotOIfPrefix(prefix string) Expr {
	return ifPrefix(unix.NFT_META_OIFNAME, unix.NFT_CMP_NEQ, prefix)
}

// ifPrefix compares the beginning of a name only.
func ifPrefix(key, op uint32, prefix string) Expr {
	if prefix == "" || len(prefix) >= unix.IFNAMSIZ {
		return Expr{err: &Error{Errno: unix.EINVAL, Msg: "interface name of wrong length"}}
	}
	return All(Meta(key, reg1), Cmp(reg1, op, []byte(prefix)))
}

func ifName(key, op uint32, name string) Expr {
	if name == "" || len(name) >= unix.IFNAMSIZ {
		return Expr{err: &Error{Errno: unix.EINVAL, Msg: "interface name of wrong length"}}
	}
	d := make([]byte, unix.IFNAMSIZ)
	copy(d, name)
	return All(Meta(key, reg1), Cmp(reg1, op, d))
}

// L4Proto matches the transport protocol: unix.IPPROTO_TCP and friends.
func L4Proto(proto byte) Expr {
	return All(Meta(unix.NFT_META_L4PROTO, reg1), Cmp(reg1, unix.NFT_CMP_EQ, []byte{proto}))
}

// NFProto matches FamilyIPv4 or FamilyIPv6 in tables of FamilyINet.
func NFProto(family byte) Expr {
	return All(Meta(unix.NFT_META_NFPROTO, reg1), Cmp(reg1, unix.NFT_CMP_EQ, []byte{family}))
}

// Source matches packets from p; in a table of FamilyINet, NFProto goes before.
func Source(p netip.Prefix) Expr { return addr(p, 12, 8, unix.NFT_CMP_EQ) }

// NotSource matches packets not from p.
func NotSource(p netip.Prefix) Expr { return addr(p, 12, 8, unix.NFT_CMP_NEQ) }

// Dest matches packets to p.
func Dest(p netip.Prefix) Expr { return addr(p, 16, 24, unix.NFT_CMP_EQ) }

// NotDest matches packets not to p.
func NotDest(p netip.Prefix) Expr { return addr(p, 16, 24, unix.NFT_CMP_NEQ) }

// addr compares an address at its offset in the IPv4 or IPv6 header.
func addr(p netip.Prefix, at4, at6, op uint32) Expr {
	if !p.IsValid() {
		return Expr{err: &Error{Errno: unix.EINVAL, Msg: "no prefix"}}
	}
	a, at := p.Masked().Addr(), at4
	if a.Is6() {
		at = at6
	}
	v := a.AsSlice()
	x := Payload(reg1, unix.NFT_PAYLOAD_NETWORK_HEADER, at, uint32(len(v)))
	if p.Bits() < a.BitLen() {
		mask := make([]byte, len(v))
		for i := range p.Bits() {
			mask[i/8] |= 0x80 >> (i % 8)
		}
		x = All(x, Bitwise(reg1, mask, zeros(len(v))))
	}
	return All(x, Cmp(reg1, op, v))
}

// DPort matches the destination port; L4Proto goes before.
func DPort(port uint16) Expr {
	return All(Payload(reg1, unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2), Cmp(reg1, unix.NFT_CMP_EQ, be16(port)))
}

// TCPFlags matches if the flags in mask are as in value (FIN 1, SYN 2, RST 4,
// ACK 16); L4Proto(unix.IPPROTO_TCP) goes before.
func TCPFlags(mask, value byte) Expr {
	return All(Payload(reg1, unix.NFT_PAYLOAD_TRANSPORT_HEADER, 13, 1),
		Bitwise(reg1, []byte{mask}, []byte{0}), Cmp(reg1, unix.NFT_CMP_EQ, []byte{value}))
}

func be16(v uint16) []byte { return []byte{byte(v >> 8), byte(v)} }
func zeros(n int) []byte   { return make([]byte, n) }
