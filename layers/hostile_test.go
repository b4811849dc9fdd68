package layers

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"skiff/internal/idmap"
	"skiff/testdata/image"
)

// The catalogue of SECURITY.md, section 3, by every way there is to unpack.
// Each case asserts that nothing outside the layer's directory changes.
func TestHostile(t *testing.T) {
	t.Run("in-process", func(t *testing.T) {
		hostile(t, os.Geteuid() != 0, func(staging, dir string, c image.Case, l image.Layer) (Result, error) {
			if err := os.Mkdir(filepath.Join(staging, dir), 0o755); err != nil {
				t.Fatal(err)
			}
			return applyHere(t, filepath.Join(staging, dir), l, Options{MaxBytes: c.MaxBytes})
		}, nil)
	})
	for name, ids := range kinds(t) {
		t.Run("worker-"+name, func(t *testing.T) {
			var w *Worker // start ends it with the test
			hostile(t, ids.Kind == idmap.Single, func(staging, dir string, c image.Case, l image.Layer) (Result, error) {
				if w == nil {
					w = start(t, staging, ids) // t is the outer one
				}
				return unpack(t, w, staging, dir, l, Job{MaxBytes: c.MaxBytes, Owners: dir + ".owners"})
			}, func() *Worker { return w })
		})
	}
}

func hostile(t *testing.T, squash bool, unpack func(staging, dir string, c image.Case, l image.Layer) (Result, error), worker func() *Worker) {
	base := place(t)
	staging := filepath.Join(base, "staging")
	for _, d := range []string{staging, filepath.Join(base, "marker")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(base, "marker", "secret"), []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(image.Outside, 0o755); err == nil {
		os.WriteFile(filepath.Join(image.Outside, "secret"), []byte("secret"), 0o644)
		defer os.RemoveAll(image.Outside)
	}
	before, outside := snapshot(t, base, staging), snapshot(t, image.Outside, "")
	goroutines := 0
	for i, c := range image.Hostile() {
		t.Run(fmt.Sprintf("%02d-%s", c.Number, c.Name), func(t *testing.T) {
			refused := c.Refused
			if c.NeedsIDs && squash {
				refused = false
			}
			if c.NeedsIDs && strings.HasSuffix(t.Name(), "worker-host/"+filepath.Base(t.Name())) {
				return // in the host's own user namespace every id exists
			}
			for j, l := range c.Layers {
				dir := fmt.Sprintf("%d-%d", i, j)
				result, err := unpack(staging, dir, c, l)
				last := j == len(c.Layers)-1
				switch {
				case last && refused && err == nil:
					t.Errorf("was unpacked")
				case last && refused && !strings.Contains(err.Error(), c.Word):
					t.Errorf("error %q lacks %q", err, c.Word)
				case err != nil && !(last && refused):
					t.Errorf("layer %d: %v", j, err)
				case err != nil && (strings.ContainsAny(err.Error(), "\x1b\n") || strings.Contains(err.Error(), "\xff")):
					t.Errorf("error is not escaped: %q", err)
				case err == nil && l.DiffID() != result.DiffID:
					t.Errorf("DiffID %v, want %v", result.DiffID, l.DiffID())
				}
				if last && c.Tree != nil && err == nil {
					got, err := image.List(filepath.Join(staging, dir))
					want := slices.Clone(c.Tree)
					slices.Sort(got)
					slices.Sort(want)
					if err != nil || !slices.Equal(got, want) {
						t.Errorf("%v, holds\n%s\nwant\n%s", err, strings.Join(got, "\n"), strings.Join(want, "\n"))
					}
				}
			}
			if after := snapshot(t, base, staging); after != before {
				t.Errorf("outside changed:\n%s\nwas\n%s", after, before)
			}
			if after := snapshot(t, image.Outside, ""); after != outside {
				t.Errorf("%s changed:\n%s\nwas\n%s", image.Outside, after, outside)
			}
			if goroutines == 0 {
				goroutines = runtime.NumGoroutine() // a worker has its own by now
			}
			noMoreGoroutines(t, goroutines)
		})
	}
	if worker == nil {
		return
	}
	w := worker()
	if peak := statusField(t, w.life.task.PID, "VmHWM"); peak > 256<<10 {
		t.Errorf("the worker's memory peaked at %d KiB", peak)
	}
	// The worker removes what it made, of whatever owner and mode.
	entries, _ := os.ReadDir(staging)
	for _, e := range entries {
		if err := w.Remove(context.Background(), e.Name()); err != nil {
			t.Error(err)
		}
	}
	if entries, _ := os.ReadDir(staging); len(entries) > 0 {
		t.Errorf("%d directories left", len(entries))
	}
}

// statusField reads a number of /proc/PID/status.
func statusField(t testing.TB, pid int, field string) (n uint64) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			base := "%d"
			if strings.HasPrefix(field, "Cap") {
				base = "%x"
			}
			if _, err := fmt.Sscanf(strings.TrimSpace(value), base, &n); err != nil {
				t.Fatal(line, err)
			}
			return n
		}
	}
	t.Fatalf("no %s in status", field)
	return 0
}
