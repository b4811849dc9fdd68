package run

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"skiff/internal/idmap"
	"skiff/layers"
	"skiff/pull"
	"skiff/pull/store"
)

// An Unpacker unpacks the layers of a pull in a confined process, which is
// started with the first layer.
type Unpacker struct {
	staging string
	ids     idmap.Map

	mu     sync.Mutex
	worker *layers.Worker
}

// NewUnpacker returns an unpacker for layers that a store stages. Close ends
// its process.
func NewUnpacker(st *store.Store, ids idmap.Map) *Unpacker {
	return &Unpacker{staging: st.Path("tmp"), ids: ids}
}

func (u *Unpacker) start() (*layers.Worker, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	var err error
	if u.worker == nil {
		u.worker, err = layers.StartWorker(u.staging, u.ids, nil)
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
	// The layer's directory holds fs alone until it is published: its parent
	// is the stage's own.
	owners := filepath.Join(filepath.Dir(filepath.Dir(name)), "owners")
	job := layers.Job{Dir: name, Compression: compression(c)}
	if u.ids.Kind == idmap.Single {
		job.Owners = owners
	}
	res, err := w.Unpack(ctx, job, r)
	if err != nil {
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
	if u.worker == nil {
		return nil
	}
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
