package inflate_test

import (
	"bytes"
	"compress/flate"
	stdgzip "compress/gzip"
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"io"
	"math/rand/v2"

	"skiff/layers/inflate"

	kflate "github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
)

// A stream is one for a table of tests.
type stream struct {
	name   string
	packed []byte
	want   error // nil: it is right
}

// A bitWriter writes fields from the lowest bit, and codes from the highest.
// RFC 1951, 3.1.1.
type bitWriter struct {
	out []byte
	n   int
}

func (w *bitWriter) field(n int, v uint32) *bitWriter {
	for i := range n {
		if w.n%8 == 0 {
			w.out = append(w.out, 0)
		}
		w.out[w.n/8] |= byte(v>>i&1) << (w.n % 8)
		w.n++
	}
	return w
}

func (w *bitWriter) code(n int, v uint32) *bitWriter {
	for i := n - 1; i >= 0; i-- {
		w.field(1, v>>i)
	}
	return w
}

var gzipHeader = []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff}

// wrapped puts a header before raw DEFLATE, and after it what trailer suits the data there.
func wrapped(raw []byte) []byte {
	r := bytes.NewReader(raw)
	data, err := io.ReadAll(io.LimitReader(flate.NewReader(r), 8<<20))
	out := append(bytes.Clone(gzipHeader), raw[:len(raw)-r.Len()]...)
	if err == nil {
		out = binary.LittleEndian.AppendUint32(out, crc32.ChecksumIEEE(data))
		out = binary.LittleEndian.AppendUint32(out, uint32(len(data)))
	}
	return out
}

// dynamic begins the last block of a member, of 257+hlit and 1+hdist codes, whose
// lengths follow; their own code has 0 for 1 bit, and 1, 2, 18 for 2, 3, 3:
// "0" is length 0, "10" 1, "110" 2, "111" a run of 11 and more zeros.
func dynamic(hlit, hdist uint32) *bitWriter {
	w := new(bitWriter).field(1, 1).field(2, 2).field(5, hlit).field(5, hdist).field(4, 14)
	own := map[int]uint32{0: 1, 1: 2, 2: 3, 18: 3}
	for _, s := range []int{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1} {
		w.field(3, own[s])
	}
	return w
}

// zeros adds n lengths of 0, n at least 11.
func (w *bitWriter) zeros(n int) *bitWriter {
	for n > 0 {
		k := min(n, 138)
		if n-k > 0 && n-k < 11 {
			k = n - 11
		}
		w.code(3, 7).field(7, uint32(k-11))
		n -= k
	}
	return w
}

func streams() []stream {
	text := bytes.Repeat([]byte("all work and no play makes jack a dull boy. "), 60)
	noise := make([]byte, 3000)
	rand.NewChaCha8([32]byte{2}).Read(noise)
	both := append(append(bytes.Clone(text), noise...), text...)
	skewed := invented(20_000)

	var all []stream
	add := func(name string, packed []byte, want error) {
		all = append(all, stream{name, packed, want})
	}
	member := func(data []byte, level int) []byte {
		var b bytes.Buffer
		z, _ := stdgzip.NewWriterLevel(&b, level)
		z.Write(data)
		z.Close()
		return b.Bytes()
	}
	for level := -2; level <= 9; level++ {
		for _, data := range [][]byte{nil, []byte("x"), text, noise, both, skewed} {
			add("stdlib", member(data, level), nil)
			var b bytes.Buffer
			z, _ := gzip.NewWriterLevel(&b, max(level, -3))
			z.Write(data)
			z.Flush() // as pgzip's pieces end
			z.Write(data)
			z.Close()
			add("klauspost", b.Bytes(), nil)
		}
	}
	var stateless bytes.Buffer
	z := kflate.NewStatelessWriter(&stateless)
	z.Write(both)
	z.Close()
	add("fixed codes of klauspost", wrapped(stateless.Bytes()), nil)

	one := member(text, 6)
	add("two members", append(bytes.Clone(one), member(both, 1)...), nil)
	add("two members, the second empty", append(bytes.Clone(one), member(nil, 1)...), nil)
	add("zeros after", append(bytes.Clone(one), make([]byte, 700)...), nil)
	add("garbage after", append(bytes.Clone(one), "garbage"...), inflate.ErrGarbage)
	add("garbage after zeros", append(bytes.Clone(one), 0, 0, 1), inflate.ErrGarbage)
	add("member after zeros", append(append(bytes.Clone(one), 0), one...), inflate.ErrGarbage)
	add("half a magic after", append(bytes.Clone(one), 0x1f), io.ErrUnexpectedEOF)
	add("wrong magic after", append(bytes.Clone(one), []byte("\x1f is not all of it")...), inflate.ErrHeader)
	add("nothing", nil, io.ErrUnexpectedEOF)
	add("no gzip", []byte("PK\x03\x04 and so on"), inflate.ErrHeader)
	add("other method", append([]byte{0x1f, 0x8b, 7}, one[3:]...), inflate.ErrHeader)
	for _, end := range []int{1, 9, 10, 11, len(one) / 2, len(one) - 9, len(one) - 8, len(one) - 4, len(one) - 1} {
		add("cut", one[:end], io.ErrUnexpectedEOF)
	}
	flip := func(at int) []byte {
		b := bytes.Clone(one)
		b[len(b)+at] ^= 1
		return b
	}
	add("wrong checksum", flip(-8), inflate.ErrChecksum)
	add("wrong size", flip(-1), inflate.ErrChecksum)

	// Headers. RFC 1952, 2.3.
	head := func(flags byte, fields string) []byte {
		h := append([]byte{0x1f, 0x8b, 8, flags, 1, 2, 3, 4, 0, 3}, fields...)
		if flags&2 != 0 {
			h = binary.LittleEndian.AppendUint16(h, uint16(crc32.ChecksumIEEE(h)))
		}
		return append(h, one[10:]...)
	}
	long := string(bytes.Repeat([]byte{'n'}, 511))
	add("all fields", head(2|4|8|16, "\x03\x00abcname\x00a comment\x00"), nil)
	add("reserved flags and text", head(0xe1, ""), nil)
	add("long name", head(8, long+"\x00"), nil)
	add("longer name", head(8, long+"n\x00"), inflate.ErrHeader)
	add("empty extra field", head(4, "\x00\x00"), nil)
	bad := head(2, "")
	bad[10] ^= 1
	add("wrong header checksum", bad, inflate.ErrHeader)
	add("extra field cut", head(4, "\xff\xff"), io.ErrUnexpectedEOF)
	add("header checksum cut", bad[:11], io.ErrUnexpectedEOF)

	// DEFLATE. After the bits of an error come zeros, that nobody takes it for an end.
	raw := func(name string, w *bitWriter, want error) {
		if want != nil {
			w.out = append(w.out, make([]byte, 64)...)
			add(name, append(bytes.Clone(gzipHeader), w.out...), want)
			return
		}
		add(name, wrapped(w.out), nil)
	}
	fixed := func() *bitWriter { return new(bitWriter).field(1, 1).field(2, 1) }
	raw("block type 3", new(bitWriter).field(1, 1).field(2, 3), inflate.ErrCorrupt)
	raw("stored, empty", new(bitWriter).field(8, 1).field(32, 0xffff0000), nil)
	raw("stored, wrong complement", new(bitWriter).field(8, 1).field(32, 0xffff0001), inflate.ErrCorrupt)
	raw("fixed, empty", fixed().code(7, 0), nil)
	raw("fixed, literal 286", fixed().code(8, 0xc6), inflate.ErrCorrupt)
	raw("fixed, literal 287", fixed().code(8, 0xc7), inflate.ErrCorrupt)
	raw("fixed, distance before the start", fixed().code(8, 0x30).code(7, 1).code(5, 1), inflate.ErrCorrupt)
	raw("fixed, distance 30", fixed().code(8, 0x30).code(7, 1).code(5, 30), inflate.ErrCorrupt)
	raw("fixed, distance 31", fixed().code(8, 0x30).code(7, 1).code(5, 31), inflate.ErrCorrupt)
	raw("fixed, 258 by length 285", fixed().code(8, 0x30).code(8, 0xc5).code(5, 0).code(7, 0), nil)
	raw("fixed, 258 by length 284", fixed().code(8, 0x30).code(8, 0xc4).field(5, 31).code(5, 0).code(7, 0), nil)
	raw("no end of block", dynamic(0, 0).code(2, 2).code(2, 2).zeros(255).code(1, 0), inflate.ErrCorrupt)
	raw("only an end of block, no distance", dynamic(0, 0).zeros(256).code(2, 2).code(1, 0).code(1, 0), nil)
	raw("only an end of block, the other bit", dynamic(0, 0).zeros(256).code(2, 2).code(1, 0).code(1, 1), inflate.ErrCorrupt)
	raw("only an end of block, of 2 bits", dynamic(0, 0).zeros(256).code(3, 6).code(1, 0).code(2, 0), inflate.ErrCorrupt)
	raw("too many codes of 1 bit", dynamic(0, 0).code(2, 2).code(2, 2).zeros(254).code(2, 2).code(1, 0), inflate.ErrCorrupt)
	raw("too few codes", dynamic(0, 0).code(2, 2).zeros(255).code(3, 6).code(1, 0), inflate.ErrCorrupt)
	// Literals 0 and length 3 take 2 bits, the end of the block 1; one distance.
	match := func(dists ...uint32) *bitWriter {
		w := dynamic(1, uint32(len(dists)-1)).code(3, 6).zeros(255).code(2, 2).code(3, 6)
		for _, n := range dists {
			w.code([]int{1, 2, 3}[n], []uint32{0, 2, 6}[n])
		}
		return w.code(2, 2)
	}
	raw("one distance of 1 bit", match(1).code(2, 3).code(1, 0).code(1, 0), nil)
	raw("one distance of 1 bit, the other bit", match(1).code(2, 3).code(1, 1).code(1, 0), inflate.ErrCorrupt)
	raw("one distance of 2 bits", match(2).code(2, 3).code(2, 0).code(1, 0), inflate.ErrCorrupt)
	raw("no distance, a match", match(0).code(2, 3).code(1, 0).code(1, 0), inflate.ErrCorrupt)
	raw("no distance, no match", match(0).code(2, 2).code(1, 0), nil)
	raw("two distances of 2 bits", match(2, 2).code(2, 2).code(1, 0), inflate.ErrCorrupt)
	raw("287 literals", dynamic(30, 0), inflate.ErrCorrupt)
	raw("31 distances", dynamic(0, 30), inflate.ErrCorrupt)
	raw("run beyond the codes", dynamic(0, 0).zeros(138).zeros(138), inflate.ErrCorrupt)

	// Streams that broke other decoders, from compress/flate's TestStreams.
	for _, s := range []string{
		"05e0010004000000000000000000e97cff7f", "05c0010000000000000000", "05fd01240000f8c07f", "15e0010004000000000000000000",
		"04c0010400000000000000ff", "04c0010400000000000000fe", "0d8085000000000400000000", "05e0010c0000000000" + "0400000000",
		"1d000000", "0bc00f", "6300", "4bcd", "01000000", "010000ff", "0101", "3a05", "0df8ff", "6345" + "0000",
	} {
		b, err := hex.DecodeString(s)
		if err != nil {
			panic(err)
		}
		add("hex", wrapped(b), errAny)
	}
	return all
}
