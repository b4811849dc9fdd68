package layers

import (
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/maphash"
	"io"
	"os"
	"slices"
	"sort"
	"strconv"

	"skiff/internal/again"
	"skiff/internal/rmtree"
	"skiff/layers/tarsplit"

	"golang.org/x/sys/unix"
)

// Some builders append to a layer what it has already, so that its archive has files
// that nobody will see: a later entry takes their place. The archive is not whole
// without them. kept moves such a file out of the way instead of deleting it, to a directory
// of its own in the layer's root, and when the archive has ended, what was content of
// theirs becomes bytes of the split. Then the directory goes.
//
// A replacement costs a rename, and its bytes are written once more at the end: so
// the time is linear in the archive, and the split is no longer than the archive is.
//
// The unpacker and its aside both use it, never at once: the unpacker settles first.
type kept struct {
	root    int
	split   *tarsplit.Writer // nil: nothing is kept
	file    *os.File         // where split goes
	name    string           // of the directory; "": not made yet
	dir     int
	removed []removal
	seed    maphash.Seed
	lost    bool // more than can be kept: there will be no split
}

// A removal is a file that gave way: which, by its path, and after how many of the
// split's file records. It lies in the directory under its number.
type removal struct {
	path   uint64
	before uint32
	number uint32
}

// maxRemovals bounds the memory of a layer that replaces all its files, to 16 MiB. One with more has no split.
const maxRemovals = 1 << 20

func newKept(root int, file *os.File, split *tarsplit.Writer) *kept {
	return &kept{root: root, file: file, split: split, dir: -1, seed: maphash.MakeSeed()}
}

// files is how many file records the split has so far.
func (k *kept) files() uint32 {
	if k.split == nil {
		return 0
	}
	return uint32(k.split.Files())
}

// unlink takes what is no directory from its place, when the split had so many file records.
func (k *kept) unlink(dir int, base, path string, st *unix.Stat_t, files uint32) error {
	if k.split == nil || k.lost || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size == 0 {
		return again.Unlinkat(dir, base, 0)
	}
	if len(k.removed) == maxRemovals {
		k.lost = true
		return again.Unlinkat(dir, base, 0)
	}
	if err := k.make(); err != nil {
		return err
	}
	r := removal{maphash.String(k.seed, path), files, uint32(len(k.removed))}
	if err := again.Renameat2(dir, base, k.dir, r.name(), unix.RENAME_NOREPLACE); err != nil {
		return err
	}
	k.removed = append(k.removed, r)
	return nil
}

func (r removal) name() string { return strconv.Itoa(int(r.number)) }

// make makes the directory. No archive can name it.
func (k *kept) make() error {
	if k.name != "" {
		return nil
	}
	var random [16]byte
	if _, err := unix.Getrandom(random[:], 0); err != nil {
		return err
	}
	name := ".skiff-" + hex.EncodeToString(random[:])
	if err := again.Mkdirat(k.root, name, 0o700); err != nil {
		return err
	}
	k.name = name
	var err error
	k.dir, err = openBeneath(k.root, name, unix.O_RDONLY|unix.O_DIRECTORY)
	return err
}

// tree takes a directory from its place, and all that is in it.
func (k *kept) tree(dir int, base, path string) error {
	if k.split != nil {
		if err := k.empty(path); err != nil {
			return err
		}
	}
	return rmtree.At(dir, base)
}

// empty keeps the files below a directory. It goes down by names and up by "..", which nobody changes meanwhile,
// with one descriptor: each step costs the same, however deep it is.
func (k *kept) empty(path string) error {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := openBeneath(k.root, path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer func() { unix.Close(fd) }()
	type level struct {
		path string
		dirs []string // to be gone into
	}
	dirs, err := k.keepFiles(fd, path)
	for levels := []level{{path, dirs}}; err == nil; {
		top := &levels[len(levels)-1]
		name := ".."
		if n := len(top.dirs); n > 0 {
			name, top.dirs = top.dirs[n-1], top.dirs[:n-1]
		} else if levels = levels[:len(levels)-1]; len(levels) == 0 {
			return nil
		}
		next, oerr := again.Openat(fd, name, flags, 0)
		if oerr != nil {
			return oerr
		}
		unix.Close(fd)
		if fd = next; name != ".." {
			path := join(top.path, name)
			dirs, err = k.keepFiles(fd, path)
			levels = append(levels, level{path, dirs})
		}
	}
	return err
}

// keepFiles keeps the files of one directory, and returns the directories in it.
func (k *kept) keepFiles(fd int, path string) (dirs []string, err error) {
	var names []string
	for buf := make([]byte, 8<<10); ; {
		n, err := unix.ReadDirent(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n == 0 {
			break
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
	for _, name := range names {
		var st unix.Stat_t
		if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return nil, err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			dirs = append(dirs, name)
		} else if err := k.unlink(fd, name, join(path, name), &st, k.files()); err != nil {
			return nil, err
		}
	}
	return dirs, nil
}

// end ends the split when the archive has ended, and removes what was kept for
// it. It reports whether the split is whole.
func (k *kept) end() (whole bool, err error) {
	if k.split == nil {
		return false, nil
	}
	if err = k.split.Close(); err == nil && k.name != "" && !k.lost {
		err = k.complete()
	}
	if errors.Is(err, unix.EACCES) {
		// A file of a mode that takes a capability to read.
		k.lost, err = true, nil
	}
	if err != nil {
		return false, fmt.Errorf("write split: %w", err)
	}
	k.close()
	if k.name != "" {
		err = rmtree.At(k.root, k.name)
	}
	return !k.lost, err
}

func (k *kept) close() {
	if k.dir >= 0 {
		unix.Close(k.dir)
		k.dir = -1
	}
}

// complete writes the split again, with the contents that no file has any longer.
func (k *kept) complete() error {
	fd, err := again.Openat(k.dir, "split", unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	old := os.NewFile(uintptr(fd), "split")
	defer old.Close()
	if err := moveTo(old, k.file); err != nil {
		return err
	}
	r, err := tarsplit.NewReader(old)
	if err != nil {
		return err
	}
	slices.SortFunc(k.removed, func(a, b removal) int {
		switch {
		case a.path < b.path, a.path == b.path && a.number < b.number:
			return -1
		}
		return 1
	})
	w := tarsplit.NewWriter(k.file)
	buf := make([]byte, 64<<10)
	for files := uint32(0); ; {
		record, err := r.Next()
		if err == io.EOF {
			return w.Close()
		}
		if err != nil {
			return err
		}
		if record.Path == "" {
			w.Copy(record)
			continue
		}
		if at := k.find(record.Path, files); at == nil {
			w.Copy(record)
		} else if err := k.content(w, *at, record, buf); err != nil {
			return err
		}
		files++
	}
}

// moveTo moves all of a file to another that is empty, and both to their beginnings.
func moveTo(to, from *os.File) error {
	if _, err := from.Seek(0, io.SeekStart); err != nil {
		return err
	}
	// Without ReadFrom, which would try system calls that a worker may not make.
	if _, err := io.Copy(struct{ io.Writer }{to}, struct{ io.Reader }{from}); err != nil {
		return err
	}
	if err := from.Truncate(0); err != nil {
		return err
	}
	_, err := from.Seek(0, io.SeekStart)
	if err == nil {
		_, err = to.Seek(0, io.SeekStart)
	}
	return err
}

// find returns the first removal of a path after the file record of that number, or nil: the file is where it was.
func (k *kept) find(path string, files uint32) *removal {
	h := maphash.String(k.seed, path)
	i := sort.Search(len(k.removed), func(i int) bool {
		r := k.removed[i]
		return r.path > h || r.path == h && r.before > files
	})
	if i == len(k.removed) || k.removed[i].path != h {
		return nil
	}
	return &k.removed[i]
}

// content writes what a file record stands for.
func (k *kept) content(w *tarsplit.Writer, r removal, record tarsplit.Record, buf []byte) error {
	fd, err := openBeneath(k.dir, r.name(), unix.O_RDONLY)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), record.Path)
	defer f.Close()
	sum, table := uint32(0), crc32.MakeTable(crc32.Castagnoli)
	for _, run := range record.Runs {
		if _, err := f.Seek(run.Offset, io.SeekStart); err != nil {
			return err
		}
		for left := run.Size; left > 0; {
			b := buf[:min(left, int64(len(buf)))]
			n, err := f.Read(b)
			if err != nil {
				return unexpected(err)
			}
			sum = crc32.Update(sum, table, b[:n])
			w.Bytes(b[:n])
			left -= int64(n)
		}
	}
	if sum != record.CRC {
		return fmt.Errorf("%s was not kept as it was: %w", quote(record.Path), tarsplit.ErrFormat)
	}
	return nil
}
