package layers

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"skiff/internal/rmtree"
	"skiff/testdata/image"
)

// entries reads an archive with this package's reader, contents unfolded.
func entries(archive []byte) (names []string, hs []header, bodies []string, err error) {
	s := newStream()
	go s.sum()
	go s.fill(bytes.NewReader(archive), 0)
	defer s.stop()
	r := tarReader{s: s}
	for {
		var h header
		err := r.next(&h)
		if err == io.EOF {
			return names, hs, bodies, nil
		}
		if err != nil {
			return names, hs, bodies, err
		}
		body := ""
		if h.isSparse && h.size < 1<<20 {
			b := make([]byte, h.size)
			for _, f := range h.sparse {
				if err := unexpected(s.full(b[f.offset:][:f.size])); err != nil {
					return names, hs, bodies, err
				}
				r.content -= f.size
			}
			body = string(b)
		} else if !h.isSparse && h.size < 1<<20 {
			b := make([]byte, h.size)
			if err := unexpected(s.full(b)); err != nil {
				return names, hs, bodies, err
			}
			r.content = 0
			body = string(b)
		}
		names, hs, bodies = append(names, h.name), append(hs, h), append(bodies, body)
	}
}

// compare holds the reader against archive/tar: what both accept they read
// alike, and what archive/tar refuses is refused here too.
func compare(t *testing.T, archive []byte) {
	_, hs, bodies, err := entries(archive)
	std := tar.NewReader(bytes.NewReader(archive))
	i := 0
	for {
		h, serr := std.Next()
		if serr == nil && h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if serr == io.EOF && err == nil {
			if i != len(hs) {
				t.Fatalf("%d entries, archive/tar has %d", len(hs), i)
			}
			return
		}
		if serr != nil {
			// One step of grace: a header may be read before its content is missed.
			if err == nil {
				t.Fatalf("archive/tar says %v at entry %d, this reader nothing", serr, i)
			}
			return
		}
		if i >= len(hs) {
			if err == nil {
				t.Fatalf("archive/tar has entry %q more", h.Name)
			}
			return
		}
		got := hs[i]
		name, link := h.Name, h.Linkname
		if got.name != name || got.link != link || got.uid != int64(h.Uid) || got.gid != int64(h.Gid) || int64(got.mode) != h.Mode&0o7777 {
			t.Fatalf("entry %d: %+v, archive/tar %+v", i, got, h)
		}
		if mtime := time.Unix(got.mtime.sec, int64(got.mtime.nsec)); !mtime.Equal(h.ModTime) {
			t.Fatalf("entry %d: time %v, archive/tar %v", i, mtime, h.ModTime)
		}
		for _, x := range got.xattrs {
			if h.PAXRecords["SCHILY.xattr."+x.name] == "" {
				t.Fatalf("entry %d: attribute %q, archive/tar %v", i, x.name, h.PAXRecords)
			}
		}
		switch h.Typeflag {
		case tar.TypeReg, tar.TypeGNUSparse:
			if got.size != h.Size {
				t.Fatalf("entry %d: %d bytes, archive/tar %d", i, got.size, h.Size)
			}
			if got.size < 1<<20 {
				body, serr := io.ReadAll(std)
				if serr == nil && string(body) != bodies[i] {
					t.Fatalf("entry %d: body %q, archive/tar %q", i, bodies[i], body)
				}
			}
		}
		i++
	}
}

// archives are seeds: the catalogue's small ones and what archive/tar writes.
func archives(t testing.TB) map[string][]byte {
	seeds := map[string][]byte{}
	for _, c := range image.Hostile() {
		for _, l := range c.Layers {
			if strings.Contains(c.Name, "bomb") || strings.Contains(c.Name, "64MiB") || strings.Contains(c.Name, "8EiB") {
				continue
			}
			var b bytes.Buffer
			if err := l.WriteTar(&b); err != nil {
				t.Fatal(err)
			}
			seeds[c.Name] = b.Bytes()
		}
	}
	for _, format := range []tar.Format{tar.FormatUSTAR, tar.FormatPAX, tar.FormatGNU} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range []tar.Header{
			{Name: "dir/", Typeflag: tar.TypeDir, Mode: 0o1777, ModTime: time.Unix(1e9, 0)},
			{Name: "dir/" + strings.Repeat("n", 80) + "/" + strings.Repeat("m", 60), Typeflag: tar.TypeReg, Size: 5, Uid: 70, Gid: 71},
			{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "dir", ModTime: time.Unix(0, 0)},
			{Name: "dev", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3},
		} {
			h.Format = format
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(format, err)
			}
			w.Write([]byte("12345")[:h.Size])
		}
		w.Close()
		seeds["written-"+format.String()] = b.Bytes()
	}
	return seeds
}

func TestLikeArchiveTar(t *testing.T) {
	for name, archive := range archives(t) {
		t.Run(name, func(t *testing.T) { compare(t, archive) })
	}
}

func FuzzLikeArchiveTar(f *testing.F) {
	for _, archive := range archives(f) {
		if len(archive) < 16<<10 {
			f.Add(archive)
		}
	}
	f.Fuzz(func(t *testing.T, archive []byte) { compare(t, archive) })
}

// FuzzApply unpacks arbitrary bytes: whatever they are, nothing outside the
// directory changes, and nothing panics.
func FuzzApply(f *testing.F) {
	for _, archive := range archives(f) {
		if len(archive) < 16<<10 {
			f.Add(archive)
		}
	}
	base, err := os.MkdirTemp("", "layers-fuzz-")
	if err != nil {
		f.Fatal(err)
	}
	defer os.RemoveAll(base)
	dir := filepath.Join(base, "staging", "fs")
	os.MkdirAll(filepath.Join(base, "marker"), 0o755)
	os.WriteFile(filepath.Join(base, "marker", "secret"), []byte("secret"), 0o644)
	f.Fuzz(func(t *testing.T, archive []byte) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		before := snapshot(t, base, dir)
		root, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		r, err := Decompress(bytes.NewReader(archive), Detect)
		if err == nil {
			_, err = Apply(root, r, Options{Squash: true, MaxBytes: 64 << 20, MaxEntries: 10000})
			r.Close()
		}
		var entry *EntryError
		if err != nil && errors.As(err, &entry) && strings.ContainsAny(err.Error(), "\x1b\n") {
			t.Errorf("error is not escaped: %q", err)
		}
		if after := snapshot(t, base, dir); after != before {
			t.Errorf("outside changed:\n%s\nwas\n%s", after, before)
		}
		if err := rmtree.At(int(mustOpen(t, filepath.Dir(dir)).Fd()), "fs"); err != nil {
			t.Error(err)
		}
	})
}

func mustOpen(t *testing.T, dir string) *os.File {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}
