package archive

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"skiff/pull/manifest"
)

// A Save is one image that is written.
type Save struct {
	Names    []string // full references; an image may have none
	Config   []byte   // as it is: its digest is the image's id
	Manifest []byte   // the image's own, if its layers are not compressed; else nil, and one is made
	DiffIDs  []v1.Hash
	Sizes    []int64 // of the uncompressed layers, in bytes
	Platform v1.Platform
}

// Write writes images as both an OCI image layout and what `docker save`
// writes: one set of blobs, and beside index.json a manifest.json. So docker, podman, skopeo
// and containerd read it, each in its own way. The layers are not compressed: their digests are
// the DiffIDs, and the image's id stays what it is. The same images make the same bytes.
//
// layer writes the archive of a layer, each once. What it writes is verified.
func Write(to Sink, images []Save, layer func(v1.Hash, io.Writer) error) error {
	written := map[string]bool{}
	put := func(name string, b []byte) error {
		if written[name] {
			return nil
		}
		written[name] = true
		return to.Put(name, int64(len(b)), func(w io.Writer) error { _, err := w.Write(b); return err })
	}
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	var docker []dockerSave
	for _, img := range images {
		m := img.Manifest
		if m == nil {
			var err error
			if m, err = makeManifest(img); err != nil {
				return err
			}
		}
		entry := dockerSave{Config: blob(sha(img.Config))}
		for i, d := range img.DiffIDs {
			name := blob(d)
			entry.Layers = append(entry.Layers, name)
			if written[name] {
				continue
			}
			written[name] = true
			if err := to.Put(name, img.Sizes[i], func(w io.Writer) error { return verified(w, d, layer) }); err != nil {
				return err
			}
		}
		for _, b := range [][]byte{img.Config, m} {
			if err := put(blob(sha(b)), b); err != nil {
				return err
			}
		}
		d := v1.Descriptor{MediaType: mediaTypeOf(m), Digest: sha(m), Size: int64(len(m)), Platform: &img.Platform}
		for _, name := range img.Names {
			named := d
			// Both hold the name in full: containerd, docker and podman read the first,
			// skopeo the second.
			named.Annotations = map[string]string{containerdName: name, refName: name}
			index.Manifests = append(index.Manifests, named)
			entry.RepoTags = append(entry.RepoTags, name)
		}
		if len(img.Names) == 0 {
			index.Manifests = append(index.Manifests, d)
		}
		docker = append(docker, entry)
	}
	for _, f := range []struct {
		name  string
		value any
	}{{"index.json", index}, {"manifest.json", docker}, {"oci-layout", map[string]string{"imageLayoutVersion": "1.0.0"}}} {
		b, err := json.Marshal(f.value)
		if err != nil {
			return err
		}
		if err := put(f.name, b); err != nil {
			return err
		}
	}
	return nil
}

const (
	refName        = "org.opencontainers.image.ref.name"
	containerdName = "io.containerd.image.name"
)

// A dockerSave is an entry of manifest.json. Source: moby, image/spec/v1.2.md.
type dockerSave struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func mediaTypeOf(m []byte) types.MediaType {
	var head struct{ MediaType types.MediaType }
	if json.Unmarshal(m, &head) == nil && head.MediaType != "" {
		return head.MediaType
	}
	return types.OCIManifestSchema1
}

// makeManifest describes the layers as they are written here.
func makeManifest(img Save) ([]byte, error) {
	m := v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1,
		Config: v1.Descriptor{MediaType: types.OCIConfigJSON, Digest: sha(img.Config), Size: int64(len(img.Config))},
	}
	for i, d := range img.DiffIDs {
		m.Layers = append(m.Layers, v1.Descriptor{MediaType: types.OCIUncompressedLayer, Digest: d, Size: img.Sizes[i]})
	}
	return json.Marshal(m)
}

// verified writes a layer and holds it against its digest.
func verified(w io.Writer, d v1.Hash, layer func(v1.Hash, io.Writer) error) error {
	h := sha256.New()
	if err := layer(d, io.MultiWriter(w, h)); err != nil {
		return err
	}
	if have := fmt.Sprintf("%x", h.Sum(nil)); d.Algorithm == "sha256" && have != d.Hex {
		return &manifest.DigestError{What: "layer on this disk", Want: d.String(), Have: "sha256:" + have}
	}
	return nil
}

// A Sink is where an archive is written.
type Sink interface {
	// Put makes a file of that size, which write fills.
	Put(name string, size int64, write func(io.Writer) error) error
	Close() error
}

// NewTar is a Sink that makes one tar archive. Close ends it, and does not close w.
func NewTar(w io.Writer) Sink { return &tarSink{w: tar.NewWriter(w), made: map[string]bool{}} }

type tarSink struct {
	w    *tar.Writer
	made map[string]bool
}

func (t *tarSink) Put(name string, size int64, write func(io.Writer) error) error {
	for _, dir := range parents(name) {
		if !t.made[dir] {
			t.made[dir] = true
			h := &tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
			if err := t.w.WriteHeader(h); err != nil {
				return err
			}
		}
	}
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0)}
	if err := t.w.WriteHeader(h); err != nil {
		return err
	}
	if err := write(t.w); err != nil {
		return err
	}
	return t.w.Flush()
}

func (t *tarSink) Close() error { return t.w.Close() }

// parents are the directories above a name, outermost first.
func parents(name string) []string {
	var dirs []string
	for dir := filepath.Dir(name); dir != "."; dir = filepath.Dir(dir) {
		dirs = append([]string{dir}, dirs...)
	}
	return dirs
}

// NewDir is a Sink that makes a directory, which must be empty or not there.
func NewDir(dir string) (Sink, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	if len(names) > 0 {
		return nil, &FormatError{dir, "the directory is not empty"}
	}
	return dirSink(dir), nil
}

type dirSink string

func (d dirSink) Put(name string, size int64, write func(io.Writer) error) error {
	path := filepath.Join(string(d), name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	err = write(f)
	if info, serr := f.Stat(); err == nil && serr == nil && info.Size() != size {
		err = fmt.Errorf("%s: %d bytes, not %d", path, info.Size(), size)
	}
	return errors.Join(err, f.Close())
}

func (d dirSink) Close() error { return nil }
