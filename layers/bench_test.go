package layers

import (
	"bytes"
	"context"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"skiff/internal/need"
	"skiff/testdata/image"

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
