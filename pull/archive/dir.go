package archive

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"skiff/pull/manifest"
)

// A plainDir is one image as skopeo's dir: and podman's docker-dir have it: the manifest as
// manifest.json, or an index with the manifests it names as HEX.manifest.json, and the blobs by the
// hex digits of their digests. It has no names. Source: containers-transports(5), "dir:path".
type plainDir struct {
	path  string
	files files
}

const (
	dirVersion  = "Directory Transport Version: "
	dirManifest = "manifest.json"
)

// OpenDir opens dir:DIR.
func OpenDir(dir string) (manifest.Source, error) {
	f, err := openDirectory(dir)
	if err != nil {
		return nil, err
	}
	d := &plainDir{dir, f}
	if err := d.check(); err != nil {
		f.Close()
		return nil, err
	}
	return d, nil
}

// check wants the file that says what the directory is.
func (d *plainDir) check() error {
	b, err := d.files.read("version", 4096)
	if err != nil {
		return &FormatError{d.path, "it is no directory of one image: " + err.Error()}
	}
	if version, ok := strings.CutPrefix(string(b), dirVersion); !ok || !strings.HasPrefix(version, "1.") {
		return &FormatError{d.path, "its version is none of 1.x"}
	}
	return nil
}

func (d *plainDir) Close() error { return d.files.Close() }

func (d *plainDir) Image(ctx context.Context, want manifest.Want) (*manifest.Image, error) {
	raw, err := d.files.read(dirManifest, manifest.MaxManifest)
	if err != nil {
		return nil, err
	}
	m, rawManifest, kept, err := manifest.Resolve(ctx, raw, "", want, func(_ context.Context, to manifest.Descriptor) ([]byte, error) {
		return d.files.read(to.Digest.Hex+".manifest.json", manifest.MaxManifest)
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.path, err)
	}
	i := &manifest.Image{Digest: sha(raw), Manifest: sha(rawManifest), Kept: kept, ConfigDigest: m.Config.Digest}
	return i, fill(i, m, d.path, d.files, func(h v1.Hash) string { return h.Hex })
}

// WriteDir writes one image as a plain directory. Its manifest is docker's, as podman's docker-dir has
// it, and the layers are not compressed, as with Write.
func WriteDir(to Sink, img Save, layer func(v1.Hash, io.Writer) error) error {
	raw := img.Manifest
	if raw == nil || mediaTypeOf(raw) != types.DockerManifestSchema2 {
		var err error
		if raw, err = dockerManifest(img); err != nil {
			return err
		}
	}
	put := func(name string, b []byte) error {
		return to.Put(name, int64(len(b)), func(w io.Writer) error { _, err := w.Write(b); return err })
	}
	written := map[v1.Hash]bool{}
	for i, d := range img.DiffIDs {
		if written[d] {
			continue
		}
		written[d] = true
		if err := to.Put(d.Hex, img.Sizes[i], func(w io.Writer) error { return verified(w, d, layer) }); err != nil {
			return err
		}
	}
	if err := put(sha(img.Config).Hex, img.Config); err != nil {
		return err
	}
	if err := put("version", []byte(dirVersion+"1.1\n")); err != nil {
		return err
	}
	return put(dirManifest, raw) // the last: what has it is whole
}

// dockerManifest describes the layers as they are written here, in docker's words.
func dockerManifest(img Save) ([]byte, error) {
	raw, err := makeManifest(img)
	if err != nil {
		return nil, err
	}
	var m v1.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, err
	}
	m.MediaType, m.Config.MediaType = types.DockerManifestSchema2, types.DockerConfigJSON
	for i := range m.Layers {
		m.Layers[i].MediaType = types.DockerUncompressedLayer
	}
	return json.Marshal(m)
}

// kept is d, of which the files are closed by somebody else.
func (d *plainDir) kept() *plainDir { return &plainDir{d.path, keptOpen{d.files}} }
