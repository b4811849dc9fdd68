package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"skiff/internal/idmap"
	"skiff/layers"
	"skiff/pull"
	"skiff/pull/store"

	"golang.org/x/sys/unix"
)

// An Unpacker unpacks the layers of a pull in a confined process, which is
// started with the first layer.
type Unpacker struct {
	staging string
	ids     idmap.Map

	mu     sync.Mutex
	worker *layers.Worker
	closed bool
	full   error         // why watch ended the worker
	done   chan struct{} // closed to end watch
}

const (
	// maxLayer is how much one layer may unpack to, in bytes of its archive. The
	// largest of real images are a tenth of it.
	maxLayer = 256 << 30

	// reserve is what unpacking leaves free of a file system, in bytes, unless a
	// twentieth of it is less: a layer of a few megabytes can hold a thousand times as much,
	// and the host shall live on. It takes more than watchEvery to fill.
	reserve    = 64 << 20
	watchEvery = 20 * time.Millisecond
)

// Room is the error, a *store.SpaceError, of a file system with less room than the reserve, for
// who is about to do op at path.
func Room(op, path string) error {
	var st unix.Statfs_t
	if unix.Statfs(path, &st) != nil {
		return nil
	}
	size, free := st.Blocks*uint64(st.Bsize), st.Bavail*uint64(st.Bsize)
	keep := min(reserve, size/20)
	if free >= keep || size == 0 {
		return nil
	}
	return &store.SpaceError{Op: op, Path: path, Free: free, FreeFiles: st.Ffree,
		Err: fmt.Errorf("%w: the last %d bytes are left to others", unix.ENOSPC, keep)}
}

// watch ends the worker when the file system is nearly full: all at once, for
// what is on its way to it could still be a gigabyte.
func (u *Unpacker) watch(w *layers.Worker, done <-chan struct{}) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		if err := Room("unpack layer in", u.staging); err != nil {
			u.mu.Lock()
			u.full = err
			u.mu.Unlock()
			w.Close()
			return
		}
		select {
		case <-tick.C:
		case <-done:
			return
		}
	}
}

// NewUnpacker returns an unpacker for layers that a store stages. Close ends
// its process.
func NewUnpacker(st *store.Store, ids idmap.Map) *Unpacker {
	return &Unpacker{staging: st.Path("tmp"), ids: ids}
}

// Start starts the process beside the caller, who knows that layers will come:
// it takes some ten milliseconds, as a manifest does. What fails is met again by Unpack.
func (u *Unpacker) Start() { go u.start() }

func (u *Unpacker) start() (*layers.Worker, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	var err error
	if u.closed {
		return nil, fs.ErrClosed
	}
	if u.worker == nil {
		if u.worker, err = layers.StartWorker(u.staging, u.ids, nil); err == nil {
			u.done = make(chan struct{})
			go u.watch(u.worker, u.done)
		}
	}
	return u.worker, err
}

// Unpack is a pull.Unpacker's: dir is a stage's, below the store's tmp.
func (u *Unpacker) Unpack(ctx context.Context, dir string, c pull.Compression, r io.Reader) (pull.Result, error) {
	w, err := u.start()
	if err != nil {
		return pull.Result{}, err
	}
	name, err := filepath.Rel(u.staging, dir)
	if err != nil {
		return pull.Result{}, err
	}
	// What is beside fs is published with it; the owners are the store's to write, so they wait in the stage's own.
	owners := filepath.Join(filepath.Dir(filepath.Dir(name)), "owners")
	job := layers.Job{Dir: name, Compression: compression(c), MaxBytes: maxLayer, Split: filepath.Join(filepath.Dir(name), store.Split)}
	if u.ids.Kind == idmap.Single {
		job.Owners = owners
	}
	res, err := w.Unpack(ctx, job, r)
	if err != nil {
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.full != nil && ctx.Err() == nil {
			return pull.Result{}, u.full
		}
		return pull.Result{}, err
	}
	out := pull.Result{DiffID: res.DiffID, Size: res.Size, Entries: res.Entries, OpaqueRoot: res.OpaqueRoot}
	if job.Owners != "" {
		path := filepath.Join(u.staging, owners)
		out.Owners, err = os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		os.Remove(path)
	}
	return out, err
}

// Close ends the process, if there was one.
func (u *Unpacker) Close() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closed = true
	if u.worker == nil {
		return nil
	}
	close(u.done)
	err := u.worker.Close()
	u.worker = nil
	return err
}

func compression(c pull.Compression) layers.Compression {
	switch c {
	case pull.Gzip:
		return layers.Gzip
	case pull.Zstd:
		return layers.Zstd
	}
	return layers.Plain
}
