package layers

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"skiff/internal/need"
	"skiff/testdata/image"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

var long = flag.Bool("long", false, "run the tests that take minutes")

// Case 50: time grows with the entries and memory hardly at all. In memory if
// there is such a place: what a disk takes for so many files varies 40-fold.
func TestManyEntries(t *testing.T) {
	n := 200_000
	if *long {
		n = 1_000_000
	}
	var fs unix.Statfs_t
	inMemory := unix.Statfs("/dev/shm", &fs) == nil && fs.Type == unix.TMPFS_MAGIC && fs.Bavail*uint64(fs.Bsize) > uint64(n)<<11 && fs.Ffree > uint64(n)+1e5
	if inMemory {
		t.Setenv("TMPDIR", "/dev/shm")
	}
	staging := place(t)
	w := start(t, staging, anyKind(t))
	run := func(dir string, n int) time.Duration {
		blob := image.ManyOf(n, 0).Bytes()
		os.Mkdir(filepath.Join(staging, dir), 0o755)
		began := time.Now()
		r, err := w.Unpack(context.Background(), Job{Dir: dir}, bytes.NewReader(blob))
		took := time.Since(began)
		t.Logf("%d entries in %v, %.0f a second", r.Entries, took, float64(r.Entries)/took.Seconds())
		if err != nil || r.Entries != int64(n+(n+99)/100) {
			t.Errorf("%+v %v", r, err)
		}
		if err := w.Remove(context.Background(), dir); err != nil {
			t.Error(err)
		}
		return took
	}
	part, whole := run("part", n/8), run("whole", n)
	if whole > 24*part+time.Second {
		t.Errorf("eight times the entries took %v instead of %v", whole, part)
	}
	peak := statusField(t, w.life.task.PID, "VmHWM")
	t.Logf("peak %d KiB", peak)
	if peak > 256<<10 {
		t.Errorf("memory peaked at %d KiB", peak)
	}
}

// A worker's memory stays bounded where a layer tries to fill it: with the names
// of directories, and with the largest zstd window that codec takes.
func TestMemoryIsBounded(t *testing.T) {
	staging := place(t)
	name := strings.Repeat(strings.Repeat("n", 250)+"/", 16)
	dirs := image.Layer{Tar: func(w io.Writer) error {
		// One directory again and again, 4000 bytes each time.
		one := image.L(image.Dir(name))
		var b bytes.Buffer
		if err := one.WriteTar(&b); err != nil {
			return err
		}
		entry := b.Bytes()[:b.Len()-1024]
		for range 50_000 {
			if _, err := w.Write(entry); err != nil {
				return err
			}
		}
		return nil
	}}
	var window bytes.Buffer
	z, err := zstd.NewWriter(&window, zstd.WithWindowSize(128<<20), zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	random := make([]byte, 100<<20)
	rand.NewChaCha8([32]byte{}).Read(random)
	if err := image.L(image.File("x", string(random))).WriteTar(z); err != nil {
		t.Fatal(err)
	}
	z.Close()
	for _, c := range []struct {
		name string
		blob []byte
		want error
	}{{"names", dirs.Bytes(), ErrQuota}, {"window", window.Bytes(), nil}} {
		w := start(t, staging, anyKind(t))
		os.Mkdir(filepath.Join(staging, c.name), 0o755)
		_, err := w.Unpack(context.Background(), Job{Dir: c.name}, bytes.NewReader(c.blob))
		if !errors.Is(err, c.want) {
			t.Errorf("%s: error %v, want %v", c.name, err, c.want)
		}
		peak, space := statusField(t, w.life.task.PID, "VmHWM"), statusField(t, w.life.task.PID, "VmPeak")
		t.Logf("%s: peak %d KiB, address space %d KiB", c.name, peak, space)
		if peak > 256<<10 {
			t.Errorf("%s: memory peaked at %d KiB", c.name, peak)
		}
		if space > workerMemory>>10*3/4 {
			t.Errorf("%s: address space of %d KiB leaves too little below the limit", c.name, space)
		}
		w.Close()
	}
}

func benchmarkApply(b *testing.B, l image.Layer) {
	var tar bytes.Buffer
	if err := l.WriteTar(&tar); err != nil {
		b.Fatal(err)
	}
	base := place(b)
	var entries int64
	b.SetBytes(int64(tar.Len()))
	for b.Loop() {
		b.StopTimer()
		dir := filepath.Join(base, "fs")
		Remove(dir, anyKind(b))
		os.Mkdir(dir, 0o755)
		root, err := os.Open(dir)
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		r, err := Apply(root, bytes.NewReader(tar.Bytes()), Options{Squash: true})
		if err != nil {
			b.Fatal(err)
		}
		root.Close()
		entries += r.Entries
	}
	b.ReportMetric(float64(entries)/b.Elapsed().Seconds(), "entries/s")
}

func BenchmarkApplySmallFiles(b *testing.B) { benchmarkApply(b, image.Many(10_000)) }

func BenchmarkApplyBigFile(b *testing.B) {
	benchmarkApply(b, image.L(image.File("big", string(make([]byte, 256<<20)))))
}

// BenchmarkTar is GNU tar at the same work, to compare with.
func BenchmarkTarSmallFiles(b *testing.B) {
	need.Tool(b, "tar")
	l := image.Many(10_000)
	base := place(b)
	file := filepath.Join(base, "l.tar")
	f, _ := os.Create(file)
	if err := l.WriteTar(f); err != nil {
		b.Fatal(err)
	}
	f.Close()
	for b.Loop() {
		b.StopTimer()
		dir := filepath.Join(base, "fs")
		Remove(dir, anyKind(b))
		os.Mkdir(dir, 0o755)
		b.StartTimer()
		if out, err := exec.Command("tar", "-xf", file, "-C", dir).CombinedOutput(); err != nil {
			b.Fatal(err, string(out))
		}
	}
	b.ReportMetric(float64(10_100*b.N)/b.Elapsed().Seconds(), "entries/s")
}

func BenchmarkStartWorker(b *testing.B) {
	staging, ids := place(b), anyKind(b)
	for b.Loop() {
		w, err := StartWorker(staging, ids, nil)
		if err != nil {
			b.Fatal(err)
		}
		w.Close()
	}
}
