package inflate

import "io"

// errEarly is an end of input inside a member, before locate has seen it.
// It is not io.ErrUnexpectedEOF: that may be an error of the source's own.
var errEarly = errEarlyType{}

type errEarlyType struct{}

func (errEarlyType) Error() string { return io.ErrUnexpectedEOF.Error() }

// An input is the compressed stream, as bytes and as bits. Bits come from the low
// end of a byte first. RFC 1951, 3.1.1.
//
// Except inside fast, bits holds fewer than 8 bits when a symbol or a field ends, so
// that what is byte aligned begins at buf[pos].
type input struct {
	r    io.Reader
	err  error // of r; comes after all of buf is used
	buf  []byte
	pos  int // buf[pos:end] is not yet in bits
	end  int
	base int64 // offset of buf[0] in the stream

	bits  uint64 // the next bits, from the lowest; above count there are zeros
	count uint
}

func (in *input) init(r io.Reader) {
	in.r = r
	in.buf = make([]byte, inputSize+fastInput)
}

// offset is that of the first byte of which no bit is used.
func (in *input) offset() int64 { return in.base + int64(in.pos) }

// more reads more input behind what is left. It adds at least a byte, or
// returns the error of the source; at its end, errEarly.
func (in *input) more() error {
	if in.err == nil {
		in.base += int64(in.pos)
		in.end = copy(in.buf, in.buf[in.pos:in.end])
		in.pos = 0
		for empty := 0; ; empty++ {
			var n int
			n, in.err = in.r.Read(in.buf[in.end:])
			if n < 0 || n > len(in.buf)-in.end {
				n, in.err = 0, io.ErrNoProgress
			}
			in.end += n
			if n > 0 {
				return nil
			}
			if in.err == nil && empty == 100 {
				in.err = io.ErrNoProgress
			}
			if in.err != nil {
				break
			}
		}
	}
	if in.err == io.EOF {
		return errEarly
	}
	return in.err
}

// load makes count at least n, which is at most 32, and takes no byte too many.
func (in *input) load(n uint) error {
	for in.count < n {
		if in.pos == in.end {
			if err := in.more(); err != nil {
				return err
			}
		}
		in.bits |= uint64(in.buf[in.pos]) << in.count
		in.pos++
		in.count += 8
	}
	return nil
}

// take returns n bits and drops them.
func (in *input) take(n uint) (uint, error) {
	if err := in.load(n); err != nil {
		return 0, err
	}
	v := uint(in.bits & (1<<n - 1))
	in.drop(n)
	return v, nil
}

// drop drops n bits that are loaded.
func (in *input) drop(n uint) {
	in.bits >>= n
	in.count -= n
}

// align drops the rest of a byte.
func (in *input) align() { in.drop(in.count & 7) }
