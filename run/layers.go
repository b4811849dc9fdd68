package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"

	"skiff/internal/idmap"
	"skiff/layers"
	"skiff/pull/store"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// A LayerReader reads the store's layers in a confined process, which sees the
// layers and can change nothing, and which may read the files of subordinate ids. It is started with the
// first layer that is read.
type LayerReader struct {
	st  *store.Store
	ids idmap.Map

	mu      sync.Mutex
	workers map[*store.Store]*layers.Worker // by the store that they see
}

// NewLayerReader returns a reader. Close ends its process.
func NewLayerReader(st *store.Store, ids idmap.Map) *LayerReader {
	return &LayerReader{st: st, ids: ids, workers: map[*store.Store]*layers.Worker{}}
}

// A NoArchiveError is a layer whose archive can't be made again: an older skiff
// unpacked it, of which an archive that has a file twice was not kept, or it has more than a million files twice.
type NoArchiveError struct{ DiffID v1.Hash }

func (e *NoArchiveError) Error() string {
	return fmt.Sprintf("layer %.12s: its archive was not kept", e.DiffID.Hex)
}

// Archive writes the uncompressed archive of a layer, whose digest is its DiffID: who needs
// to be sure takes it. The error is w's, a *NoArchiveError, or wraps layers.ErrDamaged.
func (r *LayerReader) Archive(ctx context.Context, diffID v1.Hash, w io.Writer) error {
	worker, layer, err := r.open(diffID)
	if err == nil {
		err = worker.Archive(ctx, layer, w)
	}
	return explainRead(diffID, err)
}

// Check holds a layer against its archive.
func (r *LayerReader) Check(ctx context.Context, diffID v1.Hash) (layers.State, error) {
	worker, layer, err := r.open(diffID)
	if err != nil {
		return layers.State{}, explainRead(diffID, err)
	}
	state, err := worker.Check(ctx, layer)
	return state, explainRead(diffID, err)
}

func explainRead(diffID v1.Hash, err error) error {
	if errors.Is(err, fs.ErrNotExist) && !errors.Is(err, layers.ErrWorker) {
		return &NoArchiveError{diffID}
	}
	return err
}

func (r *LayerReader) open(diffID v1.Hash) (*layers.Worker, layers.Read, error) {
	dir, split, err := r.st.LayerFiles(diffID)
	if err != nil {
		return nil, layers.Read{}, err
	}
	record, err := r.st.LayerRecord(diffID)
	if err != nil {
		return nil, layers.Read{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	home := r.st.Home(diffID)
	if r.workers[home] == nil {
		if r.workers[home], err = layers.StartReader(home.Path("layers"), r.ids, nil); err != nil {
			delete(r.workers, home)
			return nil, layers.Read{}, err
		}
	}
	return r.workers[home], layers.Read{Dir: dir, Split: split, Size: record.Size}, nil
}

// Close ends the process, if there was one.
func (r *LayerReader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for _, w := range r.workers {
		errs = append(errs, w.Close())
	}
	clear(r.workers)
	return errors.Join(errs...)
}
