package run

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What is written of a sparse file package archive/tar reads as it was, between other entries.
func TestSparse(t *testing.T) {
	long := strings.Repeat("d/", 120) + "é\n=" + strings.Repeat("n", 200)
	for name, c := range map[string]struct {
		size   int64
		parts  map[int64]string // by offset
		header tar.Header
	}{
		"nothing":       {size: 100 << 20},
		"begin":         {size: 100 << 20, parts: map[int64]string{0: "begin"}},
		"end":           {size: 100<<20 + 3, parts: map[int64]string{100 << 20: "end"}},
		"middle":        {size: 300 << 20, parts: map[int64]string{100<<20 + 7: "middle", 200 << 20: strings.Repeat("x", 1<<16)}},
		"a long name":   {size: 100 << 20, parts: map[int64]string{5: "x"}, header: tar.Header{Name: long}},
		"a large owner": {size: 100 << 20, header: tar.Header{Uid: 1<<31 - 1, Gid: 1 << 21, Mode: 0o4755, ModTime: time.Unix(-2, 5e8), PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b\n=c"}}},
		"before 1970":   {size: 100 << 20, header: tar.Header{ModTime: time.Unix(-7, 0)}},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "f")
			f, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := f.Truncate(c.size); err != nil {
				t.Fatal(err)
			}
			for at, s := range c.parts {
				if _, err := f.WriteAt([]byte(s), at); err != nil {
					t.Fatal(err)
				}
			}
			parts, held := fragments(f, c.size)
			if held > 10<<20 {
				t.Fatalf("%d bytes in fragments %v: this file system has no holes", held, parts)
			}
			want := c.header
			if want.Size = c.size; want.Name == "" {
				want.Name = "d/f"
			}
			if want.ModTime.IsZero() {
				want.ModTime = time.Unix(1e9, 123)
			}
			var b bytes.Buffer
			x := &exporter{ctx: context.Background(), to: tar.NewWriter(&b), raw: &b, buf: make([]byte, 4096)}
			other := func(name string) {
				h := &tar.Header{Name: name, Size: 3, Mode: 0o644, Format: tar.FormatPAX}
				if err := x.to.WriteHeader(h); err != nil {
					t.Fatal(err)
				}
				io.WriteString(x.to, "abc")
			}
			other("before")
			if err := x.sparse(&want, f, parts, held); err != nil {
				t.Fatal(err)
			}
			other("after")
			if err := x.to.Close(); err != nil {
				t.Fatal(err)
			}
			r := tar.NewReader(&b)
			for _, name := range []string{"before", want.Name, "after"} {
				h, err := r.Next()
				if err != nil || h.Name != name {
					t.Fatalf("%q: %+v, %v", name, h, err)
				}
				if name != want.Name {
					continue
				}
				if h.Size != want.Size || h.Uid != want.Uid || h.Gid != want.Gid || h.Mode != want.Mode || !h.ModTime.Equal(want.ModTime) ||
					h.PAXRecords["SCHILY.xattr.user.a"] != want.PAXRecords["SCHILY.xattr.user.a"] {
					t.Errorf("%+v, want %+v", h, want)
				}
				if _, err := f.Seek(0, io.SeekStart); err != nil {
					t.Fatal(err)
				}
				if !reads(r, f) {
					t.Error("it reads as something else")
				}
			}
		})
	}
}

func reads(a, b io.Reader) bool {
	x, y := make([]byte, 1<<20), make([]byte, 1<<20)
	for {
		n, errA := io.ReadFull(a, x)
		m, errB := io.ReadFull(b, y)
		if n != m || !bytes.Equal(x[:n], y[:m]) {
			return false
		}
		if errA != nil || errB != nil {
			return errA == errB
		}
	}
}
