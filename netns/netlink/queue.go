package netlink

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Message and attribute numbers of nfnetlink_queue (linux/netfilter/nfnetlink_queue.h).
const (
	queueSubsys  = unix.NFNL_SUBSYS_QUEUE << 8
	queuePacket  = queueSubsys     // NFQNL_MSG_PACKET, 0
	queueVerdict = queueSubsys | 1 // NFQNL_MSG_VERDICT
	queueConfig  = queueSubsys | 2 // NFQNL_MSG_CONFIG

	nfqaPacketHdr  = 1
	nfqaVerdictHdr = 2
	nfqaMark       = 3
	nfqaIndev      = 5
	nfqaPayload    = 10
	nfqaCapLen     = 13

	nfqaCfgCmd    = 1
	nfqaCfgParams = 2
	nfqaCfgMaxLen = 3
	nfqaCfgMask   = 4
	nfqaCfgFlags  = 5
)

// Flags for QueueFlags.
const (
	QueueFailOpen = 1 // NFQA_CFG_F_FAIL_OPEN: a full queue accepts packets instead of dropping them
	QueueGSO      = 4 // NFQA_CFG_F_GSO: packets may exceed the MTU
)

func (b *Batch) queue(op string, num uint16) {
	b.message(op+" packet queue "+itoa(int(num)), queueConfig, unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	b.nfgen(unix.AF_UNSPEC, num)
}

// QueueBind makes the socket that sends this the listener of a queue of its
// network namespace. EPERM: another socket is already. The queue goes with the socket.
func (b *Batch) QueueBind(num uint16) {
	b.queue("bind", num)
	b.attr(nfqaCfgCmd, []byte{1, 0, 0, 0}) // NFQNL_CFG_CMD_BIND; the family is ignored since 3.8
	b.end()
}

// QueueCopy says how much of each packet is copied: its first length bytes.
// 0 copies no payload.
func (b *Batch) QueueCopy(num uint16, length uint32) {
	b.queue("set copy range of", num)
	mode := byte(2) // NFQNL_COPY_PACKET
	if length == 0 {
		mode = 1 // NFQNL_COPY_META
	}
	b.attr(nfqaCfgParams, append(binary.BigEndian.AppendUint32(nil, length), mode))
	b.end()
}

// QueueMaxLen bounds the packets that wait for a verdict; the default is 1024.
func (b *Batch) QueueMaxLen(num uint16, packets uint32) {
	b.queue("set length of", num)
	b.attrBE32(nfqaCfgMaxLen, packets)
	b.end()
}

// QueueFlags sets those flags that are in mask.
func (b *Batch) QueueFlags(num uint16, flags, mask uint32) {
	b.queue("set flags of", num)
	b.attrBE32(nfqaCfgFlags, flags)
	b.attrBE32(nfqaCfgMask, mask)
	b.end()
}

// A Packet is one that waits in a queue for a verdict.
type Packet struct {
	Queue   uint16
	ID      uint32
	Proto   uint16 // EtherType: 0x0800 IPv4, 0x86dd IPv6
	Hook    uint8  // unix.NF_INET_PRE_ROUTING and friends
	Mark    uint32
	InIndex int    // interface it came in on
	Length  int    // of the whole packet; Payload may be its beginning
	Payload []byte // from the IP header on; inside the buffer that was parsed
}

// Packets calls fn for each packet in a datagram read from a queue's socket.
// Other messages, such as errors for late verdicts, are passed over.
func Packets(datagram []byte, fn func(Packet)) {
	messages(datagram, func(h header, body []byte) {
		if h.typ != queuePacket || len(body) < 4 {
			return
		}
		p := Packet{Queue: binary.BigEndian.Uint16(body[2:]), Length: -1}
		seen := false
		attrs(body[4:], func(typ uint16, data []byte) {
			switch typ {
			case nfqaPacketHdr:
				if len(data) >= 7 {
					seen = true
					p.ID, p.Proto, p.Hook = be32(data), binary.BigEndian.Uint16(data[4:]), data[6]
				}
			case nfqaMark:
				p.Mark = be32(data)
			case nfqaIndev:
				p.InIndex = int(be32(data))
			case nfqaCapLen:
				p.Length = int(be32(data))
			case nfqaPayload:
				p.Payload = data
			}
		})
		if p.Length < 0 {
			p.Length = len(p.Payload) // NFQA_CAP_LEN comes only with a cut payload
		}
		if seen {
			fn(p)
		}
	})
}

// AppendVerdict appends the message that decides about one packet: accept,
// else drop. Several may be appended and sent by one Conn.Send; the kernel
// answers only what it does not like (ENOENT: the packet is gone).
func AppendVerdict(to []byte, queue uint16, id uint32, accept bool) []byte {
	v := uint32(nfDrop)
	if accept {
		v = nfAccept
	}
	const n = headerLen + 4 + attrLen + 8
	to = binary.NativeEndian.AppendUint32(to, n)
	to = binary.NativeEndian.AppendUint16(to, queueVerdict)
	to = binary.NativeEndian.AppendUint16(to, unix.NLM_F_REQUEST)
	to = binary.NativeEndian.AppendUint32(to, 0) // sequence: no answer is looked for
	to = binary.NativeEndian.AppendUint32(to, 0) // port
	to = append(to, unix.AF_UNSPEC, 0)           // struct nfgenmsg
	to = binary.BigEndian.AppendUint16(to, queue)
	to = binary.NativeEndian.AppendUint16(to, attrLen+8)
	to = binary.NativeEndian.AppendUint16(to, nfqaVerdictHdr)
	to = binary.BigEndian.AppendUint32(to, v)
	return binary.BigEndian.AppendUint32(to, id)
}
