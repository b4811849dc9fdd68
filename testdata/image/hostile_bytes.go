package image

import (
	"bytes"
	"io"
	"math/rand/v2"
	"strings"

	"github.com/klauspost/compress/gzip"
)

// broken are archives with wrong bytes in them.
func broken() []Case {
	badSum := File("x", "x").bytes()
	badSum[0] ^= 1
	good := L(File("x", "x"))
	random := make([]byte, 10<<10)
	src := rand.NewChaCha8([32]byte{1})
	src.Read(random)
	random[0] = 'n' // no compression's magic
	raw := func(b []byte) Layer { return Layer{Tar: func(w io.Writer) error { _, err := w.Write(b); return err }} }
	return []Case{
		refused(37, "size-negative", "malformed", L(File("x", "x").Claim(-1))),
		refused(37, "size-negative-pax", "malformed", L(File("x", "x").WithPAX("size", "-512"))),
		refused(37, "size-2^62", "malformed", L(File("x", "x").Claim(1<<62))),
		refused(37, "size-2^63-1", "malformed", L(File("x", "x").Claim(1<<63-1))),
		refused(37, "size-truncated", "malformed", raw(File("x", "xx").Claim(100000).bytes())),
		refused(37, "size-of-pax-2^62", "malformed", L(Raw(header("p", 'x', 1<<62, Entry{})))),
		contained(37, "size-of-dir", tree(`d 0755 d`, `f 0644 x "x"`), L(Dir("d").Claim(1<<40), File("x", "x"))),
		refused(38, "checksum", "malformed", L(Raw(badSum))),
		refused(38, "random", "malformed", raw(random)),
		refused(38, "half-a-header", "malformed", raw(File("x", "x").bytes()[:700])),
		refused(38, "zero-block-between", "malformed", raw(bytes.Join([][]byte{File("x", "x").bytes(), make([]byte, blockSize), File("y", "y").bytes()}, nil))),
		refused(38, "unknown-type", "unknown type", L(Entry{Name: "x", Type: 'Z'})),
		refused(38, "empty-name", "malformed", L(File("", "x"))),
		refused(38, "pax-without-entry", "malformed", raw(PAX('x', PAXRecord("path", "x")).bytes())),
		contained(38, "no-end-blocks", tree(`f 0644 x "x"`), raw(File("x", "x").bytes())),
		contained(38, "one-end-block", tree(`f 0644 x "x"`), raw(append(File("x", "x").bytes(), make([]byte, blockSize)...))),
		refused(39, "pax-64MiB", "malformed", Layer{Tar: func(w io.Writer) error {
			text := PAXRecord("comment", strings.Repeat("c", 64<<20))
			if _, err := w.Write(PAX('x', text).bytes()); err != nil {
				return err
			}
			return good.WriteTar(w)
		}}),
		refused(39, "pax-lengths", "malformed", L(PAX('x', "999999999 path=x\n"), File("x", "x"))),
		refused(39, "pax-length-overflow", "malformed", L(PAX('x', "18446744073709551626 path=x\n"), File("x", "x"))),
		contained(40, "sparse-holes", tree(`f 0644 disk 1099511627775 bytes`),
			L(Sparse("disk", "headtail", 1<<40-1, [2]int64{0, 4}, [2]int64{1<<40 - 6, 4}))),
		contained(40, "sparse-old", tree(`f 0644 disk 1073741824 bytes`), L(OldSparse("disk", "data", 1<<30, [2]int64{4096, 4}))),
		contained(40, "sparse-0.1", tree(`f 0644 disk 1000000 bytes`), L(File("disk", "abcd").WithPAX("GNU.sparse.major", "0").
			WithPAX("GNU.sparse.minor", "1").WithPAX("GNU.sparse.numblocks", "2").WithPAX("GNU.sparse.map", "0,2,500000,2").
			WithPAX("GNU.sparse.size", "1000000"))),
		refused(40, "sparse-8EiB", "file too large", L(Sparse("disk", "", 1<<63-1))),
		refused(40, "sparse-map-bomb", "malformed", L(File("x", padTo("1000000000000\n")).WithPAX("GNU.sparse.major", "1").WithPAX("GNU.sparse.minor", "0"))),
		refused(40, "sparse-map-endless", "malformed", L(File("x", strings.Repeat("1", 4096)).WithPAX("GNU.sparse.major", "1").WithPAX("GNU.sparse.minor", "0"))),
		refused(40, "sparse-overlap", "malformed", L(Sparse("x", "abcdef", 100, [2]int64{0, 4}, [2]int64{2, 2}))),
		refused(40, "sparse-beyond", "malformed", L(Sparse("x", "abcd", 100, [2]int64{98, 4}))),
		refused(40, "sparse-negative", "malformed", L(Sparse("x", "abcd", 100, [2]int64{-4, 4}))),
		refused(40, "sparse-short", "malformed", L(Sparse("x", "ab", 100, [2]int64{0, 4}))),
		refused(40, "sparse-name-dotdot", escapes, L(Sparse("../x", "abcd", 100, [2]int64{0, 4}))),
		contained(46, "bytes-after-end", tree(`f 0644 x "x"`), Layer{Tar: func(w io.Writer) error {
			if err := good.WriteTar(w); err != nil {
				return err
			}
			return L(File("after", "after")).WriteTar(w)
		}}),
	}
}

func padTo(s string) string { return string(padded([]byte(s))) }

// bombSize is what a gzip bomb unfolds to: twice the memory that skiff may take.
const bombSize = 512 << 20

// compressed are blobs that are odd around a good archive.
func compressed() []Case {
	good := L(File("x", "x"))
	goodTree := tree(`f 0644 x "x"`)
	blob := func(b []byte) Layer {
		l := good
		l.Blob = func(w io.Writer) error { _, err := w.Write(b); return err }
		return l
	}
	packed := good.Bytes()
	var members bytes.Buffer
	var tar bytes.Buffer
	good.WriteTar(&tar)
	for part := range bytes.SplitSeq(tar.Bytes(), []byte("ustar")) {
		if members.Len() > 0 {
			part = append([]byte("ustar"), part...)
		}
		z := gzip.NewWriter(&members)
		z.Write(part)
		z.Close()
	}
	flipped := bytes.Clone(packed)
	flipped[len(flipped)-6] ^= 0xff // in the checksum
	zstdLayer := good
	zstdLayer.Packing = Zstd
	plainLayer := good
	plainLayer.Packing = Plain
	mislabelled := func(l Layer, as Layer) Layer {
		t, _ := as.V1().MediaType()
		l.MediaType = t
		return l
	}
	bomb := Case{Number: 41, Name: "gzip-bomb", Refused: true, Word: "exceeds its limit", MaxBytes: 64 << 20,
		Layers: []Layer{{Tar: func(w io.Writer) error {
			const size = bombSize
			if _, err := w.Write(header("bomb", '0', size, Entry{Mode: 0o644, MTime: 1e9})); err != nil {
				return err
			}
			return zeros(w, size+2*blockSize)
		}}}}
	tail := Case{Number: 41, Name: "gzip-bomb-after-end", Refused: true, Word: "exceeds its limit", MaxBytes: 64 << 20,
		Layers: []Layer{{Tar: func(w io.Writer) error {
			if err := good.WriteTar(w); err != nil {
				return err
			}
			return zeros(w, bombSize)
		}}}}
	return []Case{
		bomb, tail,
		refused(42, "gzip-truncated", "malformed", blob(packed[:len(packed)-9])),
		refused(42, "gzip-truncated-trailer", "malformed", blob(packed[:len(packed)-1])),
		refused(42, "gzip-header-only", "malformed", blob(packed[:5])),
		refused(42, "gzip-checksum", "malformed", blob(flipped)),
		refused(43, "garbage-after-gzip", "garbage after gzip", blob(append(bytes.Clone(packed), "garbage"...))),
		refused(43, "garbage-after-zeros", "garbage after gzip", blob(append(bytes.Clone(packed), 0, 0, 'x'))),
		contained(43, "zeros-after-gzip", goodTree, blob(append(bytes.Clone(packed), make([]byte, 1000)...))),
		contained(45, "gzip-members", goodTree, blob(members.Bytes())),
		contained(47, "zstd", goodTree, zstdLayer),
		contained(47, "plain", goodTree, plainLayer),
		contained(47, "plain-labelled-gzip", goodTree, mislabelled(plainLayer, good)),
		contained(47, "gzip-labelled-zstd", goodTree, mislabelled(good, zstdLayer)),
		contained(47, "zstd-labelled-plain", goodTree, mislabelled(zstdLayer, plainLayer)),
		contained(47, "empty-blob", tree(), Layer{Packing: Plain, Tar: func(io.Writer) error { return nil }}),
		contained(47, "empty-gzip", tree(), Layer{Tar: func(io.Writer) error { return nil }}),
		refused(47, "zstd-truncated", "malformed", blob(zstdLayer.Bytes()[:20])),
		refused(47, "zstd-window", "malformed", blob([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xf8, 0x03, 0, 0, 'x'})),
		refused(47, "xz", "xz", blob([]byte("\xfd7zXZ\x00\x00\x00"))),
		refused(47, "bzip2", "bzip2", blob([]byte("BZh91AY&SY"))),
	}
}
