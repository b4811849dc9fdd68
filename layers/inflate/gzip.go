// Package inflate decompresses gzip: RFC 1952 around RFC 1951.
//
//	in ─► bits ─► codes, looked up in tables ─► window ─► Read
//
// A layer's gzip stream is what a pull spends most of its time on, so this decoder
// is made for speed: it refills a 64-bit bit buffer without a branch, looks 11 bits
// up at once, takes up to two literals from one entry, and copies matches by words.
// It accepts and refuses the streams that compress/gzip does, with the same bytes;
// a fuzz test compares the two.
//
// Limits: no preset dictionaries, no names or times of members. It never allocates
// after New, and uses no unsafe code: a broken stream can only be an error.
package inflate

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// A FormatError is a stream that is no gzip, or is damaged.
type FormatError struct {
	Offset int64 // in the compressed stream, within a few bytes of the damage
	Why    string
}

func (e *FormatError) Error() string { return fmt.Sprintf("%s at byte %d", e.Why, e.Offset) }

// ErrGarbage is what follows the last member and is neither another nor zeros.
var ErrGarbage = errors.New("garbage after gzip data")

// A Reader decompresses one gzip stream of one or more members. After the last
// there may be zeros, as tapes and some builders leave, and nothing else.
type Reader struct {
	input
	state  state
	final  bool // the block is its member's last
	window window
	lit    [litSize]uint32
	dist   [distSize]uint32
	fixed  bool // lit and dist are those of fixed blocks
	stored int  // bytes left of a stored block
	one    [1]byte
	err    error
}

// A state is what comes next in the stream.
type state uint8

const (
	atMember state = iota // a header
	atBlock               // the first bits of a block
	inStored
	inCodes
	atTrailer
	atNext // another member, zeros, or the end
)

// NewReader reads nothing yet. It may read more of src than the stream takes.
func NewReader(src io.Reader) *Reader {
	r := &Reader{input: input{src: src, buf: make([]byte, inSize)}}
	r.window.buf = make([]byte, windowSize)
	return r
}

// Read returns uncompressed bytes. At the end of the last member, with its
// checksum and size verified, the error is io.EOF. A stream that ends early is
// io.ErrUnexpectedEOF, a broken one a *FormatError or wraps ErrGarbage; errors of the
// source come as they are. The bytes before an error are those that its place allows.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for r.window.handed == r.window.end {
		if r.err != nil {
			return 0, r.err
		}
		r.window.slide()
		r.run()
	}
	n := copy(p, r.window.buf[r.window.handed:r.window.end])
	r.window.handed += n
	return n, nil
}

// run decodes until the window is full or the stream ends.
func (r *Reader) run() {
	for r.err == nil && r.window.end < windowFull {
		switch r.state {
		case atMember:
			r.err = r.header()
			r.state = atBlock
			r.window.begin()
		case atBlock:
			r.err = r.block()
		case inStored:
			r.err = r.copyStored()
		case inCodes:
			r.err = r.codes()
		case atTrailer:
			r.err = r.trailer()
			r.state = atNext
		case atNext:
			r.err = r.next()
			r.state = atMember
		}
	}
	r.window.sum()
}

// flags of a member's header. Reserved ones are ignored, as others do.
const (
	hasCRC     = 1 << 1
	hasExtra   = 1 << 2
	hasName    = 1 << 3
	hasComment = 1 << 4
)

// maxName bounds a name or comment with its end, as compress/gzip does.
const maxName = 512

// header reads a member's header. Source: RFC 1952, 2.3.
func (r *Reader) header() error {
	var crc uint32
	take := func() (byte, error) {
		b, err := r.readByte()
		r.one[0] = b
		crc = crc32.Update(crc, crc32.IEEETable, r.one[:])
		return b, err
	}
	var h [10]byte
	for i := range h {
		var err error
		if h[i], err = take(); err != nil {
			return err
		}
	}
	if h[0] != 0x1f || h[1] != 0x8b || h[2] != 8 {
		return r.broken("no gzip header")
	}
	flags := h[3]
	if flags&hasExtra != 0 {
		lo, err := take()
		if err != nil {
			return err
		}
		hi, err := take()
		if err != nil {
			return err
		}
		for range int(hi)<<8 | int(lo) {
			if _, err := take(); err != nil {
				return err
			}
		}
	}
	for _, text := range []byte{hasName, hasComment} {
		for n := 0; flags&text != 0; n++ {
			if n == maxName {
				return r.broken("a name in the gzip header has no end")
			}
			b, err := take()
			if err != nil {
				return err
			}
			if b == 0 {
				break
			}
		}
	}
	if flags&hasCRC != 0 {
		want := uint16(crc)
		lo, err := take()
		if err != nil {
			return err
		}
		hi, err := take()
		if err != nil {
			return err
		}
		if uint16(hi)<<8|uint16(lo) != want {
			return r.broken("checksum of the gzip header is wrong")
		}
	}
	return nil
}

// trailer verifies what a member says of its content. Source: RFC 1952, 2.3.1.
func (r *Reader) trailer() error {
	r.align()
	var t [8]byte
	for i := range t {
		var err error
		if t[i], err = r.readByte(); err != nil {
			return err
		}
	}
	r.window.sum()
	if binary.LittleEndian.Uint32(t[:]) != r.window.crc {
		return r.broken("checksum of the content is wrong")
	}
	if binary.LittleEndian.Uint32(t[4:]) != uint32(r.window.size) {
		return r.broken("size of the content is wrong")
	}
	return nil
}

// next finds the beginning of another member, or the end as io.EOF.
func (r *Reader) next() error {
	b, err := r.readByte()
	if err == io.ErrUnexpectedEOF {
		return io.EOF
	}
	if err != nil {
		return err
	}
	switch b {
	case 0x1f:
		r.pos-- // it is in the buffer still
		return nil
	case 0:
		return r.zeros()
	}
	return fmt.Errorf("%w at byte %d", ErrGarbage, r.offset())
}

// zeros reads to the end of the source.
func (r *Reader) zeros() error {
	for {
		switch b, err := r.readByte(); {
		case err == io.ErrUnexpectedEOF:
			return io.EOF
		case err != nil:
			return err
		case b != 0:
			return fmt.Errorf("%w at byte %d", ErrGarbage, r.offset())
		}
	}
}

// A window is the uncompressed bytes: those of the past that a match may reach,
// those to be handed out, and room for more.
type window struct {
	buf    []byte
	low    int // where the member begins, as far as it is here
	handed int // buf[handed:end] is still to be handed out
	end    int
	summed int    // buf[summed:end] is not in crc and size yet
	crc    uint32 // of the member
	size   uint64
}

const (
	maxDistance = 32 << 10

	// windowFull is where decoding pauses: a block of the usual size in the second-level
	// cache, besides the past.
	windowFull = maxDistance + 256<<10

	// What one turn of the fast loop may write past windowFull: literals, the longest
	// match, and the rest of the last word of that.
	windowSize = windowFull + 8 + 258 + 32
)

// begin starts a member, whose matches reach no further back.
func (w *window) begin() { w.low, w.summed, w.crc, w.size = w.end, w.end, 0, 0 }

// slide makes room. All is handed out.
func (w *window) slide() {
	w.sum()
	past := min(w.end-w.low, maxDistance)
	copy(w.buf, w.buf[w.end-past:w.end])
	w.low, w.handed, w.summed, w.end = 0, past, past, past
}

// sum adds what has come since the last time.
func (w *window) sum() {
	fresh := w.buf[w.summed:w.end]
	w.crc = crc32.Update(w.crc, crc32.IEEETable, fresh)
	w.size += uint64(len(fresh))
	w.summed = w.end
}
