package inflate

import (
	"hash/crc32"
	"io"
)

// Flags of a member. RFC 1952, 2.3.1; as in compress/gzip, FTEXT and the reserved ones mean nothing.
const (
	flagCRC     = 1 << 1
	flagExtra   = 1 << 2
	flagName    = 1 << 3
	flagComment = 1 << 4
)

const maxText = 512 // of a name or comment, with its final NUL

// member reads a gzip header, or finds the end of the stream.
func (z *Reader) member() error {
	if z.pos == z.end {
		err := z.more()
		if err == errEarly && z.began {
			return io.EOF
		}
		if err != nil {
			return err
		}
	}
	if z.began {
		switch z.buf[z.pos] {
		case 0x1f:
		case 0:
			z.state = inZeros
			return nil
		default:
			return ErrGarbage
		}
	}
	if err := z.header(); err != nil {
		return err
	}
	z.began = true
	z.crc, z.size = 0, 0
	z.first, z.crcAt = z.op, z.op
	z.state = inBlock
	return nil
}

// A summed reads bytes of a header, and their CRC-32.
type summed struct {
	in  *input
	crc uint32
}

// bytes reads len(p) bytes.
func (s *summed) bytes(p []byte) error {
	for i := range p {
		c, err := s.in.take(8)
		if err != nil {
			return err
		}
		p[i] = byte(c)
	}
	s.crc = crc32.Update(s.crc, crc32.IEEETable, p)
	return nil
}

// text skips a name or a comment, up to its NUL.
func (s *summed) text() error {
	var c [1]byte
	for range maxText {
		if err := s.bytes(c[:]); err != nil {
			return err
		}
		if c[0] == 0 {
			return nil
		}
	}
	return ErrHeader
}

func (z *Reader) header() error {
	var b [10]byte
	h := summed{in: &z.input}
	if err := h.bytes(b[:]); err != nil {
		return err
	}
	if b[0] != 0x1f || b[1] != 0x8b || b[2] != 8 {
		return ErrHeader
	}
	flags := b[3]
	if flags&flagExtra != 0 {
		if err := h.bytes(b[:2]); err != nil {
			return err
		}
		for range le.Uint16(b[:2]) {
			if err := h.bytes(b[:1]); err != nil {
				return err
			}
		}
	}
	for _, f := range [...]byte{flagName, flagComment} {
		if flags&f != 0 {
			if err := h.text(); err != nil {
				return err
			}
		}
	}
	if flags&flagCRC != 0 {
		sum := uint16(h.crc)
		if err := h.bytes(b[:2]); err != nil {
			return err
		}
		if le.Uint16(b[:2]) != sum {
			return ErrHeader
		}
	}
	return nil
}

// trailer checks a member's data.
func (z *Reader) trailer() error {
	z.align()
	crc, err := z.take(32)
	if err != nil {
		return err
	}
	size, err := z.take(32)
	if err != nil {
		return err
	}
	z.sum()
	if uint32(crc) != z.crc || uint32(size) != z.size {
		return ErrChecksum
	}
	z.state = inMember
	return nil
}

// zeros reads to the end of the stream.
func (z *Reader) zeros() error {
	for {
		for _, c := range z.buf[z.pos:z.end] {
			if c != 0 {
				return ErrGarbage
			}
			z.pos++
		}
		if err := z.more(); err == errEarly {
			return io.EOF
		} else if err != nil {
			return err
		}
	}
}
