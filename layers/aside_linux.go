package layers

import (
	"hash/maphash"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// An aside makes small files beside the goroutine that takes the archive apart:
// to make one takes ten times as long as to read its header, and a layer of small files is made of nothing else.
//
// The layer on disk must not depend on who is faster. So a file goes aside only
// if nothing but a file or a whiteout can stand at its name, which others knows, and before an
// entry touches a name that is being made, or looks for one that may be, what is aside is waited for.
type aside struct {
	jobs    chan smallFile
	flying  sync.WaitGroup
	failure atomic.Pointer[EntryError]
	kept    *kept

	recent map[string]struct{} // paths that may not be made yet
	others map[uint64]struct{} // hashes of paths where there may be a directory or a link
	seed   maphash.Seed
	masked uint32
}

const (
	asideSize   = 64 << 10 // of the largest file that goes aside
	asideJobs   = 16
	asideRecent = 1024

	// maxOthers bounds the memory of others; a layer with more makes its files in line.
	maxOthers = 1 << 20
)

// A smallFile is a file whose content lies in one block.
type smallFile struct {
	dir      *dir
	base     string
	path     string
	name     string // as the archive has it
	files    uint32 // of kept, before it
	mode     uint32
	uid, gid int // if chown
	chown    bool
	mtime    timestamp
	content  []byte // of block, which is held
	block    *block
}

func newAside(s *stream, masked uint32, kept *kept) *aside {
	a := &aside{
		jobs: make(chan smallFile, asideJobs), recent: map[string]struct{}{}, others: map[uint64]struct{}{}, seed: maphash.MakeSeed(), masked: masked, kept: kept,
	}
	go func() {
		for j := range a.jobs {
			if a.failure.Load() == nil {
				if err := a.make(j); err != nil {
					a.failure.CompareAndSwap(nil, &EntryError{j.name, "file", err})
				}
			}
			s.release(j.block)
			j.dir.users.Add(-1)
			a.flying.Done()
		}
	}()
	return a
}

// make makes a file as unpacker.makeFile does.
func (a *aside) make(j smallFile) error {
	fd, err := create(j.dir.fd, j.base, j.mode)
	if err == unix.EEXIST {
		var st unix.Stat_t
		if err := unix.Fstatat(j.dir.fd, j.base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		if err := a.kept.unlink(j.dir.fd, j.base, j.path, &st, j.files); err != nil {
			return err
		}
		fd, err = create(j.dir.fd, j.base, j.mode)
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for b := j.content; len(b) > 0; {
		n, err := unix.Write(fd, b)
		if err != nil && err != unix.EINTR {
			return err
		}
		b = b[max(n, 0):]
	}
	if err := own(fd, j.mode, a.masked, j.uid, j.gid, j.chown); err != nil {
		return err
	}
	return setTime(fd, j.mtime)
}

// take makes a file aside, if there is room; false: the caller makes it.
func (a *aside) take(j smallFile) bool {
	path := j.path
	if len(a.others) >= maxOthers {
		return false
	}
	if _, may := a.others[maphash.String(a.seed, path)]; may {
		return false
	}
	if len(a.recent) >= asideRecent {
		a.settle()
	}
	a.flying.Add(1)
	j.dir.users.Add(1)
	j.block.refs.Add(1)
	select {
	case a.jobs <- j:
		a.recent[path] = struct{}{}
		return true
	default:
		j.block.refs.Add(-1)
		j.dir.users.Add(-1)
		a.flying.Done()
		return false
	}
}

// touch is called before anything is done at a path.
func (a *aside) touch(path string) {
	if _, may := a.recent[path]; may {
		a.settle()
	}
}

// other notes that a directory or a link is made at a path.
func (a *aside) other(path string) {
	if len(a.others) < maxOthers {
		a.others[maphash.String(a.seed, path)] = struct{}{}
	}
}

// settle waits until all that is aside has been made.
func (a *aside) settle() {
	a.flying.Wait()
	clear(a.recent)
}

// failed is the first failure, or nil.
func (a *aside) failed() error {
	if e := a.failure.Load(); e != nil {
		return e
	}
	return nil
}

// end waits, and ends the goroutine.
func (a *aside) end() {
	a.settle()
	close(a.jobs)
}
