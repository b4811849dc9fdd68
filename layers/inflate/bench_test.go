package inflate_test

import (
	"archive/tar"
	"bytes"
	stdgzip "compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"skiff/layers/inflate"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/sys/unix"
)

const sampleSize = 16 << 20

// samples are what layers hold: programs, text, and what is compressed already. They are
// the machine's own files where it has some, so figures of two machines differ.
func samples(tb testing.TB) map[string][]byte {
	tb.Helper()
	text := archive("/usr/share", func(name string) bool {
		return strings.HasSuffix(name, ".txt") || strings.HasSuffix(name, ".py") || strings.HasSuffix(name, ".md") || strings.HasSuffix(name, ".h") ||
			strings.HasSuffix(name, ".pl") || strings.HasSuffix(name, ".pm") || strings.HasSuffix(name, ".po") || strings.HasSuffix(name, ".html")
	})
	if len(text) < sampleSize/2 {
		text = invented(sampleSize)
	}
	binaries := archive("/usr/bin", func(string) bool { return true })
	if len(binaries) < sampleSize/2 {
		binaries = invented(sampleSize)
	}
	// Every other 64 KiB cannot be compressed, as in a layer with wheels, jars and pictures.
	mixed := bytes.Clone(binaries)
	random := rand.NewChaCha8([32]byte{1})
	for i := 0; i+64<<10 <= len(mixed); i += 128 << 10 {
		random.Read(mixed[i:][:64<<10])
	}
	return map[string][]byte{"binaries": binaries, "text": text, "mixed": mixed}
}

// archive is a tar of sampleSize bytes or less.
func archive(root string, want func(name string) bool) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || !want(name) {
			return nil
		}
		data, err := os.ReadFile(name)
		if err != nil || len(data) > 4<<20 {
			return nil
		}
		if b.Len()+len(data) > sampleSize {
			return fs.SkipAll
		}
		w.WriteHeader(&tar.Header{Name: name[1:], Size: int64(len(data)), Mode: 0o644})
		w.Write(data)
		return nil
	})
	w.Close()
	return b.Bytes()
}

// invented is n bytes with repetitions and skewed frequencies, the same each time.
func invented(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	out := make([]byte, 0, n+300)
	for len(out) < n {
		if len(out) > 1000 && r.IntN(3) > 0 {
			from := len(out) - 1 - r.IntN(min(len(out)-1, 40_000))
			for range 3 + r.IntN(1+r.IntN(60)) {
				out = append(out, out[from])
				from++
			}
		} else {
			out = append(out, byte(r.NormFloat64()*20+90))
		}
	}
	return out[:n]
}

func compress(tb testing.TB, data []byte, level int) []byte {
	tb.Helper()
	var b bytes.Buffer
	z, err := stdgzip.NewWriterLevel(&b, level)
	if err != nil {
		tb.Fatal(err)
	}
	z.Write(data)
	z.Close()
	return b.Bytes()
}

// compressPieces compresses as pgzip does, and with its encoder: each MiB ends on a byte.
func compressPieces(tb testing.TB, data []byte) []byte {
	tb.Helper()
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.DefaultCompression)
	if err != nil {
		tb.Fatal(err)
	}
	for len(data) > 0 {
		n := min(len(data), 1<<20)
		z.Write(data[:n])
		z.Flush()
		data = data[n:]
	}
	z.Close()
	return b.Bytes()
}

// A sink wants data in blocks, as a hash does, and does nothing.
type sink struct{}

func (sink) Write(p []byte) (int, error) { return len(p), nil }

// BenchmarkInflate lets this package and two others take turns at the same
// data, and reports how many times the others' processor time is ours. Wall
// clocks are of no use on a machine that does other things too.
func BenchmarkInflate(b *testing.B) {
	buf := make([]byte, inflate.History+256<<10+inflate.Slack)
	readBuf := make([]byte, 256<<10)
	copyAll := func(r io.Reader, err error) {
		if err == nil {
			_, err = io.CopyBuffer(sink{}, struct{ io.Reader }{r}, readBuf)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	decoders := []func(packed []byte){
		func(packed []byte) {
			z := inflate.NewReader(bytes.NewReader(packed))
			for {
				if _, err := z.Fill(buf); err == io.EOF {
					return
				} else if err != nil {
					b.Fatal(err)
				}
			}
		},
		func(packed []byte) { copyAll(gzip.NewReader(bytes.NewReader(packed))) },
		func(packed []byte) { copyAll(stdgzip.NewReader(bytes.NewReader(packed))) },
	}
	for name, data := range samples(b) {
		streams := map[string][]byte{"pieces": compressPieces(b, data)}
		for _, level := range []int{0, 1, 6, 9} {
			streams[fmt.Sprint("level", level)] = compress(b, data, level)
		}
		for how, packed := range streams {
			b.Run(name+"/"+how, func(b *testing.B) {
				var took [3]time.Duration
				b.SetBytes(int64(len(data)))
				for b.Loop() {
					for i, decode := range decoders {
						began := processorTime()
						decode(packed)
						took[i] += processorTime() - began
					}
				}
				b.ReportMetric(0, "MB/s")
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(float64(len(data)*b.N)/1e6/took[0].Seconds(), "MB/cpu-s")
				b.ReportMetric(float64(took[1])/float64(took[0]), "x-klauspost")
				b.ReportMetric(float64(took[2])/float64(took[0]), "x-std")
			})
		}
	}
}

// processorTime is that of all threads so far.
func processorTime() time.Duration {
	var u unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
