package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"skiff/pull/manifest"
)

// A layout is an OCI image layout, wherever its files are.
// Source: image-spec image-layout.md.
type layout struct {
	path, name string
	only       *manifest.Descriptor // instead of a name
	files      files
}

// files are the files of a layout: a directory or an archive.
type files interface {
	read(name string, limit int64) ([]byte, error)
	section(name string) (*io.SectionReader, error)
	Close() error
}

// OpenLayout opens oci:DIR[:NAME].
func OpenLayout(spec string) (manifest.Source, error) {
	dir, name := Split(spec)
	d, err := openDirectory(dir)
	if err != nil {
		return nil, err
	}
	return source(&layout{path: dir, name: name, files: d})
}

// OpenOCI opens oci-archive:FILE[:NAME].
func OpenOCI(spec string) (manifest.Source, error) {
	file, name := Split(spec)
	t, err := openTar(file, file)
	if err != nil {
		return nil, err
	}
	return source(&layout{path: file, name: name, files: t})
}

func source(l *layout) (manifest.Source, error) {
	l, err := checked(l)
	if err != nil {
		return nil, err // and no Source that is nil inside
	}
	return l, nil
}

func checked(l *layout) (*layout, error) {
	b, err := l.files.read("oci-layout", 4096)
	if err != nil {
		l.Close()
		return nil, &FormatError{l.path, "it is no OCI image layout: " + err.Error()}
	}
	var v struct{ ImageLayoutVersion string }
	if json.Unmarshal(b, &v) != nil || !strings.HasPrefix(v.ImageLayoutVersion, "1.") {
		l.Close()
		return nil, &FormatError{l.path, "its oci-layout is not of version 1"}
	}
	return l, nil
}

func (l *layout) Close() error { return l.files.Close() }

// Image finds the named image, or the only one, or, where no name is given in the file, the one for the platform.
func (l *layout) Image(ctx context.Context, want manifest.Want) (*manifest.Image, error) {
	raw, doc, err := l.index()
	if err != nil {
		return nil, err
	}
	get := func(_ context.Context, d manifest.Descriptor) ([]byte, error) {
		return l.files.read(blob(d.Digest), manifest.MaxManifest)
	}
	top, err := l.choose(doc.Manifests)
	if err != nil {
		return nil, err
	}
	var digest v1.Hash
	mediaType := manifest.OCIIndex
	if top != nil {
		if raw, err = get(ctx, *top); err != nil {
			return nil, err
		}
		if err := manifest.Verify(raw, *top); err != nil {
			return nil, fmt.Errorf("%s: %w", l.path, err)
		}
		digest, mediaType = top.Digest, top.MediaType
	}
	m, rawManifest, kept, err := manifest.Resolve(ctx, raw, mediaType, want, get)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l.path, err)
	}
	if top == nil {
		// index.json is the file's own list and nobody's image; the manifest stands for it.
		digest, kept = sha(rawManifest), kept[1:]
	}
	i := &manifest.Image{Digest: digest, Manifest: sha(rawManifest), Kept: kept, ConfigDigest: m.Config.Digest}
	return i, fill(i, m, l.path, l.files, blob)
}

// fill adds what the manifest names; name is what a blob is called among the files.
func fill(i *manifest.Image, m *manifest.Document, path string, f files, name func(v1.Hash) string) error {
	i.Config = func(context.Context) ([]byte, error) {
		b, err := f.read(name(m.Config.Digest), manifest.MaxConfig)
		if err == nil {
			err = manifest.Verify(b, m.Config)
		}
		return b, err
	}
	for _, d := range m.Layers {
		s, err := f.section(name(d.Digest))
		if err != nil {
			return err
		}
		if s.Size() != d.Size {
			return fmt.Errorf("%s: %w", path, &manifest.DigestError{What: "layer " + d.Digest.String(), Want: fmt.Sprintf("%d bytes", d.Size), Have: fmt.Sprintf("%d bytes", s.Size())})
		}
		i.Layers = append(i.Layers, manifest.Layer{Digest: d.Digest, Size: d.Size, Open: from(s)})
	}
	return nil
}

// index reads index.json.
func (l *layout) index() ([]byte, *manifest.Document, error) {
	raw, err := l.files.read("index.json", manifest.MaxManifest)
	if err != nil {
		return nil, nil, err
	}
	doc, err := manifest.Parse(raw, "")
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", l.path, err)
	}
	if !doc.IsIndex {
		return nil, nil, &FormatError{l.path, "its index.json is no index"}
	}
	return raw, doc, nil
}

// choose finds the descriptor of the asked name in index.json. nil, nil: no
// name was asked for and none is given, so index.json is an index of platforms.
func (l *layout) choose(list []manifest.Descriptor) (*manifest.Descriptor, error) {
	if l.only != nil {
		return l.only, nil
	}
	var have []string
	for i, d := range list {
		ref := d.Annotations[refName]
		full := d.Annotations[containerdName]
		if l.name != "" && (ref == l.name || full == l.name || strings.HasSuffix(ref, ":"+l.name) || strings.HasSuffix(full, ":"+l.name)) {
			return &list[i], nil
		}
		if ref == "" {
			ref = full
		}
		if ref != "" && !slices.Contains(have, ref) {
			have = append(have, ref)
		}
	}
	switch {
	case l.name != "":
		return nil, &NameError{l.path, l.name, have}
	case len(list) == 1:
		return &list[0], nil
	case len(have) > 1:
		return nil, &NameError{l.path, "", have}
	}
	return nil, nil
}

// blob is a blob's name in a layout. The digest was parsed: it is hex.
func blob(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }

// A directory holds a layout's files by a descriptor.
type directory struct {
	path string
	fd   int
	open []*os.File
}

func openDirectory(dir string) (*directory, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return &directory{path: dir, fd: fd}, nil
}

// openFiles opens a directory or an archive.
func openFiles(path, name string) (files, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return openDirectory(path)
	}
	return openTar(path, name)
}

// section opens a plain file below the directory, following no link.
func (d *directory) section(name string) (*io.SectionReader, error) {
	fd, err := unix.Openat2(d.fd, name, &unix.OpenHow{
		// O_NONBLOCK: a FIFO in the place of a blob must not stop us.
		Flags:   unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: d.path + "/" + name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	d.open = append(d.open, f)
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &FormatError{d.path, name + " is no plain file"}
	}
	return io.NewSectionReader(f, 0, info.Size()), nil
}

func (d *directory) read(name string, limit int64) ([]byte, error) {
	s, err := d.section(name)
	if err != nil {
		return nil, err
	}
	if s.Size() > limit {
		return nil, &FormatError{d.path, fmt.Sprintf("%s has %d bytes, more than %d", name, s.Size(), limit)}
	}
	b := make([]byte, s.Size())
	if _, err := s.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b, nil
}

func (d *directory) Close() error {
	for _, f := range d.open {
		f.Close()
	}
	return unix.Close(d.fd)
}
