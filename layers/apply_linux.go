package layers

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"skiff/internal/again"
	"skiff/internal/idmap"
	"skiff/layers/tarsplit"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// Apply reads one uncompressed layer from r and leaves its changeset in root.
//
// It reads r to EOF, past the end of the archive; Result.DiffID covers every
// byte. root is a directory, exists and is empty; after an error the caller
// removes it. It gets mode 0755 unless the layer has an entry for it.
//
// A file costs four system calls: openat, write, utimensat, close. fchown is
// added for owners other than the caller's effective ids, fchmod for set-id and
// sticky bits. Directories get owner, mode and time at the end, children first.
// Memory grows with the number of directories only, about 100 bytes each.
//
// The error is an *EntryError where an entry is to blame. It wraps ErrEscape if
// the entry would land outside root, ErrFormat, ErrQuota, an *UnmappedError, or
// an errno. When Apply returns, r is no longer read; a Read in progress is
// waited for.
//
// Source: image-spec layer.md, "Applying Changesets"; overlayfs.rst.
func Apply(root *os.File, r io.Reader, opt Options) (Result, error) {
	s := newStream()
	u, err := newUnpacker(root, s, opt)
	if err != nil {
		return Result{}, err
	}
	sum := make(chan [sha256.Size]byte, 1)
	go func() { sum <- s.sum() }()
	unpacked := make(chan error, 1)
	go func() { unpacked <- u.run() }()

	readErr := s.fill(r, opt.MaxBytes)
	err = <-unpacked
	digest := <-sum
	// What is wrong with the source explains what the unpacker saw of it.
	if readErr != nil {
		return Result{}, readErr
	}
	if err != nil {
		return Result{}, err
	}
	u.result.DiffID = v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(digest[:])}
	u.result.Size = s.size
	return u.result, nil
}

// An unpacker performs the entries of one layer.
type unpacker struct {
	root   int
	tar    tarReader
	opt    Options
	result Result
	dirs   dirCache
	aside  *aside
	meta   []dirMeta
	owners *bufio.Writer
	kept   *kept

	metaBytes int // that meta takes

	uid, gid int64  // what a new file gets by itself
	masked   uint32 // permission bits that a new file loses
}

func newUnpacker(root *os.File, s *stream, opt Options) (*unpacker, error) {
	u := &unpacker{
		root: int(root.Fd()), opt: opt, tar: tarReader{s: s},
		uid: int64(unix.Geteuid()), gid: int64(unix.Getegid()),
	}
	if opt.Owners != nil {
		u.owners = bufio.NewWriterSize(opt.Owners, 16<<10)
	}
	if opt.Split != nil {
		s.split = tarsplit.NewWriter(opt.Split)
	}
	if err := u.probe(); err != nil {
		return nil, &os.PathError{Op: "probe", Path: root.Name(), Err: err}
	}
	u.kept = newKept(u.root, opt.Split, s.split)
	u.aside = newAside(s, u.masked, u.kept)
	u.dirs.init(u.root, opt.MaxDirs, u.aside.settle)
	u.meta = append(u.meta, dirMeta{path: ".", mode: 0o755, nsec: timeOmit, uid: uint32(u.uid), gid: uint32(u.gid)})
	return u, nil
}

// probe finds out what of a mode a new file keeps: the umask is the process's,
// can't be read without being set, and may be replaced by a default ACL.
func (u *unpacker) probe() error {
	const name = "probe"
	if err := again.Fchmod(u.root, 0o700); err != nil {
		return err
	}
	if err := again.Mkdirat(u.root, name, 0o777); err != nil {
		return err
	}
	var st unix.Stat_t
	err := unix.Fstatat(u.root, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	u.masked = 0o777 &^ st.Mode
	return errors.Join(err, again.Unlinkat(u.root, name, unix.AT_REMOVEDIR))
}

// run takes the stream apart to its end. Whatever happens, fill returns.
func (u *unpacker) run() error {
	defer u.tar.s.stop()
	defer u.aside.end()
	defer u.dirs.flush()
	defer u.kept.close()
	var h header
	for {
		if err := u.aside.failed(); err != nil {
			return err
		}
		err := u.tar.next(&h)
		if err == io.EOF {
			break
		}
		if err != nil {
			return archiveError(err)
		}
		u.result.Entries++
		if most := u.opt.MaxEntries; most > 0 && u.result.Entries > most {
			return fmt.Errorf("%w of %d entries", ErrQuota, most)
		}
		if err := u.entry(&h); err != nil {
			// It may be no more than what came of an earlier file's failure.
			u.aside.settle()
			if first := u.aside.failed(); first != nil {
				err = first
			}
			return archiveError(err)
		}
	}
	if err := u.tar.s.drain(); err != nil {
		return err
	}
	u.aside.settle()
	if err := u.aside.failed(); err != nil {
		return err
	}
	var err error
	if u.result.Split, err = u.kept.end(); err != nil {
		return err
	}
	if u.owners != nil {
		if err := u.owners.Flush(); err != nil {
			return fmt.Errorf("write owners: %w", err)
		}
	}
	return u.finishDirs()
}

// archiveError makes the end of the stream inside an entry what it is.
func archiveError(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return err
}

// entry performs one entry.
func (u *unpacker) entry(h *header) error {
	fail := func(step string, err error) error {
		var inner *EntryError
		if err == nil || errors.As(err, &inner) {
			return err
		}
		return &EntryError{h.name, step, err}
	}
	name, err := clean(h.name)
	if err != nil {
		return fail("name", err)
	}
	if isMeta(name) {
		u.result.Skipped.Meta++
		return nil
	}
	if name == "." {
		if h.typ != typeDir {
			return fail("root", fmt.Errorf("%w: the root is not a directory there", ErrEscape))
		}
		return fail("root", u.makeDir(nil, ".", h))
	}
	parent, base := split(name)
	d, err := u.dir(parent)
	if err != nil {
		return fail("parent directory", err)
	}
	if len(join(d.path, base)) >= unix.PathMax {
		return fail("name", unix.ENAMETOOLONG) // by a link
	}
	if strings.HasPrefix(base, whiteoutPrefix) {
		return fail("whiteout", u.whiteout(d, base))
	}
	u.aside.touch(join(d.path, base))
	switch h.typ {
	case typeRegular, typeContiguous:
		return fail("file", u.makeFile(d, base, h))
	case typeDir:
		return fail("directory", u.makeDir(d, base, h))
	case typeSymlink:
		return fail("symlink", u.makeSymlink(d, base, h))
	case typeLink:
		return fail("hard link", u.makeLink(d, base, h))
	case typeFIFO, typeChar, typeBlock:
		return fail("mknod", u.makeNode(d, base, h))
	}
	return fail("type", malformed("unknown type %q", h.typ))
}

// clean makes an archive's name a path below the root: "." is the root itself.
func clean(name string) (string, error) {
	if name == "" || strings.IndexByte(name, 0) >= 0 {
		return "", malformed("an empty name, or a NUL in one")
	}
	name = path.Clean(strings.TrimLeft(name, "/"))
	switch {
	case name == ".." || strings.HasPrefix(name, "../"):
		return "", ErrEscape
	case len(name) >= unix.PathMax:
		return "", unix.ENAMETOOLONG
	}
	return name, nil
}

// split returns the directory, "." for the root, and the last component.
func split(name string) (parent, base string) {
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		return name[:i], name[i+1:]
	}
	return ".", name
}

func join(parent, base string) string {
	if parent == "." {
		return base
	}
	return parent + "/" + base
}

// owner returns the ids to set and whether they have to be set at all. It
// writes a record for those that can't be.
func (u *unpacker) owner(h *header, path string) (uid, gid int, change bool, err error) {
	if u.opt.Squash {
		if h.uid != 0 || h.gid != 0 {
			err = u.record(h, path)
		}
		return int(u.uid), int(u.gid), false, err
	}
	if err := mapped(u.opt.IDs, h.uid, h.gid); err != nil {
		return 0, 0, false, err
	}
	return int(h.uid), int(h.gid), h.uid != u.uid || h.gid != u.gid, nil
}

// openBeneath opens a path below dir that has no symbolic link in it.
func openBeneath(dir int, path string, flags int) (int, error) {
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC | unix.O_NOFOLLOW),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	}
	for {
		// EAGAIN: a rename raced with "..", which says nothing about this path.
		fd, err := unix.Openat2(dir, path, &how)
		if err != unix.EINTR && err != unix.EAGAIN {
			return fd, err
		}
	}
}

// identity is the map of the ids that the calling process has, onto themselves.
func identity() (idmap.Map, error) {
	uids, err := identityOf("/proc/self/uid_map")
	if err != nil {
		return idmap.Map{}, err
	}
	gids, err := identityOf("/proc/self/gid_map")
	return idmap.Map{Kind: idmap.Root, UIDs: uids, GIDs: gids}, err
}

func identityOf(file string) ([]idmap.Range, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var ranges []idmap.Range
	for line := range strings.Lines(string(text)) {
		var inside, outside, size uint32
		if _, err := fmt.Sscan(line, &inside, &outside, &size); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		ranges = append(ranges, idmap.Range{Container: inside, Host: inside, Size: size})
	}
	return ranges, nil
}
