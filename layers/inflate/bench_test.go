package inflate

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	kgzip "github.com/klauspost/compress/gzip"
)

// BenchmarkInflate compares decoders on what layers hold, made of this machine's
// files: programs, text, and half of each noise. Compare CPU time:
//
//	go test -run - -bench Inflate -cpu 1 -count 5 ./layers/inflate
func BenchmarkInflate(b *testing.B) {
	programs, text := files(b, "/usr/bin", "/usr/lib"), files(b, "/usr/share/perl", "/usr/share/doc", "/usr/include")
	mixed := append(bytes.Clone(programs[:len(programs)/2]), make([]byte, len(programs)/2)...)
	rand.NewChaCha8([32]byte{}).Read(mixed[len(mixed)/2:])
	decoders := []struct {
		name string
		open func(io.Reader) (io.Reader, error)
	}{
		{"skiff", func(r io.Reader) (io.Reader, error) { return NewReader(r), nil }},
		{"klauspost", func(r io.Reader) (io.Reader, error) { return kgzip.NewReader(r) }},
		{"std", func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) }},
	}
	for _, data := range []struct {
		name  string
		bytes []byte
		level int
	}{{"programs", programs, 6}, {"text", text, 6}, {"mixed", mixed, 6}, {"programs-1", programs, 1}, {"text-9", text, 9}} {
		stream := packed(b, data.bytes, data.level)
		for _, d := range decoders {
			b.Run(data.name+"/"+d.name, func(b *testing.B) {
				b.SetBytes(int64(len(data.bytes)))
				for b.Loop() {
					r, err := d.open(bytes.NewReader(stream))
					if err == nil {
						_, err = io.CopyBuffer(onlyWriter{io.Discard}, r, make([]byte, 256<<10))
					}
					if err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

type onlyWriter struct{ io.Writer }

// files is an archive of some 24 MB below directories, or a made-up one where there
// is less.
func files(b *testing.B, dirs ...string) []byte {
	const size = 24 << 20
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, dir := range dirs {
		filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || out.Len() > size {
				return nil
			}
			text, err := os.ReadFile(path)
			if err != nil || len(text) > size/4 {
				return nil
			}
			w.WriteHeader(&tar.Header{Name: path, Size: int64(len(text)), Mode: 0o644})
			w.Write(text)
			return nil
		})
	}
	w.Close()
	for _, content := range contents() {
		if out.Len() < size/4 {
			out.Write(content)
		}
	}
	return out.Bytes()
}
