// Package tarsplit keeps what a tar archive holds besides the contents of its
// files, so that with the unpacked files the archive can be made again, byte for
// byte, and with it its digest.
//
// A Writer sees the archive go by, in pieces that are contents of files and
// pieces that are not: headers, names, padding, the end. It writes records:
//
//	raw    n bytes of the archive as they are
//	zero   n bytes of zeros
//	delta  a block of 512 bytes, by what differs from the last one
//	file   the content of a file, or parts of it: path, runs, CRC-32C
//
// One header differs from the one before in its name, size, time and checksum,
// so that a file takes some 60 bytes here, at the price of one comparison.
// Nothing is compressed: a run of a compressor would take longer than all the rest.
//
// The CRC says which file is damaged when the archive's digest, which alone
// proves anything, no longer holds.
//
// Limits: the paths in the records are the writer's; whoever opens them must
// keep to the layer's directory.
package tarsplit

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// magic begins a split; its number goes up with the format.
const magic = "skiff split 1\n"

// The kinds of records. Numbers in them are uvarints.
const (
	opEnd   = iota // nothing follows
	opRaw          // n, n bytes
	opZero         // n
	opDelta        // number of patches; each: bytes to skip, n, n bytes
	opFile         // bytes of the last path to keep, n, n bytes; number of runs; each: offset, size; CRC-32C, 4 bytes
)

const (
	block = 512

	// maxPath bounds a path: PATH_MAX of Linux. maxRuns bounds the runs of one record;
	// a file with more has several records.
	maxPath = 4096
	maxRuns = 1 << 17

	// maxRaw is how much one raw record holds.
	maxRaw = 64 << 10
)

// ErrFormat is a split that is damaged.
var ErrFormat = errors.New("the record of the archive is damaged")

// A Run is a part of a file that the archive holds.
type Run struct{ Offset, Size int64 }

// A Writer makes a split of an archive that goes by. Its errors are those of the
// destination, and stay.
type Writer struct {
	w     io.Writer
	out   []byte // what is not yet written
	err   error
	table *crc32.Table

	off   int64 // in the archive
	part  []byte
	last  [block]byte // the last block that was no zeros
	zeros int64       // not yet written

	path  string // of the last file record
	file  bool
	files int // records begun
	runs  []Run
	crc   uint32
}

// NewWriter begins a split.
func NewWriter(w io.Writer) *Writer {
	s := &Writer{w: w, out: make([]byte, 0, 2*maxRaw), part: make([]byte, 0, block), table: crc32.MakeTable(crc32.Castagnoli)}
	s.out = append(s.out, magic...)
	return s
}

// Bytes takes the archive's next bytes that are not a file's.
func (s *Writer) Bytes(b []byte) {
	s.endFile()
	for len(b) > 0 {
		// Up to the next block's border, where headers begin.
		n := min(len(b), block-int(s.off%block))
		if n == block {
			s.block(b[:n])
		} else {
			s.part = append(s.part, b[:n]...)
			if (s.off+int64(n))%block == 0 {
				s.endPart()
			}
		}
		s.off += int64(n)
		b = b[n:]
	}
}

// Begin says that content follows that belongs at an offset of a file.
func (s *Writer) Begin(path string, offset int64) {
	s.endPart()
	if s.file && s.path == path && len(s.runs) < maxRuns {
		s.runs = append(s.runs, Run{Offset: offset})
		return
	}
	s.endFile()
	s.endZeros()
	keep := 0
	for keep < len(path) && keep < len(s.path) && path[keep] == s.path[keep] {
		keep++
	}
	s.op(opFile, int64(keep), int64(len(path)-keep))
	s.out = append(s.out, path[keep:]...)
	s.path, s.file, s.crc = path, true, 0
	s.files++
	s.runs = append(s.runs[:0], Run{Offset: offset})
}

// Content takes the archive's next bytes, which are the file's of the last Begin.
func (s *Writer) Content(b []byte) {
	s.crc = crc32.Update(s.crc, s.table, b)
	s.runs[len(s.runs)-1].Size += int64(len(b))
	s.off += int64(len(b))
}

// Files is how many file records have been begun.
func (s *Writer) Files() int { return s.files }

// Copy takes what a record of another split stands for.
func (s *Writer) Copy(r Record) {
	s.endFile()
	switch {
	case r.Path != "":
		for _, run := range r.Runs {
			s.Begin(r.Path, run.Offset)
			s.runs[len(s.runs)-1] = run
			s.off += run.Size
		}
		s.crc = r.CRC
		s.endFile()
	case r.Zeros > 0:
		s.endPart()
		s.zeros += r.Zeros
		s.off += r.Zeros
	default:
		s.Bytes(r.Bytes)
	}
}

// Close writes what is left. It does not close the destination.
func (s *Writer) Close() error {
	s.endFile()
	s.endPart()
	s.endZeros()
	s.op(opEnd)
	s.flush()
	return s.err
}

func (s *Writer) endFile() {
	if !s.file {
		return
	}
	s.file = false
	s.number(int64(len(s.runs)))
	for _, r := range s.runs {
		s.number(r.Offset)
		s.number(r.Size)
	}
	s.out = binary.LittleEndian.AppendUint32(s.out, s.crc)
	s.flushSome()
}

// endPart writes a block that has been gathered, or what there is of one.
func (s *Writer) endPart() {
	if len(s.part) == block {
		s.block(s.part)
	} else if len(s.part) > 0 {
		s.odd(s.part)
	}
	s.part = s.part[:0]
}

func (s *Writer) odd(b []byte) {
	if isZero(b) {
		s.zeros += int64(len(b))
		return
	}
	s.endZeros()
	s.op(opRaw, int64(len(b)))
	s.out = append(s.out, b...)
	s.flushSome()
}

func (s *Writer) block(b []byte) {
	if isZero(b) {
		s.zeros += block
		return
	}
	s.endZeros()
	start := len(s.out)
	if !s.delta(b) {
		s.out = s.out[:start]
		s.op(opRaw, block)
		s.out = append(s.out, b...)
	}
	copy(s.last[:], b)
	s.flushSome()
}

// delta writes a block by its patches, or half of it if they would not be shorter
// than the block: then it reports false.
func (s *Writer) delta(b []byte) bool {
	s.out = append(s.out, opDelta, 0)
	count := len(s.out) - 1
	patches, at := 0, 0
	for i := 0; i < block; {
		// Most of a header is the same: eight bytes at once.
		if i+8 <= block && binary.LittleEndian.Uint64(b[i:]) == binary.LittleEndian.Uint64(s.last[i:]) {
			i += 8
			continue
		}
		if b[i] == s.last[i] {
			i++
			continue
		}
		// A patch ends where four bytes are the same: a new one would take three.
		end, same := i+1, 0
		for j := end; j < block && same < 4; j++ {
			if b[j] == s.last[j] {
				same++
			} else {
				end, same = j+1, 0
			}
		}
		s.number(int64(i - at))
		s.number(int64(end - i))
		s.out = append(s.out, b[i:end]...)
		if patches++; patches > 127 || len(s.out)-count > block {
			return false
		}
		i, at = end, end
	}
	s.out[count] = byte(patches)
	return true
}

func (s *Writer) endZeros() {
	if s.zeros > 0 {
		s.op(opZero, s.zeros)
		s.zeros = 0
	}
}

func (s *Writer) op(kind byte, numbers ...int64) {
	s.out = append(s.out, kind)
	for _, n := range numbers {
		s.number(n)
	}
}

func (s *Writer) number(n int64) { s.out = binary.AppendUvarint(s.out, uint64(n)) }

func (s *Writer) flushSome() {
	if len(s.out) >= maxRaw {
		s.flush()
	}
}

func (s *Writer) flush() {
	if s.err == nil {
		_, s.err = s.w.Write(s.out)
	}
	s.out = s.out[:0]
}

func isZero(b []byte) bool {
	for ; len(b) >= 8; b = b[8:] {
		if binary.LittleEndian.Uint64(b) != 0 {
			return false
		}
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// A Record is what the archive continues with: bytes, zeros or a file's content.
type Record struct {
	Bytes []byte // valid until the next call
	Zeros int64

	Path string // not empty: a file's
	Runs []Run  // likewise valid until the next call
	CRC  uint32 // CRC-32C of the runs' content
}

// A Reader reads a split.
type Reader struct {
	r    *bufio.Reader
	last [block]byte
	raw  []byte
	path []byte
	runs []Run
}

// NewReader checks the beginning.
func NewReader(r io.Reader) (*Reader, error) {
	s := &Reader{r: bufio.NewReaderSize(r, maxRaw)}
	head, err := s.take(len(magic))
	if err != nil {
		return nil, err
	}
	if string(head) != magic {
		return nil, fmt.Errorf("%w: it begins with %q", ErrFormat, head)
	}
	return s, nil
}

// Next returns the next record, and io.EOF after the last. Anything else than a whole split
// is an error that wraps ErrFormat, or one of the source.
func (s *Reader) Next() (Record, error) {
	op, err := s.take(1)
	if err != nil {
		return Record{}, err
	}
	switch op[0] {
	case opEnd:
		return Record{}, io.EOF
	case opRaw:
		n, err := s.number(maxRaw)
		if err != nil {
			return Record{}, err
		}
		b, err := s.take(int(n))
		if err == nil && len(b) == block {
			copy(s.last[:], b)
		}
		return Record{Bytes: b}, err
	case opZero:
		n, err := s.number(1 << 62)
		return Record{Zeros: n}, err
	case opDelta:
		err := s.patch()
		return Record{Bytes: s.last[:]}, err
	case opFile:
		return s.file()
	}
	return Record{}, fmt.Errorf("%w: a record of kind %d", ErrFormat, op[0])
}

func (s *Reader) patch() error {
	patches, err := s.number(127)
	if err != nil {
		return err
	}
	at := int64(0)
	for range patches {
		skip, err := s.number(block - at)
		if err != nil {
			return err
		}
		at += skip
		n, err := s.number(block - at)
		if err != nil {
			return err
		}
		b, err := s.take(int(n))
		if err != nil {
			return err
		}
		copy(s.last[at:], b)
		at += n
	}
	return nil
}

func (s *Reader) file() (Record, error) {
	keep, err := s.number(int64(len(s.path)))
	if err != nil {
		return Record{}, err
	}
	n, err := s.number(maxPath)
	if err != nil {
		return Record{}, err
	}
	rest, err := s.take(int(n))
	if err != nil {
		return Record{}, err
	}
	if s.path = append(s.path[:keep], rest...); len(s.path) == 0 {
		return Record{}, fmt.Errorf("%w: a file without a name", ErrFormat)
	}
	count, err := s.number(maxRuns)
	if err != nil {
		return Record{}, err
	}
	s.runs = s.runs[:0]
	for range count {
		var r Run
		if r.Offset, err = s.number(1 << 62); err != nil {
			return Record{}, err
		}
		if r.Size, err = s.number(1 << 62); err != nil {
			return Record{}, err
		}
		s.runs = append(s.runs, r)
	}
	sum, err := s.take(4)
	if err != nil {
		return Record{}, err
	}
	return Record{Path: string(s.path), Runs: s.runs, CRC: binary.LittleEndian.Uint32(sum)}, nil
}

// number reads one of at most limit.
func (s *Reader) number(limit int64) (int64, error) {
	n, err := binary.ReadUvarint(s.r)
	if err == nil && n > uint64(limit) {
		return 0, fmt.Errorf("%w: a number of %d", ErrFormat, n)
	}
	return int64(n), damaged(err)
}

// take reads n bytes; the next call may overwrite them.
func (s *Reader) take(n int) ([]byte, error) {
	if cap(s.raw) < n {
		s.raw = make([]byte, max(n, block))
	}
	b := s.raw[:n]
	_, err := io.ReadFull(s.r, b)
	return b, damaged(err)
}

// damaged is what an end in the middle means.
func damaged(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("%w: it ends early", ErrFormat)
	}
	return err
}
