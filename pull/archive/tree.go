package archive

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"skiff/pull/manifest"
)

// A tree is an archive of a root file system, which becomes the only layer of an image.
type tree struct {
	f     *os.File
	image *manifest.Image
}

// OpenTree offers the image of a plain file that holds an uncompressed tar archive of
// a root file system. It is read once for its digest, which config gets its DiffID by; whether
// it is an archive is for who unpacks it to see. The layer's digest is its DiffID, so
// that the manifest stays true of an image that is saved.
func OpenTree(ctx context.Context, path string, config v1.ConfigFile) (manifest.Source, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	image, err := imageOf(ctx, f, config)
	if err != nil {
		f.Close()
		return nil, err
	}
	return &tree{f, image}, nil
}

func imageOf(ctx context.Context, f *os.File, config v1.ConfigFile) (*manifest.Image, error) {
	if info, err := f.Stat(); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: f.Name(), Err: errors.New("it is no plain file")}
	}
	sum := sha256.New()
	size, err := io.Copy(sum, &interruptible{ctx, f})
	if err != nil {
		return nil, err
	}
	d, err := v1.NewHash(fmt.Sprintf("sha256:%x", sum.Sum(nil)))
	if err != nil {
		return nil, err
	}
	config.RootFS = v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{d}}
	raw, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	doc, err := makeManifest(Save{Config: raw, DiffIDs: []v1.Hash{d}, Sizes: []int64{size}})
	if err != nil {
		return nil, err
	}
	return &manifest.Image{
		Manifest: sha(doc), Kept: [][]byte{doc}, ConfigDigest: sha(raw),
		Config: func(context.Context) ([]byte, error) { return raw, nil },
		Layers: []manifest.Layer{{Digest: d, Size: size, Open: from(io.NewSectionReader(f, 0, size))}},
	}, nil
}

func (t *tree) Image(context.Context, manifest.Want) (*manifest.Image, error) { return t.image, nil }
func (t *tree) Close() error                                                  { return t.f.Close() }

// interruptible is a reader that ends with a context.
type interruptible struct {
	ctx context.Context
	r   io.Reader
}

func (i *interruptible) Read(b []byte) (int, error) {
	if i.ctx.Err() != nil {
		return 0, context.Cause(i.ctx)
	}
	return i.r.Read(b)
}
