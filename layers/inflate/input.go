package inflate

import "io"

// An input gives the bits of its source, those of a byte from the lowest up, as
// RFC 1951, 3.1.1 has it.
//
// The bytes whose bits are in the bit buffer are always those before pos: they can be
// given back.
type input struct {
	src io.Reader
	buf []byte
	pos int // buf[pos:end] is unread
	end int
	off int64 // of buf[0] in the source
	bad error // what the source said last; all before it is in buf

	bits  uint64 // the next bits; those from count up are zero
	count uint
}

const (
	// inSize is as much as a pipe gives at once.
	inSize = 128 << 10

	// lookBack is kept of bytes read, for the bit buffer to give back.
	lookBack = 8
)

// fill reads more, at least a byte unless the source is at its end or broken.
func (in *input) fill() {
	if in.bad != nil {
		return
	}
	from := max(in.pos-lookBack, 0)
	in.off += int64(from)
	in.end = copy(in.buf, in.buf[from:in.end])
	in.pos -= from
	for range 100 {
		n, err := in.src.Read(in.buf[in.end:])
		in.end += n
		in.bad = err
		if n > 0 || err != nil {
			return
		}
	}
	in.bad = io.ErrNoProgress
}

// more moves a byte into the bit buffer, which has room for it.
func (in *input) more() error {
	if in.pos == in.end {
		if in.fill(); in.pos == in.end {
			if in.bad == io.EOF {
				return io.ErrUnexpectedEOF
			}
			return in.bad
		}
	}
	in.bits |= uint64(in.buf[in.pos]) << in.count
	in.pos++
	in.count += 8
	return nil
}

// take returns the next n bits, n <= 32.
func (in *input) take(n uint) (uint32, error) {
	for in.count < n {
		if err := in.more(); err != nil {
			return 0, err
		}
	}
	v := uint32(in.bits & (1<<n - 1))
	in.drop(n)
	return v, nil
}

func (in *input) drop(n uint) {
	in.bits >>= n
	in.count -= n
}

// align drops the rest of a byte and gives whole ones back.
func (in *input) align() {
	in.pos -= int(in.count >> 3)
	in.bits, in.count = 0, 0
}

// readByte needs an aligned input.
func (in *input) readByte() (byte, error) {
	b, err := in.take(8)
	return byte(b), err
}

// offset is how far the stream is read.
func (in *input) offset() int64 { return in.off + int64(in.pos) - int64(in.count>>3) }

func (in *input) broken(why string) error { return &FormatError{in.offset(), why} }
