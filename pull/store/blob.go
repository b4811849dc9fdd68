package store

import (
	"bytes"
	"context"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// MaxBlob bounds what is kept as a blob: manifests and configs, no layers.
const MaxBlob = 8 << 20

func blobPath(digest v1.Hash) (string, error) {
	if _, err := hexName(digest); err != nil {
		return "", err
	}
	return "blobs/" + digest.Algorithm + "/" + digest.Hex, nil
}

// Digest is the digest of b by an algorithm that v1.Hasher knows.
func Digest(algorithm string, b []byte) (v1.Hash, error) {
	h, err := v1.Hasher(algorithm)
	if err != nil {
		return v1.Hash{}, err
	}
	h.Write(b)
	return v1.Hash{Algorithm: algorithm, Hex: fmt.Sprintf("%x", h.Sum(nil))}, nil
}

// Blob reads a blob and verifies it: the error wraps fs.ErrNotExist if it is not
// there. A blob that does not match its name (a power cut) counts as absent.
func (s *Store) Blob(digest v1.Hash) ([]byte, error) {
	b, err := s.ownBlob(digest)
	for _, other := range s.Shared {
		if err == nil {
			break
		}
		if more, oerr := other.ownBlob(digest); oerr == nil {
			b, err = more, nil
		}
	}
	return b, err
}

func (s *Store) ownBlob(digest v1.Hash) ([]byte, error) {
	path, err := blobPath(digest)
	if err != nil {
		return nil, err
	}
	b, err := s.readFile(path, MaxBlob)
	if err != nil {
		return nil, err
	}
	if have, err := Digest(digest.Algorithm, b); err != nil || have != digest {
		return nil, &AbsentError{Name: "blob " + digest.String()}
	}
	return b, nil
}

// PutBlob keeps bytes under their digest, which it verifies.
func (s *Store) PutBlob(digest v1.Hash, b []byte) error {
	path, err := blobPath(digest)
	if err != nil {
		return err
	}
	if have, err := Digest(digest.Algorithm, b); err != nil {
		return err
	} else if have != digest {
		return fmt.Errorf("blob %s: the bytes are %s", digest, have)
	}
	if err := s.Writable(); err != nil {
		return err
	}
	if old, err := s.readFile(path, MaxBlob); err == nil && bytes.Equal(old, b) {
		return nil
	}
	return s.writeFile(path, b)
}

// BlobOnce returns a blob from the store, or by fetch, which at most one
// process runs at a time. What fetch returns is verified and kept.
func (s *Store) BlobOnce(ctx context.Context, digest v1.Hash, fetch func(context.Context) ([]byte, error)) ([]byte, error) {
	if b, err := s.Blob(digest); err == nil {
		return b, nil
	}
	name, err := hexName(digest)
	if err != nil {
		return nil, err
	}
	if err := s.Writable(); err != nil {
		return nil, err
	}
	l, err := s.waitLock(ctx, "blob-"+name, "config "+digest.Hex[:12])
	if err != nil {
		return nil, err
	}
	defer l.unlock()
	if b, err := s.Blob(digest); err == nil {
		return b, nil
	}
	b, err := fetch(ctx)
	if err != nil {
		return nil, err
	}
	return b, s.PutBlob(digest, b)
}
