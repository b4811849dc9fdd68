// Package store keeps what was pulled: one directory per user, with no
// database and no index that could disagree with the tree.
//
//	version                    "1"
//	blobs/sha256/<hex>         manifests and configs, by digest
//	layers/<hex>/fs            one unpacked layer, by DiffID
//	layers/<hex>/layer.json    its LayerRecord
//	layers/<hex>/owners        true owners, where fs could not keep them
//	layers/<hex>/split         its archive without the files' contents: see
//	                           package skiff/layers/tarsplit; none where those are not kept
//	images/<reference>         one Image, all that a run needs
//	unsynced/<hex>.<random>    link to the id of the boot in which that layer
//	                           was written; there until a syncfs covers it
//	containers/ volumes/ networks/  of the packages that own them
//	locks/<name>               flock'ed to save double work
//	tmp/<kind>-<random>/       what is not finished; flock'ed while it lives
//
// The rules, from which everything else follows:
//
//   - Names are content. A thing is written in tmp, verified, and published by
//     one renameat2(RENAME_NOREPLACE); to lose that race is to succeed. The
//     name of an image is published last.
//   - Correctness needs no lock. Locks save a second download of the same bytes.
//   - A run takes no lock at all. It writes down what it uses (its
//     container's record) and only then looks whether the layers are there. A
//     collector renames a layer away and only then reads what is used, and
//     renames it back if somebody does. Each writes before it reads, so at least
//     one of them sees the other: either the collector gives the layer back, or
//     the run finds it missing and pulls again. Nothing waits, and a stopped
//     process stops nobody. See Store.Collect.
//   - A layer whose data a power cut may have lost is not trusted. Its marker
//     in unsynced/ names the boot; under another boot the layer is dropped. The
//     directory exists only while there is a marker, so a warm run asks with
//     one system call, whatever the number of layers. See Store.Settle.
//   - A temporary directory whose lock can be taken is garbage, whatever its age.
//
// Limits: the store's file system must be local and know rename, symbolic links
// and flock; on one without flock the work may be done twice. The store trusts
// whoever may write to it: its owner, and root. Ids on disk are taken to be
// those of the map in use; who changes a user's subordinate range must pull again.
package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"skiff/internal/again"

	"golang.org/x/sys/unix"
)

// Version is the layout this package reads and writes.
const Version = 1

// IDs says how the owners of a layer's files stand on disk. Layers of
// different kinds never share a directory.
type IDs string

const (
	Range  IDs = "range"  // real owners, through the map of the store's user
	Single IDs = "single" // every file is the caller's; owners beside the layer
)

// A Store is an open store. Its fields may be set until the first use, and its
// methods may be used from many goroutines.
type Store struct {
	IDs IDs // the kind of layers looked for and written; Open sets Range

	// Remove removes a tree that the caller's own rights do not suffice for: the
	// files of subordinate ids, which only their user namespace may remove. It is
	// tried after the plain walk met EACCES or EPERM. path is absolute.
	Remove func(path string) error

	// Waiting is told once when another process holds what is needed.
	Waiting func(what string)

	// Shared are other stores, that are looked in first and never written to; see
	// OpenShared.
	Shared []*Store

	root   string
	shared bool
	fd     int // O_PATH
	write  sync.Once
	werr   error

	recovered sync.Mutex
	suspects  map[string]bool // layers of another boot that could not be dropped
	checked   bool

	jump time.Duration // of the file system's clock, which a test cannot set
}

// rooms are the directories of a store, made with it.
var rooms = [...]string{"blobs", "blobs/sha256", "blobs/sha512", "layers", "images", "containers", "volumes", "networks", "locks", "tmp"}

// Open opens the store at root, an absolute path, and makes it if it is not
// there. A store that exists costs two system calls: what writers need is
// checked when they write.
//
// The error is an *UnsafeError if others own root or may write to it.
func Open(root string) (*Store, error) {
	if !filepath.IsAbs(root) {
		return nil, fmt.Errorf("store %q: not an absolute path", root)
	}
	root = filepath.Clean(root)
	fd, err := openDir(root)
	if errors.Is(err, unix.ENOENT) {
		// XDG Base Directory Specification: "the directory should be created with
		// permission 0700", which holds for the parents too.
		if err = os.MkdirAll(filepath.Dir(root), 0o700); err == nil {
			if err = unix.Mkdir(root, 0o700); err == nil {
				err = unix.Chmod(root, 0o700) // a umask may have taken the owner's bits
			} else if errors.Is(err, unix.EEXIST) {
				err = nil
			}
		}
		if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
			return nil, &ReadOnlyError{Op: "make store", Path: root, Err: unix.EACCES}
		}
		if err != nil {
			return nil, explain("make store", root, err)
		}
		fd, err = openDir(root)
	}
	if err != nil {
		return nil, explain("open store", root, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return nil, explain("stat store", root, err)
	}
	if int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 {
		unix.Close(fd)
		return nil, &UnsafeError{Path: root, UID: int(st.Uid), Mode: fs.FileMode(st.Mode & 0o7777)}
	}
	return &Store{IDs: Range, root: root, fd: fd}, nil
}

// openDir opens a directory to look things up in.
func openDir(path string) (int, error) {
	fd, err := again.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	return fd, nil
}

// Close gives back the descriptor. Temporaries and stages close by themselves.
func (s *Store) Close() error { return unix.Close(s.fd) }

// Root is the store's absolute path.
func (s *Store) Root() string { return s.root }

// FD is an O_PATH descriptor of the root; it stays the store's.
func (s *Store) FD() int { return s.fd }

// Path is the absolute path of something in the store: Path("containers", id).
func (s *Store) Path(names ...string) string {
	return s.root + "/" + strings.Join(names, "/")
}

// Writable prepares the store for writing and is cheap after the first time.
// It makes the rooms of a new store and refuses one of a newer layout
// (*VersionError) or on a read-only file system (*ReadOnlyError).
func (s *Store) Writable() error {
	if s.shared {
		return &ReadOnlyError{Op: "write to shared store", Path: s.root, Err: unix.EROFS}
	}
	s.write.Do(func() { s.werr = s.prepare() })
	return s.werr
}

// ReadOnly says whether the store is on a read-only file system: its images can
// be run, and nothing can be written.
func (s *Store) ReadOnly() bool {
	return errors.Is(unix.Faccessat(s.fd, ".", unix.W_OK, 0), unix.EROFS)
}

func (s *Store) prepare() error {
	err := s.CheckVersion()
	if err == nil {
		// A store's version is written last, so that with it the rooms exist.
		if err := unix.Faccessat(s.fd, ".", unix.W_OK, 0); err != nil {
			return explain("write to store", s.root, err)
		}
		return nil
	}
	if !errors.Is(err, unix.ENOENT) {
		return err
	}
	for _, room := range rooms {
		if err := again.Mkdirat(s.fd, room, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
			return explain("make", s.Path(room), err)
		} else if err == nil {
			if err := again.Fchmodat(s.fd, room, 0o700, 0); err != nil {
				return explain("make", s.Path(room), err)
			}
		}
	}
	return s.writeFile("version", []byte(strconv.Itoa(Version)+"\n"))
}

// CheckVersion reads the store's version. The error is ENOENT for a store never
// written to, and a *VersionError for one of a newer skiff.
func (s *Store) CheckVersion() error {
	b, err := s.readFile("version", 64)
	if err != nil {
		return err
	}
	text := strings.TrimSpace(string(b))
	if text == "" {
		// What a power cut leaves of a file that was just made.
		return explain("read", s.Path("version"), unix.ENOENT)
	}
	v, err := strconv.Atoi(text)
	if err != nil || v < 1 || v > Version {
		return &VersionError{Path: s.root, Version: text}
	}
	return nil
}

// readFile reads a small file of the store; longer than limit is an error.
func (s *Store) readFile(name string, limit int) ([]byte, error) {
	fd, err := again.Openat(s.fd, name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, explain("open", s.Path(name), err)
	}
	defer unix.Close(fd)
	// One read takes a usual record whole; a second one would only say EOF, which
	// a short read has said.
	b := make([]byte, min(limit+1, 8<<10))
	n := 0
	for {
		m, err := unix.Read(fd, b[n:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, explain("read", s.Path(name), err)
		}
		n += m
		if n < len(b) {
			return b[:n], nil
		}
		if n > limit {
			return nil, fmt.Errorf("read %s: longer than %d bytes", s.Path(name), limit)
		}
		b = append(b, make([]byte, min(len(b), limit+1-len(b)))...)
	}
}

// writeFile publishes a file under name, replacing what stands there: written
// in tmp, then renamed. A failed write leaves the old one.
func (s *Store) writeFile(name string, content []byte) error {
	tmp := "tmp/file-" + random()
	if err := s.create(tmp, content); err != nil {
		return err
	}
	if err := again.Renameat(s.fd, tmp, s.fd, name); err != nil {
		again.Unlinkat(s.fd, tmp, 0)
		return explain("rename", s.Path(name), err)
	}
	return nil
}

// create writes a new file; nothing is left of it after an error.
func (s *Store) create(name string, content []byte) error {
	fd, err := again.Openat(s.fd, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return explain("create", s.Path(name), err)
	}
	f := os.NewFile(uintptr(fd), name)
	_, err = f.Write(content)
	if cerr := f.Close(); err == nil {
		err = cerr // NFS and quotas speak up only here
	}
	if err != nil {
		again.Unlinkat(s.fd, name, 0)
		var has *fs.PathError
		if errors.As(err, &has) {
			err = has.Err // the path in it begins at the store
		}
		return explain("write", s.Path(name), err)
	}
	return nil
}

// names lists a directory of the store; one that is not there is empty.
func (s *Store) names(dir string) ([]string, error) {
	fd, err := again.Openat(s.fd, dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, explain("open", s.Path(dir), err)
	}
	f := os.NewFile(uintptr(fd), dir)
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil // it was removed after it was opened, as unsynced is
	}
	if err != nil {
		return nil, explain("list", s.Path(dir), err)
	}
	return names, nil
}

// exists says whether a name of the store is there, whatever it is.
func (s *Store) exists(name string) bool {
	return unix.Faccessat2(s.fd, name, unix.F_OK, unix.AT_SYMLINK_NOFOLLOW) == nil
}

// now is the file system's own time, which the clocks of several machines on
// one store, and jumps of this one's, cannot make wrong. It costs a file.
func (s *Store) now() (time.Time, error) {
	name := "tmp/file-" + random()
	if err := s.create(name, nil); err != nil {
		return time.Time{}, err
	}
	defer again.Unlinkat(s.fd, name, 0)
	var st unix.Stat_t
	if err := unix.Fstatat(s.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return time.Time{}, explain("stat", s.Path(name), err)
	}
	return time.Unix(st.Ctim.Unix()).Add(s.jump), nil
}

// sleep waits, or returns the context's error.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
