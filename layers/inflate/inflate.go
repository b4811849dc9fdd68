// Package inflate reads gzip: RFC 1952 around DEFLATE, RFC 1951.
//
// It exists for speed: of all that a pull does, inflating takes the most time
// (docs/pull.md). The design is libdeflate's, in Go without unsafe:
//
//   - a bit buffer of 64 bits is refilled by one load of 8 bytes, without a branch;
//   - one lookup in a table of 11 bits (literals and lengths) or 9 bits
//     (distances) gives a symbol's base, its extra bits and its code's length;
//   - up to three literals are taken between two refills;
//   - matches are copied 16 bytes at a time, past their end, inside a block that
//     begins with the 32 KiB before it.
//
// fast.go has the loop that does this while there is room on both sides;
// slow.go takes single symbols, and never a bit too many, near the end of input.
//
// What is a valid stream is decided as compress/gzip does (fuzz_test.go holds
// the two against each other), but for what follows the last member: zeros, as
// tapes and some builders leave, are read to the end; all else is ErrGarbage.
//
// Limits: it bounds memory, about 420 KiB a Reader, not output; the caller
// does. The fields of a gzip header are checked and dropped. A name or comment
// of 512 bytes is refused. No preset dictionaries, no zlib.
package inflate

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

const (
	// History is how far a match reaches back. RFC 1951, 2.
	History = 32 << 10
	// Slack is what must lie between a block and the end of its buffer: a
	// longest match that begins at the block's last byte, and what a copy of it writes too much.
	Slack = 320

	blockSize = 256 << 10 // of Next
	inputSize = 128 << 10 // of one read, or a little more: what a bufio.Reader of as much passes through
)

var le = binary.LittleEndian

var (
	// ErrHeader: no gzip member begins here, or its header is broken.
	ErrHeader = errors.New("malformed gzip header")
	// ErrCorrupt: bits that no compressor writes.
	ErrCorrupt = errors.New("corrupt deflate data")
	// ErrChecksum: a member's CRC-32 or size is not that of its data.
	ErrChecksum = errors.New("gzip checksum differs")
	// ErrGarbage: something follows the last member.
	ErrGarbage = errors.New("garbage after gzip data")
)

// An Error is a stream that is broken.
type Error struct {
	Offset int64 // in the compressed stream, of the first byte not yet used
	Err    error // one of the above, or io.ErrUnexpectedEOF
}

func (e *Error) Error() string { return fmt.Sprintf("byte %d: %v", e.Offset, e.Err) }
func (e *Error) Unwrap() error { return e.Err }

// A Reader inflates one stream of any number of members. Data and error come
// in order: what was inflated before the error comes first. Broken data is an
// *Error; an error of the source comes as it is. Every error stays.
//
// A member's data comes before its checksum is known to be right.
type Reader struct {
	input
	tables

	out   []byte // the buffer of the last Fill: history, block, slack
	op    int    // where the next byte of out goes
	first int    // of out, the member's first byte that out still holds
	crcAt int    // out[crcAt:op] is not yet in crc
	crc   uint32
	size  uint32 // of the member, without out[crcAt:op]; RFC 1952's ISIZE

	state  state
	last   bool // the DEFLATE block is the member's last
	stored int  // bytes left of a stored block
	began  bool // a member has been seen

	own  []byte // for Next
	rest []byte // for Read
	err  error
}

// A state is what comes next in the stream.
type state uint8

const (
	inMember  state = iota // a gzip header, or the end
	inBlock                // a DEFLATE block's header
	inStored               // bytes of a stored block
	inHuffman              // symbols of a compressed block
	inTrailer              // CRC-32 and ISIZE
	inZeros                // nothing but zeros
)

// NewReader returns a Reader of r. It reads r in large pieces and beyond
// the end of the last member, to r's end.
func NewReader(r io.Reader) *Reader {
	z := &Reader{}
	z.input.init(r)
	z.tables.init()
	return z
}

// Fill inflates into buf and returns the block it made there: the part of buf
// that begins at History. A block is full, within Slack bytes of what buf has room
// for, or the last before an error, which comes with the next call. At the end
// of the stream the error is io.EOF.
//
// Fill overwrites all of buf. The first thing that the next call does is to copy the last bytes of
// this block to its own buffer, which may be the same; until then nobody may
// write to buf, and many may read it.
func (z *Reader) Fill(buf []byte) (block []byte, err error) {
	if z.err != nil {
		return nil, z.err
	}
	if len(buf) <= History+Slack {
		panic("inflate: buffer too small")
	}
	z.turn(buf)
	for z.err == nil && z.op < len(z.out)-Slack {
		z.err = z.step()
	}
	z.sum()
	z.err = z.locate(z.err)
	if block = z.out[History:z.op]; len(block) > 0 {
		return block, nil
	}
	return nil, z.err
}

// turn begins a block in buf with the history of the last one.
func (z *Reader) turn(buf []byte) {
	if z.out == nil {
		z.out, z.op = buf, History
		z.first, z.crcAt = History, History
		return
	}
	gone := z.op - History
	copy(buf[:History], z.out[gone:z.op])
	z.out, z.op = buf, History
	z.first = max(0, z.first-gone)
	z.crcAt = History
}

// step does what z.state says, as far as there is room in out.
func (z *Reader) step() error {
	switch z.state {
	case inMember:
		return z.member()
	case inBlock:
		return z.block()
	case inStored:
		return z.copyStored()
	case inHuffman:
		return z.huffman()
	case inTrailer:
		return z.trailer()
	}
	return z.zeros()
}

// sum brings crc and size up to op.
func (z *Reader) sum() {
	fresh := z.out[z.crcAt:z.op]
	z.crc = crc32.Update(z.crc, crc32.IEEETable, fresh)
	z.size += uint32(len(fresh))
	z.crcAt = z.op
}

// locate gives an error about the data its place.
func (z *Reader) locate(err error) error {
	if err == z.input.err {
		return err
	}
	switch err {
	case ErrHeader, ErrCorrupt, ErrChecksum, ErrGarbage, errEarly:
		if err == errEarly {
			err = io.ErrUnexpectedEOF
		}
		return &Error{z.offset(), err}
	}
	return err
}

// Next returns the next block, of about 256 KiB. It belongs to z, and is
// overwritten by the next call of any method. The error is Fill's.
func (z *Reader) Next() ([]byte, error) {
	if len(z.rest) > 0 {
		block := z.rest
		z.rest = nil
		return block, nil
	}
	if z.own == nil {
		z.own = make([]byte, History+blockSize+Slack)
	}
	return z.Fill(z.own)
}

// Read is io.Reader's.
func (z *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(z.rest) == 0 {
		block, err := z.Next()
		if err != nil {
			return 0, err
		}
		z.rest = block
	}
	n := copy(p, z.rest)
	z.rest = z.rest[n:]
	return n, nil
}

// WriteTo is io.WriterTo's: it hands blocks to w without copying them.
func (z *Reader) WriteTo(w io.Writer) (n int64, err error) {
	for {
		block, err := z.Next()
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		k, err := w.Write(block)
		n += int64(k)
		if err == nil && k < len(block) {
			err = io.ErrShortWrite
		}
		if err != nil {
			return n, err
		}
	}
}
