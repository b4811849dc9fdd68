package store

import (
	"context"
	"maps"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Pullers, runs and collectors at once: no run that has written down what it
// uses, and then found it, loses it. While a collector has a layer in its hand a run may see it
// missing, and looks again, as it does by pulling.
func TestStorm(t *testing.T) {
	s := open(t)
	ctx, stop := context.WithTimeout(context.Background(), 700*time.Millisecond)
	defer stop()
	var mu sync.Mutex
	uses := map[v1.Hash]int{}
	use := func(h v1.Hash, n int) {
		mu.Lock()
		defer mu.Unlock()
		if uses[h] += n; uses[h] == 0 {
			delete(uses, h)
		}
	}
	inUse := func() (map[v1.Hash]bool, error) {
		mu.Lock()
		defer mu.Unlock()
		used := map[v1.Hash]bool{}
		for h := range maps.Keys(uses) {
			used[h] = true
		}
		return used, nil
	}
	var wg sync.WaitGroup
	var runs, missing, collected int
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				h := hash(1 + rand.N(3))
				use(h, 1)
				for range 1000 {
					if has(s, h) {
						break
					}
					mu.Lock()
					missing++
					mu.Unlock()
					st, err := s.StageLayer(context.Background(), h)
					if err != nil {
						t.Error(err)
						return
					}
					if st == nil {
						continue
					}
					if err := os.WriteFile(st.Dir()+"/file", nil, 0o600); err != nil {
						t.Error(err)
					}
					if err := st.Commit(LayerRecord{}); err != nil {
						t.Error(err)
					}
				}
				// From here on it may be away for the time of two renames, and no longer.
				for end := time.Now().Add(5 * time.Millisecond); time.Now().Before(end); {
					_, err := os.Stat(s.LayerDir(h) + "/file")
					for try := 0; err != nil && try < 1000; try++ {
						time.Sleep(time.Millisecond)
						_, err = os.Stat(s.LayerDir(h) + "/file")
					}
					if err != nil {
						t.Errorf("lost in use: %v", err)
						return
					}
				}
				use(h, -1)
				mu.Lock()
				runs++
				mu.Unlock()
			}
		})
	}
	for range 2 {
		wg.Go(func() {
			for ctx.Err() == nil {
				r, err := s.Collect(context.Background(), inUse, 0)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				collected += len(r.Layers)
				mu.Unlock()
				if err := s.Sweep(context.Background()); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if runs == 0 || collected == 0 || missing == 0 {
		t.Errorf("%d runs, %d collected, %d missing: the storm was none", runs, collected, missing)
	}
}
