// Package image makes images for tests: layers entry by entry, down to archives
// that no tool would write, whole images, registries and files that hold them,
// and the catalogue of hostile ones.
//
// It writes archives with its own code, so that a test does not compare a
// reader with its own writer, and so that every field can lie.
//
// Limits: for tests only; nothing else may import it. Blobs are kept in memory.
package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"runtime"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// A Packing is how a layer becomes a blob.
type Packing int

const (
	Gzip Packing = iota
	Plain
	Zstd
)

// A Layer is one changeset. Its zero value is an archive without entries.
type Layer struct {
	Entries []Entry
	Packing Packing

	// Tar writes the uncompressed archive, instead of Entries.
	Tar func(w io.Writer) error

	// Blob writes the blob, instead of packing the archive. The layer's DiffID
	// stays that of the archive.
	Blob func(w io.Writer) error

	// MediaType is what the manifest says, if not what the packing is.
	MediaType types.MediaType
}

// L is a layer of these entries, compressed with gzip.
func L(entries ...Entry) Layer { return Layer{Entries: entries} }

// WriteTar writes the uncompressed archive.
func (l Layer) WriteTar(w io.Writer) error {
	if l.Tar != nil {
		return l.Tar(w)
	}
	for _, e := range l.Entries {
		if err := e.write(w); err != nil {
			return err
		}
	}
	_, err := w.Write(make([]byte, 2*blockSize))
	return err
}

// WriteBlob writes the layer as it is stored and sent.
func (l Layer) WriteBlob(w io.Writer) error {
	if l.Blob != nil {
		return l.Blob(w)
	}
	var z io.WriteCloser
	switch l.Packing {
	case Plain:
		return l.WriteTar(w)
	case Gzip:
		z, _ = gzip.NewWriterLevel(w, gzip.BestSpeed)
	case Zstd:
		z, _ = zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
	}
	if err := l.WriteTar(z); err != nil {
		return err
	}
	return z.Close()
}

// Bytes is the blob.
func (l Layer) Bytes() []byte {
	var b bytes.Buffer
	if err := l.WriteBlob(&b); err != nil {
		panic(err) // a test's own mistake
	}
	return b.Bytes()
}

// DiffID is the digest of the uncompressed archive.
func (l Layer) DiffID() v1.Hash {
	h := sha256.New()
	if err := l.WriteTar(h); err != nil {
		panic(err)
	}
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.Sum(nil))}
}

// V1 is the layer as go-containerregistry sees it.
func (l Layer) V1() v1.Layer { return &v1Layer{layer: l, blob: sync.OnceValue(l.Bytes)} }

type v1Layer struct {
	layer Layer
	blob  func() []byte
}

func (l *v1Layer) Digest() (v1.Hash, error) {
	h, _, err := v1.SHA256(bytes.NewReader(l.blob()))
	return h, err
}
func (l *v1Layer) DiffID() (v1.Hash, error) { return l.layer.DiffID(), nil }
func (l *v1Layer) Compressed() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(l.blob())), nil
}
func (l *v1Layer) Size() (int64, error) { return int64(len(l.blob())), nil }
func (l *v1Layer) Uncompressed() (io.ReadCloser, error) {
	r, w := io.Pipe()
	go func() { w.CloseWithError(l.layer.WriteTar(w)) }()
	return r, nil
}
func (l *v1Layer) MediaType() (types.MediaType, error) {
	switch {
	case l.layer.MediaType != "":
		return l.layer.MediaType, nil
	case l.layer.Packing == Plain:
		return types.OCIUncompressedLayer, nil
	case l.layer.Packing == Zstd:
		return types.OCILayerZStd, nil
	}
	return types.OCILayer, nil
}

// New makes an OCI image for this machine's platform. change may be nil.
func New(change func(*v1.ConfigFile), layers ...Layer) (v1.Image, error) {
	config := &v1.ConfigFile{OS: "linux", Architecture: runtime.GOARCH, RootFS: v1.RootFS{Type: "layers"}}
	config.Config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	if change != nil {
		change(config)
	}
	img := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	img = mutate.ConfigMediaType(img, types.OCIConfigJSON)
	img, err := mutate.ConfigFile(img, config)
	if err != nil {
		return nil, err
	}
	var ls []v1.Layer
	for _, l := range layers {
		ls = append(ls, l.V1())
	}
	return mutate.AppendLayers(img, ls...)
}
