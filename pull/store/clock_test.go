package store

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// The clock jumps by ten years, and files are of the future or of the distant past
// (case 85 of SECURITY.md): what is in use stays, whatever the grace, and a clock that went back
// only keeps what is not.
func TestClockJumps(t *testing.T) {
	const decade = 87660 * time.Hour
	for _, jump := range []time.Duration{-decade, 0, decade} {
		for _, year := range []int{0, 1970, 2100, 2400} {
			t.Run(fmt.Sprintf("%+dh, files of %d", int(jump.Hours()), year), func(t *testing.T) {
				s := open(t)
				for n := 1; n <= 4; n++ {
					commit(t, s, hash(n))
				}
				img := put(t, s, "localhost/a:latest", hash(1))
				claim, err := s.Claim([]v1.Hash{hash(2)})
				if err != nil {
					t.Fatal(err)
				}
				live, err := s.NewTemp("live")
				if err != nil {
					t.Fatal(err)
				}
				defer live.Remove()
				young := s.Path("tmp", "file-young")
				if err := os.WriteFile(young, nil, 0o600); err != nil {
					t.Fatal(err)
				}
				if year != 0 {
					age(t, s.Root(), time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC))
				}
				s.jump = jump
				inUse := func() (map[v1.Hash]bool, error) { return map[v1.Hash]bool{hash(3): true}, nil }
				ctx := context.Background()
				for _, grace := range []time.Duration{time.Hour, 0} {
					if _, err := s.Collect(ctx, inUse, grace); err != nil {
						t.Fatal(err)
					}
					if err := s.Sweep(ctx); err != nil {
						t.Fatal(err)
					}
					for n := 1; n <= 3; n++ {
						if !has(s, hash(n)) {
							t.Errorf("grace %v: layer %d is gone, which is in use", grace, n)
						}
					}
					// The store's own files are as old as their inodes say, which nobody can set.
					if gone := jump > 0 || jump == 0 && grace == 0; has(s, hash(4)) == gone {
						t.Errorf("grace %v: the layer that nothing uses is gone: %v", grace, !gone)
					}
				}
				if _, err := os.Stat(live.Path()); err != nil {
					t.Errorf("a directory that is in use: %v", err)
				}
				if _, err := os.Stat(young); (err == nil) != (jump <= 0) {
					t.Errorf("a file just written, when the clock jumps by %v: %v", jump, err)
				}
				claim.Release()
				if _, err := s.RemoveImage(ctx, img.Reference, inUse); err != nil {
					t.Error(err)
				}
				if has(s, hash(1)) {
					t.Error("the layer of an image that was removed is still there")
				}
			})
		}
	}
}

// age gives every file of the store another time.
func age(t *testing.T, root string, to time.Time) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSymlink != 0 {
			return err
		}
		return os.Chtimes(path, to, to)
	})
	if err != nil {
		t.Fatal(err)
	}
}
