package tarsplit

import (
	"bytes"
	"errors"
	"hash/crc32"
	"io"
	"testing"
)

// A piece is a part of an archive as a Writer sees it.
type piece struct {
	path   string // "": no file's
	offset int64
	data   []byte
}

// write makes a split of pieces, each given in two parts, and returns the archive too.
func write(pieces []piece) (split, archive []byte) {
	var b bytes.Buffer
	w := NewWriter(&b)
	for _, p := range pieces {
		archive = append(archive, p.data...)
		half := len(p.data) / 2
		if p.path == "" {
			w.Bytes(p.data[:half])
			w.Bytes(p.data[half:])
			continue
		}
		w.Begin(p.path, p.offset)
		w.Content(p.data[:half])
		w.Content(p.data[half:])
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.Bytes(), archive
}

// read makes the archive again out of the files.
func read(split []byte, files map[string][]byte) ([]byte, error) {
	r, err := NewReader(bytes.NewReader(split))
	if err != nil {
		return nil, err
	}
	var archive []byte
	for {
		rec, err := r.Next()
		if err == io.EOF {
			return archive, nil
		}
		if err != nil {
			return archive, err
		}
		archive = append(archive, rec.Bytes...)
		if rec.Zeros > 1<<24 {
			return archive, errors.New("a lot of zeros")
		}
		archive = append(archive, make([]byte, rec.Zeros)...)
		if rec.Path == "" {
			continue
		}
		var crc uint32
		for _, run := range rec.Runs {
			f := files[rec.Path]
			if run.Offset > int64(len(f)) || run.Size > int64(len(f))-run.Offset {
				return archive, errors.New("outside its file")
			}
			part := f[run.Offset:][:run.Size]
			crc = crc32.Update(crc, crc32.MakeTable(crc32.Castagnoli), part)
			archive = append(archive, part...)
		}
		if crc != rec.CRC {
			return archive, errors.New("wrong checksum")
		}
	}
}

// wantSame makes a split of pieces and reads it.
func wantSame(t *testing.T, pieces []piece) []byte {
	t.Helper()
	files := map[string][]byte{}
	for _, p := range pieces {
		if p.path != "" {
			f := files[p.path]
			if grow := int(p.offset) + len(p.data) - len(f); grow > 0 {
				f = append(f, make([]byte, grow)...)
			}
			copy(f[p.offset:], p.data)
			files[p.path] = f
		}
	}
	split, archive := write(pieces)
	again, err := read(split, files)
	if err != nil {
		t.Fatalf("%v, after %d of %d bytes", err, len(again), len(archive))
	}
	if !bytes.Equal(again, archive) {
		t.Fatalf("%d bytes became %d others", len(archive), len(again))
	}
	return split
}

func head(name string, size byte) []byte {
	b := make([]byte, 512)
	copy(b, name)
	b[130] = size
	copy(b[257:], "ustar\x00")
	return b
}

func TestHeadersAreShort(t *testing.T) {
	var pieces []piece
	for i := range byte(200) {
		name := "usr/share/doc/a-package-with-a-long-name/file-" + string('a'+i%26) + string('a'+i/26)
		body := bytes.Repeat([]byte{i}, 100)
		pieces = append(pieces, piece{data: head(name, i)}, piece{name, 0, body}, piece{data: make([]byte, 412)})
	}
	pieces = append(pieces, piece{data: make([]byte, 1024)})
	split := wantSame(t, pieces)
	if each := len(split) / 200; each > 40 {
		t.Errorf("%d bytes for each file", each)
	}
}

func TestOddPieces(t *testing.T) {
	noise := make([]byte, 1300)
	for i := range noise {
		noise[i] = byte(i*i>>3) | 1
	}
	wantSame(t, nil)
	wantSame(t, []piece{{data: []byte("x")}})
	wantSame(t, []piece{{data: noise}, {"f", 7, noise}, {data: noise[:3]}, {"f", 2000, noise[:10]}, {"f", 3000, noise}, {"g", 0, noise}})
	wantSame(t, []piece{{data: make([]byte, 5000)}, {"f", 0, noise}, {data: make([]byte, 5000)}, {data: noise}})
	wantSame(t, []piece{{"aa/b", 0, noise}, {"aa", 0, noise[:1]}, {"aa/bc", 0, noise[:2]}})
}

// What an archive does to a split, whatever it holds and however it is cut.
func FuzzWriter(f *testing.F) {
	f.Add([]byte("abc"), byte(3), byte(1))
	f.Add(bytes.Repeat(head("a/b", 5), 3), byte(200), byte(2))
	f.Fuzz(func(t *testing.T, data []byte, cut, kinds byte) {
		var pieces []piece
		ends := map[string]int64{}
		for i := 0; len(data) > 0; i++ {
			n := min(len(data), int(cut)*(i%5)+1)
			p := piece{data: data[:n]}
			if kinds>>(i%8)&1 == 1 {
				p.path = string(rune('a' + i%3))
				p.offset = ends[p.path] + int64(i%2)
				ends[p.path] = p.offset + int64(n)
			}
			pieces, data = append(pieces, p), data[n:]
		}
		wantSame(t, pieces)
	})
}

// A split may be damaged in any way: then it is an error, and soon.
func FuzzReader(f *testing.F) {
	split, _ := write([]piece{{data: head("a", 5)}, {"a", 0, []byte("hello")}, {data: make([]byte, 507)}, {data: head("b", 0)}, {data: make([]byte, 1024)}})
	f.Add(split)
	f.Add(split[:len(split)-1])
	f.Fuzz(func(t *testing.T, split []byte) {
		_, err := read(split, map[string][]byte{"a": []byte("hello")})
		if err == nil && !bytes.HasPrefix(split, []byte(magic)) {
			t.Error("it is no split")
		}
	})
}

func TestDamaged(t *testing.T) {
	split, _ := write([]piece{{data: head("a", 5)}, {"a", 0, []byte("hello")}, {data: make([]byte, 507)}})
	for n := range split {
		if _, err := read(split[:n], map[string][]byte{"a": []byte("hello")}); !errors.Is(err, ErrFormat) {
			t.Errorf("cut after %d of %d bytes: %v", n, len(split), err)
		}
	}
}
