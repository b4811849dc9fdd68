package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"skiff/testdata/image"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/zstd"
)

// A large is an image that is worth timing the pull of.
type large struct {
	name   string
	layers []image.Layer
	size   int64 // bytes of its archives
}

const (
	bigLayers = 11
	bigSize   = 900 << 20 // uncompressed, in all layers
	oneSize   = 150 << 20 // at least, of the image with one layer; some 60 MB compressed
	manyFiles = 60_000
	oneLayer  = "one layer"
	maxFile   = 64 << 20 // larger files of /usr are passed over
)

// larges makes the images out of this machine's /usr, as distributions ship it:
// programs, libraries, scripts, documents. Each is compressed as docker push does
// it (Go's gzip, level 6) unless its name says otherwise.
func larges() ([]large, error) {
	archives, err := archive("/usr", bigSize/bigLayers, bigLayers)
	if err != nil {
		return nil, err
	}
	small := smallFiles(manyFiles)
	program, err := busyboxArchive()
	if err != nil {
		return nil, err
	}
	one := joined(append([][]byte{program}, archives...), oneSize)
	type job struct {
		to   *image.Layer
		tar  []byte
		kind image.Packing
	}
	list := []large{{name: "big"}, {name: "big, zstd"}, {name: "60,000 files"}, {name: oneLayer}}
	var jobs []job
	add := func(i int, kind image.Packing, tars ...[]byte) {
		l := &list[i]
		l.layers = make([]image.Layer, len(tars))
		for j, t := range tars {
			l.size += int64(len(t))
			jobs = append(jobs, job{&l.layers[j], t, kind})
		}
	}
	add(0, image.Gzip, archives...)
	add(1, image.Zstd, archives...)
	add(2, image.Gzip, small)
	add(3, image.Gzip, one)

	queue := make(chan job, len(jobs))
	for _, j := range jobs {
		queue <- j
	}
	close(queue)
	var workers sync.WaitGroup
	for range runtime.NumCPU() {
		workers.Go(func() {
			for j := range queue {
				*j.to = packed(j.tar, j.kind)
			}
		})
	}
	workers.Wait()
	return list, nil
}

func (l large) image() (v1.Image, error) { return image.New(nil, l.layers...) }

// packed compresses once; the archive itself is kept for the DiffID.
func packed(archive []byte, kind image.Packing) image.Layer {
	var b bytes.Buffer
	var z io.WriteCloser
	if kind == image.Zstd {
		z, _ = zstd.NewWriter(&b, zstd.WithEncoderConcurrency(1))
	} else {
		z, _ = gzip.NewWriterLevel(&b, 6)
	}
	z.Write(archive) // to memory: it cannot fail
	z.Close()
	write := func(text []byte) func(io.Writer) error {
		return func(w io.Writer) error { _, err := w.Write(text); return err }
	}
	return image.Layer{Packing: kind, Tar: write(archive), Blob: write(b.Bytes())}
}

// archive packs what lies below dir, in the order of names, into up to n archives
// of about size bytes. What cannot be read is passed over.
func archive(dir string, size int64, n int) ([][]byte, error) {
	var out [][]byte
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	turn := func() error {
		if err := w.Close(); err != nil {
			return err
		}
		out = append(out, bytes.Clone(b.Bytes()))
		b.Reset()
		w = tar.NewWriter(&b)
		return nil
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		info, err := d.Info()
		if err != nil || !info.Mode().IsRegular() && !d.IsDir() && info.Mode()&fs.ModeSymlink == 0 || info.Size() > maxFile {
			return nil
		}
		if err := pack(w, path, info); err != nil {
			return err
		}
		if int64(b.Len()) < size {
			return nil
		}
		if err := turn(); err != nil {
			return err
		}
		if len(out) == n {
			return fs.SkipAll
		}
		return nil
	})
	if err == nil && len(out) < n {
		err = turn()
	}
	return out, err
}

// pack adds one file, owned by root as images have it.
func pack(w *tar.Writer, path string, info fs.FileInfo) error {
	var link string
	if info.Mode()&fs.ModeSymlink != 0 {
		link, _ = os.Readlink(path)
	}
	var text []byte
	if info.Mode().IsRegular() {
		var err error
		if text, err = os.ReadFile(path); err != nil {
			return nil
		}
	}
	h, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return nil
	}
	h.Name, h.Uid, h.Gid, h.Uname, h.Gname = strings.TrimPrefix(path, "/"), 0, 0, "", ""
	h.Size = int64(len(text))
	if err := w.WriteHeader(h); err != nil {
		return nil // such as a name that no archive can hold
	}
	_, err = w.Write(text)
	return err
}

// joined is one archive of the entries of the first of several, of size bytes or
// somewhat more.
func joined(archives [][]byte, size int) []byte {
	var out []byte
	for _, a := range archives {
		if len(out) >= size {
			break
		}
		out = append(out[:max(len(out)-tarEnd, 0)], a...)
	}
	return out
}

// busyboxArchive has the program that says when it was started.
func busyboxArchive() ([]byte, error) {
	info, err := os.Stat(busybox)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := pack(w, busybox, info); err != nil {
		return nil, err
	}
	err = w.Close()
	return b.Bytes(), err
}

// tarEnd is what tar.Writer ends an archive with: two blocks of zeros.
const tarEnd = 1024

// smallFiles is an archive of n files of 1 to 2 KB in directories of 100. A third
// of each is noise, as in compiled scripts.
func smallFiles(n int) []byte {
	var b bytes.Buffer
	noise := rand.NewChaCha8([32]byte{})
	w := tar.NewWriter(&b)
	for i := range n {
		if i%100 == 0 {
			w.WriteHeader(&tar.Header{Name: fmt.Sprintf("files/%d/", i/100), Typeflag: tar.TypeDir, Mode: 0o755})
		}
		text := []byte(strings.Repeat(fmt.Sprintf("line %d of a small file\n", i*7919), 40+i%40))
		noise.Read(text[:len(text)/3])
		w.WriteHeader(&tar.Header{Name: fmt.Sprintf("files/%d/%d", i/100, i), Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(text))})
		w.Write(text)
	}
	w.Close()
	return b.Bytes()
}
