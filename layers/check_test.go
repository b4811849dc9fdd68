package layers

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"skiff/internal/need"
	"skiff/testdata/image"

	"golang.org/x/sys/unix"
)

// What an archive does with links and with names that it has twice is no damage: a
// layer is as its archive has made it, however its names lead there.
func TestCheckOfCollisions(t *testing.T) {
	checked := 0
	for seed := range uint64(600) {
		r := rand.New(rand.NewPCG(seed, 1))
		if checkNew(t, image.L(colliding(r, r.IntN(8))...)) {
			checked++
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	if checked < 100 {
		t.Errorf("only %d layers could be checked", checked)
	}
}

func TestCheckThroughLinks(t *testing.T) {
	for name, list := range map[string][]image.Entry{
		"a link that a directory replaces": {image.Dir("t"), image.Symlink("s", "t"), image.File("s/f", "x"), image.Dir("s")},
		"a hard link to a link":            {image.Dir("t"), image.Symlink("s", "t"), image.Link("h", "s"), image.File("h/f", "x")},
		"a directory's second name":        {image.Dir("t").WithMode(0o755), image.Symlink("s", "."), image.Dir("s/t").WithMode(0o700)},
		"a link's second name":             {image.Symlink("l", "a"), image.Symlink("s", "/"), image.Symlink("s/l", "b")},
		"a whiteout below a link":          {image.Dir("t"), image.Symlink("s", "t"), image.Whiteout("s", "gone")},
		"links above the root":             {image.Dir("t"), image.Symlink("t/s", "../../t/../t"), image.File("t/s/d/f", "x")},
	} {
		t.Run(name, func(t *testing.T) {
			if !checkNew(t, image.L(list...)) {
				t.Error("it was not unpacked")
			}
		})
	}
}

// checkNew unpacks a layer and checks it, if that can be done.
func checkNew(t *testing.T, l image.Layer) bool {
	t.Helper()
	dir := filepath.Join(place(t), "fs")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	opt := Options{Squash: true, Split: splitFile(t)}
	result, err := Apply(root, bytes.NewReader(tarOf(t, l)), opt)
	if err != nil || !result.Split {
		return false
	}
	wantWhole(t, root, bytes.NewReader(written(t, opt.Split)), opt, result)
	return true
}

// A name that a link makes longer than any path is refused, for nobody could open
// the file by it afterwards.
func TestLongPathByLink(t *testing.T) {
	deep := strings.Repeat(strings.Repeat("d", 200)+"/", 20) + "d"
	for _, e := range []image.Entry{image.File("s/"+strings.Repeat("f", 200), "x"), image.Whiteout("s", strings.Repeat("f", 200)), image.Dir("s/" + strings.Repeat("f", 200))} {
		_, err := applyHere(t, place(t), image.L(image.Dir(deep), image.Symlink("s", deep), e), Options{Squash: true})
		if !errors.Is(err, unix.ENAMETOOLONG) {
			t.Errorf("a path of more than PATH_MAX: %v", err)
		}
	}
}

// What a full disk does to a file that is made aside is told as that, and not as a
// fault of the entry that needs the file.
func TestAsideFailsFirst(t *testing.T) {
	for range 20 {
		dir := place(t)
		if err := unix.Mount("none", dir, "tmpfs", 0, "nr_inodes=3,mode=755"); err != nil {
			need.That(t, "mount", err)
		}
		_, err := applyHere(t, dir, image.L(image.File("a", "x"), image.File("b", "x"), image.File("c", "x"), image.Link("d", "c")), Options{Squash: true})
		if uerr := unix.Unmount(dir, 0); uerr != nil {
			t.Fatal(uerr)
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("a full disk: %v", err)
		}
	}
}

// A record of an archive with a damaged number in it is damaged: nobody waits for as
// many zeros as it says.
func TestEndlessRecord(t *testing.T) {
	staging := place(t)
	ids := anyKind(t)
	w := start(t, staging, ids)
	result, err := unpack(t, w, staging, "fs", image.L(image.File("a", "x")), Job{Split: "split"})
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	path := filepath.Join(staging, "split")
	split, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// The last record is the end, before it are the archive's last zeros.
	split = append(split[:len(split)-1], 2 /* zeros */, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f, 0)
	if err := os.WriteFile(path, split, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := StartReader(staging, ids, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	read := Read{Dir: "fs", Split: "split", Size: result.Size}
	if err := r.Archive(t.Context(), read, io.Discard); err == nil || !strings.Contains(err.Error(), "it makes more than") {
		t.Errorf("archive: %v", err)
	}
	if _, err := r.Check(t.Context(), read); err == nil || !strings.Contains(err.Error(), "it makes more than") {
		t.Errorf("check: %v", err)
	}
}
