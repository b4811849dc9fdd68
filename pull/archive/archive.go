// Package archive offers the images of files: an OCI layout as a directory or a
// tar archive, what `docker save` writes, and skopeo's directory of one image.
//
// An archive is listed once and read in place by offset: its memory is that of its
// names, and nothing of it is written anywhere. The names in it are looked up
// in that list and never on the disk; in a layout's directory only blobs/<algorithm>/<hex>
// of a checked digest are opened, and without following links.
//
// Limits: archives must be plain files and not themselves compressed, since a pipe cannot be read twice.
package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

const (
	maxEntries = 100_000
	maxName    = 4096
	maxNames   = 8 << 20 // bytes of all names, which are held in memory
	maxLinks   = 10
)

// A FormatError is a file that is not what it was called.
type FormatError struct {
	Path, Why string
}

func (e *FormatError) Error() string { return e.Path + ": " + e.Why }

// A NameError is an image that a file does not have, or a choice that was not made.
type NameError struct {
	Path, Name string   // Name is empty if none was asked for
	Have       []string // the names in it
}

func (e *NameError) Error() string {
	have := "none has a name"
	if len(e.Have) > 0 {
		have = "it has " + strings.Join(e.Have[:min(len(e.Have), 20)], ", ")
	}
	if e.Name == "" {
		return fmt.Sprintf("%s holds several images; name one: %s", e.Path, have)
	}
	return fmt.Sprintf("%s has no image %s; %s", e.Path, e.Name, have)
}

// Split takes PATH[:NAME] apart: the longest beginning that exists is the path,
// since a path may hold colons.
func Split(s string) (file, name string) {
	if _, err := os.Lstat(s); err == nil {
		return s, ""
	}
	for i := len(s) - 1; i > 0; i-- {
		if s[i] == ':' {
			if _, err := os.Lstat(s[:i]); err == nil {
				return s[:i], s[i+1:]
			}
		}
	}
	return s, ""
}

// A tarball is an archive that has been listed.
type tarball struct {
	path  string
	f     *os.File
	files map[string]entry
}

type entry struct {
	offset, size int64
	link         string // the name in the archive that it stands for
}

// openTar lists an archive. Only plain files and links are kept; the last of a name wins, as in
// extraction. Errors call it by name.
func openTar(path, name string) (*tarball, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	t := &tarball{path: name, f: f, files: map[string]entry{}}
	if err := t.list(); err != nil {
		f.Close()
		return nil, err
	}
	return t, nil
}

func (t *tarball) list() error {
	bad := func(why string) error { return &FormatError{t.path, why} }
	info, err := t.f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return bad("it is no plain file; an archive is read in several places")
	}
	var head [4]byte
	if n, _ := t.f.ReadAt(head[:], 0); n == 4 && (head[0] == 0x1f && head[1] == 0x8b || head == [4]byte{0x28, 0xb5, 0x2f, 0xfd}) {
		return bad("the archive itself is compressed; unpack it with gunzip or unzstd first")
	}
	r := tar.NewReader(t.f)
	for n, names := 0, 0; ; n++ {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			if n == 0 {
				return bad("it is no tar archive")
			}
			return nil
		}
		if err != nil {
			return bad(err.Error())
		}
		names += len(h.Name) + len(h.Linkname)
		if n == maxEntries || names > maxNames || max(len(h.Name), len(h.Linkname)) > maxName {
			return bad("it has too many names or too long ones for an image archive")
		}
		key := path.Clean("/" + h.Name)[1:]
		switch h.Typeflag {
		case tar.TypeReg:
			// archive/tar reads headers unbuffered, so the file stands where the data begin.
			at, err := t.f.Seek(0, io.SeekCurrent)
			if err != nil {
				return err
			}
			if h.PAXRecords["GNU.sparse.major"] != "" || h.PAXRecords["GNU.sparse.map"] != "" || at+h.Size > info.Size() {
				return bad("an entry is sparse or cut short")
			}
			t.files[key] = entry{offset: at, size: h.Size}
		case tar.TypeSymlink:
			t.files[key] = entry{link: path.Clean("/" + path.Join(path.Dir(key), h.Linkname))[1:]}
		case tar.TypeLink:
			t.files[key] = entry{link: path.Clean("/" + h.Linkname)[1:]}
		}
	}
}

// section finds a file, following the archive's own links, as old versions of docker
// wrote for layers that are the same.
func (t *tarball) section(name string) (*io.SectionReader, error) {
	key := path.Clean("/" + name)[1:]
	for range maxLinks {
		e, ok := t.files[key]
		if !ok {
			return nil, &FormatError{t.path, fmt.Sprintf("there is no %q in it", name)}
		}
		if e.link == "" {
			return io.NewSectionReader(t.f, e.offset, e.size), nil
		}
		key = e.link
	}
	return nil, &FormatError{t.path, fmt.Sprintf("%q is a loop of links", name)}
}

// read reads a small file of the archive.
func (t *tarball) read(name string, limit int64) ([]byte, error) {
	s, err := t.section(name)
	if err != nil {
		return nil, err
	}
	if s.Size() > limit {
		return nil, &FormatError{t.path, fmt.Sprintf("%q has %d bytes, more than %d", name, s.Size(), limit)}
	}
	return io.ReadAll(s)
}

func (t *tarball) Close() error { return t.f.Close() }

// from opens a section at an offset, for manifest.Layer.Open.
func from(s *io.SectionReader) func(context.Context, int64) (io.ReadCloser, error) {
	return func(_ context.Context, offset int64) (io.ReadCloser, error) {
		return io.NopCloser(io.NewSectionReader(s, offset, s.Size()-offset)), nil
	}
}

// sha is a small document's digest.
func sha(b []byte) v1.Hash {
	h, _, _ := v1.SHA256(strings.NewReader(string(b)))
	return h
}
