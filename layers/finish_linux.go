package layers

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"unsafe"

	"skiff/internal/again"

	"golang.org/x/sys/unix"
)

// dirMeta is what a directory gets at the end: what is made in it changes its
// time, and might not be allowed by its mode.
type dirMeta struct {
	path     string // below the root, no links in it; "." is the root
	sec      int64
	nsec     int32 // timeOmit: leave the times alone
	mode     uint16
	made     uint16 // the mode it was made with; 0: by another entry
	uid, gid uint32
}

const timeOmit = -1

// maxDirMemory bounds what directories take until the end, in bytes: a million
// of usual names fit, a million of names as long as they may be do not.
const maxDirMemory = 128 << 20

func (u *unpacker) addMeta(m dirMeta) error {
	u.metaBytes += len(m.path) + int(unsafe.Sizeof(m))
	if u.metaBytes > maxDirMemory {
		return fmt.Errorf("%w: the directories' names are too long in all", ErrQuota)
	}
	u.meta = append(u.meta, m)
	return nil
}

// finishDirs gives directories their owners, modes and times, the last entry of
// a path counting. Nothing else goes on by then, and a container may wait for
// it: so two do it, at four system calls for each directory.
func (u *unpacker) finishDirs() error {
	slices.SortStableFunc(u.meta, func(a, b dirMeta) int { return strings.Compare(b.path, a.path) })
	var open, shut []dirMeta
	var root dirMeta
	for i, m := range u.meta {
		switch last := i+1 == len(u.meta) || u.meta[i+1].path != m.path; {
		case !last:
		case m.path == ".":
			root = m
		case m.mode&0o700 == 0o700:
			open = append(open, m)
		default:
			shut = append(shut, m)
		}
	}
	var others sync.WaitGroup
	var err [2]error
	half := len(open) / 2
	others.Go(func() { err[1] = u.finishAll(open[half:]) })
	err[0] = u.finishAll(open[:half])
	others.Wait()
	for _, err := range err {
		if err != nil {
			return err
		}
	}
	// Those that one cannot look into come last, children before parents.
	if err := u.finishAll(shut); err != nil {
		return err
	}
	return u.finishDir(root)
}

func (u *unpacker) finishAll(list []dirMeta) error {
	for _, m := range list {
		if err := u.finishDir(m); err != nil {
			return &EntryError{m.path, "directory", err}
		}
	}
	return nil
}

func (u *unpacker) finishDir(m dirMeta) error {
	fd, err := openBeneath(u.root, m.path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err == unix.ENOENT || err == unix.ENOTDIR || err == unix.ELOOP {
		return nil // a later entry took its place
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if int64(m.uid) != u.uid || int64(m.gid) != u.gid {
		if err := again.Fchown(fd, int(m.uid), int(m.gid)); err != nil {
			return err
		}
	}
	if m.made == 0 || m.mode != m.made {
		if err := again.Fchmod(fd, uint32(m.mode)); err != nil {
			return err
		}
	}
	if m.nsec == timeOmit {
		return nil
	}
	return setTime(fd, timestamp{m.sec, m.nsec})
}
