package store

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// A container that starts while a damaged layer is dropped keeps it: the layer is
// renamed away, and given back when it turns out to be in use.
func TestDropGivesBack(t *testing.T) {
	s := open(t)
	commit(t, s, hash(1))
	commit(t, s, hash(2))
	problems := damagedLayers(t, s)
	asked := 0
	err := s.Drop(context.Background(), problems, func() (map[v1.Hash]bool, error) {
		asked++
		return map[v1.Hash]bool{hash(1): asked > 1}, nil
	})
	if err == nil {
		t.Error("nobody was told that a layer stays")
	}
	if !has(s, hash(1)) || has(s, hash(2)) {
		t.Errorf("there is the layer in use: %v, the other one: %v", has(s, hash(1)), has(s, hash(2)))
	}
}

// What another process has dropped and pulled again since it was looked at is whole.
func TestDropOfWhatIsNew(t *testing.T) {
	s := open(t)
	commit(t, s, hash(1))
	problems := damagedLayers(t, s)
	path := s.Path("layers", hash(1).Hex)
	if err := os.Rename(path, t.TempDir()+"/old"); err != nil { // its inode stays taken
		t.Fatal(err)
	}
	commit(t, s, hash(1))
	if err := s.Drop(context.Background(), problems, func() (map[v1.Hash]bool, error) { return nil, nil }); err != nil {
		t.Error(err)
	}
	if !has(s, hash(1)) {
		t.Error("the new layer was dropped")
	}
}

func damagedLayers(t *testing.T, s *Store) []Problem {
	t.Helper()
	r, err := s.Check(context.Background(), func(context.Context, v1.Hash) ([]string, error) { return []string{"it is damaged"}, nil })
	if err != nil || len(r.Problems) == 0 {
		t.Fatal(err, r)
	}
	return r.Problems
}

// A layer of very many names is looked at in the time that these take to be read.
func TestCheckOfManyNames(t *testing.T) {
	s := open(t)
	commit(t, s, hash(1))
	i := put(t, s, "localhost/x:0", hash(1), hash(1))
	for n := range 300 {
		if err := s.Tag(i, fmt.Sprintf("localhost/x:%d", n)); err != nil {
			t.Fatal(err)
		}
	}
	r, err := s.Check(context.Background(), func(context.Context, v1.Hash) ([]string, error) { return []string{"it is damaged"}, nil })
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range r.Problems {
		if p.What == "layer" && len(p.Images) != 300 {
			t.Errorf("%d images need the layer, of 300", len(p.Images))
		}
	}
}

// A layer that a collector has in its hand, and gives back, is not missed.
func TestCheckWaitsForCollector(t *testing.T) {
	s := open(t)
	commit(t, s, hash(1))
	put(t, s, "localhost/x:1", hash(1))
	l, err := s.tryLock("collect")
	if err != nil {
		t.Fatal(err)
	}
	at, hand := s.Path("layers", hash(1).Hex), s.Path("tmp", "hand")
	if err := os.Rename(at, hand); err != nil {
		t.Fatal(err)
	}
	waited := false
	s.Waiting = func(string) {
		waited = true
		if err := os.Rename(hand, at); err != nil {
			t.Error(err)
		}
		l.unlock()
	}
	r, err := s.Check(context.Background(), func(context.Context, v1.Hash) ([]string, error) { return nil, nil })
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range r.Problems {
		for _, why := range p.Why {
			if strings.HasPrefix(why, "layer") {
				t.Errorf("%s: %s", p.Name, why)
			}
		}
	}
	if !waited {
		t.Error("nobody was waited for")
	}
}
