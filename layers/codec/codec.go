// Package codec decompresses layers, gzip and zstd, and compresses them for a push, with the same.
//
// It stands apart from package layers so that only main imports it: the
// decoders' tables cost a program's start, and most runs unpack nothing.
//
// Gzip is package inflate's work, or compress/gzip's where the environment has
// SKIFF_GZIP=std: a way out, and a way to tell whose fault it is, should
// a layer not unpack.
//
// Limits: no xz, no bzip2. It bounds memory, not output; layers.Options does that.
package codec

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"skiff/layers"
	"skiff/layers/inflate"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// maxWindow bounds the memory of a zstd stream; the format allows terabytes.
// `zstd -19` uses 8 MiB, `zstd --ultra -22` 128 MiB.
const maxWindow = 128 << 20

// Decompress is a layers.Decompressor: it returns the uncompressed layer in r.
//
// Detect goes by the first bytes, as docker and containerd do: registries hold
// layers whose media type is wrong. Any other c must be what is there.
//
// Several gzip members or zstd frames are one stream. After the last gzip
// member there may be zeros, as tapes and some builders leave, and nothing
// else; a stream that ends early is an error. Errors about the data wrap
// layers.ErrFormat, those of r itself come as they are. Close gives up what the decoder
// holds; it does not close r.
func Decompress(r io.Reader, c layers.Compression) (io.ReadCloser, error) {
	src := &source{r: r}
	br := bufio.NewReaderSize(src, 128<<10)
	magic, err := br.Peek(6)
	if err != nil && err != io.EOF {
		return nil, err
	}
	found := layers.Plain
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		found = layers.Gzip
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}),
		len(magic) >= 4 && magic[0]&0xf0 == 0x50 && bytes.Equal(magic[1:4], []byte{0x2a, 0x4d, 0x18}):
		found = layers.Zstd // the second is a skippable frame
	case bytes.HasPrefix(magic, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return nil, malformed("xz compression is not supported")
	case bytes.HasPrefix(magic, []byte("BZh")):
		return nil, malformed("bzip2 compression is not supported")
	}
	if c != layers.Detect && c != found {
		return nil, malformed("labelled %v, but holds %v", c, found)
	}
	switch found {
	case layers.Gzip:
		if os.Getenv("SKIFF_GZIP") == "std" {
			z, err := newMembers(br)
			if err != nil {
				return nil, src.blame(found, err)
			}
			return &decoder{kind: found, src: src, r: z, close: func() {}}, nil
		}
		z := inflate.NewReader(br)
		return &inflater{decoder{kind: found, src: src, r: z, close: func() {}}, z}, nil
	case layers.Zstd:
		z, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderMaxMemory(1<<62))
		if err != nil {
			return nil, src.blame(found, err)
		}
		return &decoder{kind: found, src: src, r: z, close: z.Close}, nil
	}
	return &decoder{kind: found, src: src, r: br, close: func() {}}, nil
}

// Compress returns an encoder to w, of gzip at levels 1 to 9 or zstd at 1 to 20; 0 is the
// usual level. The same input makes the same output: there is no name and no time in it, and
// zstd's encoder is the only one at its stream. The levels of zstd are the four that its encoder has.
func Compress(w io.Writer, c layers.Compression, level int) (io.WriteCloser, error) {
	switch {
	case c == layers.Gzip && level == 0:
		level = gzip.DefaultCompression
		fallthrough
	case c == layers.Gzip && 1 <= level && level <= gzip.BestCompression:
		return gzip.NewWriterLevel(w, level)
	case c == layers.Zstd && level == 0:
		level = 3
		fallthrough
	case c == layers.Zstd && 1 <= level && level <= 20:
		return zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)), zstd.WithEncoderConcurrency(1))
	}
	return nil, fmt.Errorf("%v has no level %d", c, level)
}

// A source remembers its own error, which a decoder may hide or reword.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// blame tells a broken stream from a broken source.
func (s *source) blame(c layers.Compression, err error) error {
	if s.err != nil {
		return s.err
	}
	if errors.Is(err, layers.ErrFormat) {
		return err
	}
	return fmt.Errorf("%w: %v: %w", layers.ErrFormat, c, unexpected(err))
}

// A decoder is any of the three.
type decoder struct {
	kind  layers.Compression
	src   *source
	r     io.Reader
	close func()
}

func (d *decoder) Read(p []byte) (int, error) {
	n, err := d.r.Read(p)
	if err != nil && err != io.EOF {
		err = d.src.blame(d.kind, err)
	}
	return n, err
}

func (d *decoder) Close() error {
	d.close()
	return nil
}

// An inflater is a layers.Filler.
type inflater struct {
	decoder
	z *inflate.Reader
}

func (i *inflater) Fill(buf []byte) ([]byte, error) {
	block, err := i.z.Fill(buf)
	if err != nil && err != io.EOF {
		err = i.src.blame(i.kind, err)
	}
	return block, err
}

func malformed(format string, a ...any) error {
	return fmt.Errorf("%w: %s", layers.ErrFormat, fmt.Sprintf(format, a...))
}

// unexpected is for an end that came too early.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
