package layers

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
)

// archive/tar hides the map of a sparse file and serves its holes as zeros, so
// the archive is read here. What is accepted follows archive/tar, against which
// this reader is fuzzed; where it differs, it refuses more.

const (
	tarBlock = 512

	// maxMeta bounds a PAX header, a GNU long name and the map of a sparse file, in
	// bytes of the archive, like archive/tar's maxSpecialFileSize.
	maxMeta = 1 << 20
)

// Types of entries. Source: POSIX.1-2017 pax, "ustar Interchange Format"; GNU
// tar manual, "Basic Tar Format".
const (
	typeOldRegular = 0
	typeRegular    = '0'
	typeLink       = '1'
	typeSymlink    = '2'
	typeChar       = '3'
	typeBlock      = '4'
	typeDir        = '5'
	typeFIFO       = '6'
	typeContiguous = '7'
	typePAX        = 'x'
	typePAXGlobal  = 'g'
	typeGNUName    = 'L'
	typeGNULink    = 'K'
	typeGNUSparse  = 'S'
)

// A header is one entry of an archive.
type header struct {
	name, link   string // any bytes but NUL
	typ          byte
	mode         uint32 // permission bits, set-id bits and sticky bit
	uid, gid     int64  // as written; may be negative or too large
	size         int64  // of the file, bytes; 0 for what has no content
	stored       int64  // of its content in the archive
	mtime        timestamp
	major, minor int64
	xattrs       []xattr
	sparse       []fragment // where stored bytes belong, if isSparse
	isSparse     bool
}

// A timestamp counts from 1970; nsec is 0 to 999999999.
type timestamp struct {
	sec  int64
	nsec int32
}

type xattr struct{ name, value string }

// A tarReader takes the stream apart.
type tarReader struct {
	s       *stream
	content int64 // bytes of the current entry not yet taken
	padding int64 // after them
	block   [tarBlock]byte
}

func malformed(format string, a ...any) error {
	return fmt.Errorf("%w: %s", ErrFormat, fmt.Sprintf(format, a...))
}

// next reads up to and including the next header, past what is left of the
// last entry. The error is io.EOF at the end of the archive, of which two blocks
// of zeros, one, or none are left.
func (t *tarReader) next(h *header) error {
	if err := t.s.discard(t.content + t.padding); err != nil {
		return err
	}
	t.content, t.padding = 0, 0
	var records paxRecords
	var longName, longLink string
	for first := true; ; first = false {
		if err := t.readBlock(); err != nil {
			if err == io.EOF && !first {
				return io.ErrUnexpectedEOF
			}
			return err
		}
		if err := t.parse(h); err != nil {
			return err
		}
		switch h.typ {
		case typePAX, typePAXGlobal, typeGNUName, typeGNULink:
			text, err := t.meta(h.size)
			if err != nil {
				return err
			}
			switch h.typ {
			case typePAX:
				if records, err = parsePAX(text); err != nil {
					return err
				}
			case typePAXGlobal:
				// Ignored as docker does, but not if it is broken.
				global, err := parsePAX(text)
				if err == nil {
					err = global.merge(h)
				}
				if err != nil {
					return err
				}
			case typeGNUName:
				longName = cstring(text)
			case typeGNULink:
				longLink = cstring(text)
			}
			continue
		}
		if err := records.merge(h); err != nil {
			return err
		}
		if longName != "" {
			h.name = longName
		}
		if longLink != "" {
			h.link = longLink
		}
		if h.typ == typeOldRegular {
			h.typ = typeRegular
			if len(h.name) > 0 && h.name[len(h.name)-1] == '/' {
				h.typ = typeDir
			}
		}
		return t.open(h, records)
	}
}

// open finds out where the content of h lies.
func (t *tarReader) open(h *header, records paxRecords) error {
	if h.size < 0 {
		return malformed("entry %s has a size of %d", quote(h.name), h.size)
	}
	switch h.typ {
	case typeLink, typeSymlink, typeChar, typeBlock, typeDir, typeFIFO:
		h.size = 0
	}
	h.stored = h.size
	t.content = h.size
	t.padding = -h.size & (tarBlock - 1)
	if err := t.openSparse(h, records); err != nil {
		return err
	}
	// What remains is content; a map has been read.
	h.stored = t.content
	return nil
}

// readBlock reads one block, and a second one if it is zero. Zero blocks in
// number give io.EOF.
func (t *tarReader) readBlock() error {
	if err := t.s.full(t.block[:]); err != nil {
		return err
	}
	if t.block != [tarBlock]byte{} {
		return nil
	}
	if err := t.s.full(t.block[:]); err != nil {
		return err
	}
	if t.block != [tarBlock]byte{} {
		return malformed("a block of zeros between entries")
	}
	return io.EOF
}

// meta reads the content of a header that describes the next one.
func (t *tarReader) meta(size int64) ([]byte, error) {
	if size < 0 || size > maxMeta {
		return nil, malformed("an extended header of %d bytes", size)
	}
	text := make([]byte, size)
	if err := unexpected(t.s.full(text)); err != nil {
		return nil, err
	}
	return text, unexpected(t.s.discard(-size & (tarBlock - 1)))
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// parse reads t.block as a header of any format.
// Source: the tables in GNU tar's tar.h and POSIX pax; star(5) for its prefix.
func (t *tarReader) parse(h *header) error {
	b := t.block[:]
	if !checksum(b) {
		return malformed("wrong header checksum")
	}
	var bad error
	number := func(from, size int) int64 {
		n, ok := parseNumber(b[from:][:size])
		if !ok && bad == nil {
			bad = malformed("bad number in the header of entry %s", quote(cstring(b[:100])))
		}
		return n
	}
	*h = header{
		name: cstring(b[0:100]), link: cstring(b[157:257]), typ: b[156],
		mode: uint32(number(100, 8)) & 0o7777,
		uid:  number(108, 8), gid: number(116, 8), size: number(124, 12),
		mtime: timestamp{sec: number(136, 12)},
	}
	magic := string(b[257:265])
	if magic != magicGNU && magic[:6] != magicUSTAR {
		return bad
	}
	h.major, h.minor = number(329, 8), number(337, 8)
	prefix := ""
	switch {
	case magic != magicGNU && string(b[508:512]) == "tar\x00":
		prefix = cstring(b[345:476])
	case magic != magicGNU:
		prefix = cstring(b[345:500])
	default:
		// Writers of Go before 1.8 put a prefix where GNU has two times.
		_, ok1 := parseNumber(b[345:357])
		_, ok2 := parseNumber(b[357:369])
		if p := cstring(b[345:500]); b[345] != 0 && (!ok1 || b[357] != 0 && !ok2) && isASCII(p) {
			prefix = p
		}
	}
	if prefix != "" {
		h.name = prefix + "/" + h.name
	}
	return bad
}

const (
	magicUSTAR = "ustar\x00"
	magicGNU   = "ustar  \x00"
)

// checksum takes the sum of the header's bytes, its own field counted as
// spaces; some writers added them up as signed.
func checksum(b []byte) bool {
	want, ok := parseOctal(b[148:156])
	if !ok {
		return false
	}
	var unsigned, signed int64
	for i, c := range b[:tarBlock] {
		if i >= 148 && i < 156 {
			c = ' '
		}
		unsigned += int64(c)
		signed += int64(int8(c))
	}
	return want == unsigned || want == signed
}

// parseNumber reads octal digits, or GNU's big-endian two's complement, marked
// by the first bit.
func parseNumber(b []byte) (int64, bool) {
	if b[0]&0x80 == 0 {
		return parseOctal(b)
	}
	var invert byte
	if b[0]&0x40 != 0 {
		invert = 0xff
	}
	var n uint64
	for i, c := range b {
		c ^= invert
		if i == 0 {
			c &= 0x7f
		}
		if n>>56 != 0 {
			return 0, false
		}
		n = n<<8 | uint64(c)
	}
	if n>>63 != 0 {
		return 0, false
	}
	if invert != 0 {
		return ^int64(n), true
	}
	return int64(n), true
}

func parseOctal(b []byte) (int64, bool) {
	s := cstring(bytes.Trim(b, " \x00"))
	if s == "" {
		return 0, true
	}
	n, err := strconv.ParseUint(s, 8, 63)
	return int64(n), err == nil
}

func cstring(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}
