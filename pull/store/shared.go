package store

import (
	"errors"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// OpenShared opens a store that others made and keep, such as one baked into a machine's
// image or mounted from a server, to be looked in and never written to. It must belong to
// the caller, for the owners of its files are those of the map in use, and be
// writable by nobody else: an *UnsafeError. Unlike Open it makes nothing.
func OpenShared(root string, ids IDs) (*Store, error) {
	if !filepath.IsAbs(root) {
		return nil, errors.New("shared store " + root + ": not an absolute path")
	}
	if _, err := os.Stat(root); err != nil {
		return nil, err
	}
	s, err := Open(root)
	if err != nil {
		return nil, err
	}
	if err := s.CheckVersion(); err != nil {
		s.Close()
		return nil, err
	}
	s.IDs, s.shared = ids, true
	return s, nil
}

// Home is the store that a layer is in: a shared one, or this, where it may also not be.
func (s *Store) Home(diffID v1.Hash) *Store {
	for _, other := range s.Shared {
		if _, ok := other.HasLayer(diffID); ok {
			return other
		}
	}
	return s
}

// orShared is an error for a record that is not here, or for one that is in a shared
// store, where it stays.
func (s *Store) orShared(ref string, err error) error {
	for _, other := range s.Shared {
		if _, oerr := other.ownImage(ref); oerr == nil {
			return &SharedError{other.root}
		}
	}
	return err
}

// A SharedError is an image that can't be removed: it is in a shared store.
type SharedError struct{ Path string }

func (e *SharedError) Error() string {
	return "it is in the shared store " + e.Path + ", which is only read"
}
