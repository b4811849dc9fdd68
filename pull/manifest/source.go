package manifest

import (
	"context"
	"errors"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// A Source has images to offer: a registry, a file, the binary itself.
type Source interface {
	// Image finds the image for a platform. It reads manifests and no layer. What
	// it finds is valid until Close.
	Image(ctx context.Context, want Want) (*Image, error)
	Close() error
}

// An Image is what a source offers; its config and layers are yet to be read.
type Image struct {
	Digest   v1.Hash  // what the name points to: an index or a manifest; zero if the source has neither
	Manifest v1.Hash  // the manifest; zero if the source has none
	Kept     [][]byte // the documents read on the way, to be kept as blobs

	ConfigDigest v1.Hash
	Config       func(context.Context) ([]byte, error) // to be verified by who calls it

	Layers []Layer // base first, one per diff_id
}

// A Layer is one layer's bytes at their source, compressed or not.
type Layer struct {
	Digest v1.Hash // of these bytes; zero if the source knows only DiffIDs
	Size   int64   // of these bytes
	// Open reads from an offset to the end. A reader may break: then it is opened again where it broke.
	Open func(ctx context.Context, offset int64) (io.ReadCloser, error)
	// Range reads from one offset to another, which is Size at most, for several
	// connections to share the work; transfer.ErrNoRange if the source can't. nil: there is nothing to gain.
	Range func(ctx context.Context, from, to int64) (io.ReadCloser, error)
}

const (
	maxNested  = 4  // an index in an index …
	maxFetches = 16 // of documents for one image
)

// Resolve goes from a document to the manifest of the wanted platform by way of
// whatever indexes lie between. get reads a document; its size and digest are verified here.
// It returns the manifest, its bytes, and all documents on the way.
func Resolve(ctx context.Context, raw []byte, mediaType string, want Want, get func(context.Context, Descriptor) ([]byte, error)) (*Document, []byte, [][]byte, error) {
	fetches := 0
	var walk func(raw []byte, mediaType string, depth int) (*Document, []byte, [][]byte, error)
	walk = func(raw []byte, mediaType string, depth int) (*Document, []byte, [][]byte, error) {
		doc, err := Parse(raw, mediaType)
		if err != nil {
			return nil, nil, nil, err
		}
		if !doc.IsIndex {
			return doc, raw, [][]byte{raw}, nil
		}
		if depth == maxNested {
			return nil, nil, nil, invalid("index", fmt.Errorf("it nests deeper than %d", maxNested))
		}
		list, err := doc.Choose(want)
		if err != nil {
			return nil, nil, nil, err
		}
		var first error
		for _, d := range list {
			if fetches++; fetches > maxFetches {
				return nil, nil, nil, invalid("index", fmt.Errorf("it leads to more than %d documents", maxFetches))
			}
			if d.Size > MaxManifest {
				return nil, nil, nil, invalid("index", fmt.Errorf("a manifest of %d bytes is longer than %d", d.Size, MaxManifest))
			}
			b, err := get(ctx, d)
			if err != nil {
				return nil, nil, nil, err
			}
			if err := Verify(b, d); err != nil {
				return nil, nil, nil, err
			}
			doc, m, kept, err := walk(b, d.MediaType, depth+1)
			if err == nil {
				return doc, m, append([][]byte{raw}, kept...), nil
			}
			if first == nil {
				first = err
			}
			var elsewhere *PlatformError
			if !errors.As(err, &elsewhere) {
				break
			}
		}
		return nil, nil, nil, first
	}
	return walk(raw, mediaType, 0)
}

// A DigestError is bytes that are not what their name says.
type DigestError struct {
	What       string // "layer", "manifest", "config", "blob"
	Want, Have string
}

func (e *DigestError) Error() string {
	return fmt.Sprintf("%s: the bytes are %s, not %s", e.What, e.Have, e.Want)
}

// Verify holds bytes against their descriptor.
func Verify(b []byte, d Descriptor) error {
	if int64(len(b)) != d.Size {
		return &DigestError{"blob " + d.Digest.String(), fmt.Sprintf("%d bytes", d.Size), fmt.Sprintf("%d bytes", len(b))}
	}
	return VerifyDigest(b, d.Digest)
}

// VerifyDigest holds bytes against a digest.
func VerifyDigest(b []byte, want v1.Hash) error {
	h, err := v1.Hasher(want.Algorithm)
	if err != nil {
		return err
	}
	h.Write(b)
	if have := fmt.Sprintf("%x", h.Sum(nil)); have != want.Hex {
		return &DigestError{"blob", want.String(), want.Algorithm + ":" + have}
	}
	return nil
}
