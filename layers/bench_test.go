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
)

var long = flag.Bool("long", false, "run the tests that take minutes")

// Case 50: time grows with the entries and memory hardly at all.
func TestManyEntries(t *testing.T) {
	n, most := 200_000, 10*time.Second
	if *long {
		n, most = 1_000_000, 120*time.Second
	}
	staging := place(t)
	w := start(t, staging, anyKind(t))
	l := image.Many(n)
	blob := l.Bytes()
	os.Mkdir(filepath.Join(staging, "fs"), 0o755)
	began := time.Now()
	r, err := w.Unpack(context.Background(), Job{Dir: "fs"}, bytes.NewReader(blob))
	took := time.Since(began)
	peak := statusField(t, w.life.task.PID, "VmHWM")
	t.Logf("%d entries in %v, %.0f a second, peak %d KiB", r.Entries, took, float64(r.Entries)/took.Seconds(), peak)
	if err != nil || r.Entries != int64(n+(n+99)/100) {
		t.Errorf("%+v %v", r, err)
	}
	if took > most {
		t.Errorf("took %v, more than %v", took, most)
	}
	if peak > 256<<10 {
		t.Errorf("memory peaked at %d KiB", peak)
	}
	if err := w.Remove(context.Background(), "fs"); err != nil {
		t.Error(err)
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
