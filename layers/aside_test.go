package layers

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"skiff/testdata/image"

	"golang.org/x/sys/unix"
)

// The layer on disk does not depend on which of its files were made aside: archives
// of a few names that collide in every way give the same tree as in line.
func TestAsideIsTheSame(t *testing.T) {
	whole := 0
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		l := image.L(colliding(r, 5+r.IntN(25))...)
		var trees [2]string
		for i, inLine := range []bool{true, false} {
			dir := filepath.Join(place(t), "fs")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			root, err := os.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			result, err := Apply(root, bytes.NewReader(tarOf(t, l)), Options{Squash: true, Split: splitFile(t), inLine: inLine})
			root.Close()
			trees[i] = fmt.Sprintf("%v %v %v\n", err, result.Split, result.Implied)
			if err == nil {
				trees[i] += shape(t, dir)
				whole++
			}
		}
		if trees[0] != trees[1] {
			t.Fatalf("seed %d: in line\n%s\naside\n%s", seed, trees[0], trees[1])
		}
	}
	if whole < 150 {
		t.Errorf("%d of 600 layers were whole: the archives are too hostile to show much", whole)
	}
}

// colliding are entries of all types with few names. Most find a directory or a
// link to one on their way; some do not.
func colliding(r *rand.Rand, n int) []image.Entry {
	pick := func(from string) string { return string(from[r.IntN(len(from))]) }
	name := func() string {
		switch r.IntN(8) {
		case 0:
			return pick("abcdes") + "/" + pick("abcdes")
		case 1:
			return pick("abcdes")
		case 2, 3:
			return pick("abc")
		}
		return pick("dddes") + "/" + pick("abc")
	}
	list := []image.Entry{image.Dir("d"), image.Dir("e"), image.Symlink("s", "d")}
	files := []string{"d/a"}
	list = append(list, image.File("d/a", "first"))
	for i := range n {
		switch at := name(); r.IntN(30) {
		case 0:
			list = append(list, image.Dir(at).WithMode(0o750))
		case 1:
			list = append(list, image.Symlink(at, pick("abcde")))
		case 2:
			list = append(list, image.Symlink(at, "/"+pick("de")))
		case 3, 4:
			list = append(list, image.Link(at, files[r.IntN(len(files))]))
		case 5:
			list = append(list, image.FIFO(at))
		case 6:
			parent, base := split(at)
			list = append(list, image.Whiteout(parent, base))
		default:
			files = append(files, at)
			list = append(list, image.File(at, strings.Repeat(string(rune('A'+i%26)), r.IntN(3)*i)).WithMode(int64(0o600+r.IntN(64))))
		}
	}
	return list
}

// shape is a tree as far as an archive determines it.
func shape(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s %o %d %d", strings.TrimPrefix(path, dir), st.Mode, st.Nlink, st.Rdev)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			text, _ := os.ReadFile(path)
			fmt.Fprintf(&b, " %q", text)
		case unix.S_IFLNK:
			to, _ := os.Readlink(path)
			fmt.Fprintf(&b, " -> %s", to)
		case unix.S_IFDIR:
			var value [8]byte
			n, _ := unix.Getxattr(path, opaqueXattr, value[:])
			fmt.Fprintf(&b, " %q", value[:max(n, 0)])
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}
