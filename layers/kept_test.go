package layers

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"skiff/testdata/image"
)

// A content that the archive replaces later is kept, so that the archive can be
// made again whatever it has twice; no test's own comparison is needed: apply makes it.
func TestSplitOfTwice(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 20000) // in line, and over blocks
	for name, list := range map[string][]image.Entry{
		"file":                   {image.File("a", "first"), image.File("a", "second")},
		"three times":            {image.File("a", "first"), image.File("b", "x"), image.File("a", "second"), image.File("a", "")},
		"big":                    {image.File("a", big), image.File("a", big[1:]), image.File("b", big[2:])},
		"sparse":                 {image.Sparse("a", "abcdef", 1<<40, [2]int64{10, 3}, [2]int64{1 << 39, 3}), image.File("a", "x")},
		"by sparse":              {image.File("a", "x"), image.Sparse("a", "abcdef", 1<<20, [2]int64{10, 3}, [2]int64{5000, 3})},
		"by a link":              {image.File("a", "first"), image.Symlink("a", "b")},
		"by a hard link":         {image.File("a", "first"), image.File("b", "second"), image.Link("a", "b")},
		"what a link names":      {image.File("a", "first"), image.Link("b", "a"), image.File("a", "second")},
		"a link's second name":   {image.File("a", "first"), image.Link("b", "a"), image.File("b", "second"), image.File("a", "third"), image.File("b", "fourth")},
		"both names of a file":   {image.File("a", "first"), image.Link("b", "a"), image.FIFO("a"), image.FIFO("b")},
		"by a directory":         {image.File("a", "first"), image.Dir("a"), image.File("a/b", "second")},
		"a directory":            {image.File("d/a", "first"), image.File("d/e/f/a", big), image.Symlink("d", "x"), image.File("x/a", "second")},
		"a directory, again":     {image.File("d/a", "first"), image.FIFO("d"), image.Dir("d"), image.File("d/a", "second"), image.Symlink("d", "x")},
		"through a link":         {image.Dir("d"), image.Symlink("s", "d"), image.File("s/a", "first"), image.File("d/a", "second"), image.File("s", "third")},
		"its own attributes":     {image.File("a", "first").WithMode(0o4000), image.File("a", "second").WithMode(0)},
		"removed, then there":    {image.Whiteout(".", "a"), image.File("a", "first"), image.File("a", "second")},
		"a deep directory":       {image.File(strings.Repeat("d/", 1500)+"f", "first"), image.File("d/d/g", "x"), image.File("d/e/f", "y"), image.Symlink("d", "x")},
		"nothing lost":           {image.Symlink("a", "b"), image.File("a", "second"), image.Dir("d"), image.Dir("d")},
		"a block of zeros":       {image.File("a", string(make([]byte, 5000))+"x"), image.File("a", "second")},
		"names of what is kept":  {image.File("0", "first"), image.File("0", "second"), image.File("1", "third"), image.File("1", "x"), image.File("split", "y"), image.File("split", "z")},
		"in a closed directory":  {image.Dir("d").WithMode(0o500), image.File("d/a", "first"), image.File("d/a", "second")},
		"of a closed directory":  {image.Dir("d").WithMode(0), image.File("d/a", "first"), image.Symlink("d", "x")},
		"with a mark of removal": {image.File("d/a", "first"), image.Whiteout("d", "a"), image.File("d/a", "second"), image.Opaque("d")},
	} {
		t.Run(name, func(t *testing.T) {
			dir, result := apply(t, image.L(list...), Options{})
			if !result.Split && (os.Geteuid() == 0 || name != "its own attributes") {
				t.Error("it has no split")
			}
			wantNoneOf(t, dir, ".skiff-")
		})
	}
}

// wantNoneOf fails if a name in the directory begins so.
func wantNoneOf(t *testing.T, dir, prefix string) {
	t.Helper()
	if left, _ := filepath.Glob(filepath.Join(dir, prefix+"*")); len(left) > 0 {
		t.Errorf("left behind: %s", left)
	}
}

// A worker, which may do little, does it too, and does not leave what one who
// has no capability could not read.
func TestWorkerKeeps(t *testing.T) {
	for name, ids := range kinds(t) {
		t.Run(name, func(t *testing.T) {
			staging := place(t)
			w := start(t, staging, ids)
			l := image.L(image.File("a", "first").WithMode(0), image.File("d/b", strings.Repeat("long ", 30000)).WithMode(0o200),
				image.File("a", "second"), image.Symlink("d", "x"), image.File("last", "x"))
			result, err := unpack(t, w, staging, "fs", l, Job{Split: "split"})
			if err != nil || !result.Split {
				t.Fatalf("unpacked: %v, split: %v", err, result.Split)
			}
			var archive bytes.Buffer
			r, err := StartReader(staging, ids, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			read := Read{Dir: "fs", Split: "split", Size: result.Size}
			if err := r.Archive(t.Context(), read, &archive); err != nil || !bytes.Equal(archive.Bytes(), tarOf(t, l)) {
				t.Errorf("the archive made again differs: %v", err)
			}
			if state, err := r.Check(t.Context(), read); err != nil || state.DiffID != l.DiffID() || len(state.Damages) > 0 {
				t.Errorf("check: %v %v", state, err)
			}
		})
	}
}

// Whatever a few names collide in: the archive comes out again.
func TestArchivesOfCollisions(t *testing.T) {
	whole := 0
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 2))
		l := image.L(colliding(r, r.IntN(40))...)
		for _, inLine := range []bool{true, false} {
			dir := filepath.Join(place(t), "fs")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			result, err := applyHere(t, dir, l, Options{inLine: inLine})
			if err != nil {
				continue // a link to nothing, a directory's way through a file
			}
			whole++
			if !result.Split || t.Failed() {
				t.Fatalf("seed %d, in line: %v: split: %v", seed, inLine, result.Split)
			}
			wantNoneOf(t, dir, ".skiff-")
		}
	}
	if whole < 200 {
		t.Errorf("%d of 800 layers were whole: the archives are too hostile to show much", whole)
	}
}

// One big file replaced again and again is in the split once for each time that the
// archive has it, and for no other.
func TestSplitIsNoLongerThanTheArchive(t *testing.T) {
	var list []image.Entry
	for i := range 2000 {
		list = append(list, image.File("big", fmt.Sprint(i)+strings.Repeat("x", 100<<10)), image.Link("l", "big"))
	}
	l := image.L(list...)
	dir := filepath.Join(place(t), "fs")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	opt := Options{Split: splitFile(t)}
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	opt.Squash = true
	result, err := Apply(root, bytes.NewReader(tarOf(t, l)), opt)
	if err != nil || !result.Split {
		t.Fatal(err, result.Split)
	}
	info, err := opt.Split.Stat()
	if err != nil || info.Size() > result.Size+result.Size/50 {
		t.Errorf("the split has %d bytes of an archive of %d: %v", info.Size(), result.Size, err)
	}
	wantWhole(t, root, bytes.NewReader(written(t, opt.Split)), opt, result)
}

func FuzzArchivesOfCollisions(f *testing.F) {
	for seed := range uint64(5) {
		f.Add(seed, uint8(20), seed%2 == 0)
	}
	f.Fuzz(func(t *testing.T, seed uint64, n uint8, inLine bool) {
		dir := filepath.Join(place(t), "fs")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		l := image.L(colliding(rand.New(rand.NewPCG(seed, 3)), int(n))...)
		if result, err := applyHere(t, dir, l, Options{inLine: inLine}); err == nil && !result.Split {
			t.Error("it has no split")
		}
	})
}
