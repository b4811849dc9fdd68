package inflate_test

import (
	"bufio"
	"bytes"
	stdgzip "compress/gzip"
	"errors"
	"io"
	"testing"

	"skiff/layers/inflate"
)

// reference is compress/gzip with what this package says about the stream's end.
func reference(packed []byte) ([]byte, error) {
	var out bytes.Buffer
	br := bufio.NewReader(bytes.NewReader(packed))
	z, err := stdgzip.NewReader(br)
	if err == io.EOF {
		return nil, io.ErrUnexpectedEOF
	}
	for err == nil {
		z.Multistream(false)
		if _, err = io.Copy(&out, z); err != nil {
			break
		}
		next, eof := br.Peek(1)
		if eof != nil {
			return out.Bytes(), nil
		}
		if next[0] == 0 {
			rest, _ := io.ReadAll(br)
			if len(bytes.Trim(rest, "\x00")) > 0 {
				return out.Bytes(), inflate.ErrGarbage
			}
			return out.Bytes(), nil
		}
		if next[0] != 0x1f {
			return out.Bytes(), inflate.ErrGarbage
		}
		err = z.Reset(br)
	}
	return out.Bytes(), err
}

// A chunked reader gives step bytes at a time, and its end with the last of them or after.
type chunked struct {
	data  []byte
	step  int
	early bool
}

func (c *chunked) Read(p []byte) (int, error) {
	n := min(len(p), c.step, len(c.data))
	copy(p, c.data[:n])
	c.data = c.data[n:]
	if len(c.data) == 0 && (c.early || n == 0) {
		return n, io.EOF
	}
	return n, nil
}

// inflated is what Fill makes of a stream in blocks of this size, with two
// buffers in turn.
func inflated(r io.Reader, block int) ([]byte, error) {
	var out []byte
	var bufs [2][]byte
	for i := range bufs {
		bufs[i] = bytes.Repeat([]byte{0xa5}, inflate.History+block+inflate.Slack)
	}
	z := inflate.NewReader(r)
	for i := 0; ; i++ {
		b, err := z.Fill(bufs[i%2])
		out = append(out, b...)
		if err == io.EOF {
			err = nil
		} else if err == nil {
			continue
		}
		return out, err
	}
}

// same says where this package and the reference differ about a stream.
func same(t *testing.T, packed []byte, step, block int, early bool) {
	t.Helper()
	want, wantErr := reference(packed)
	got, err := inflated(&chunked{packed, step, early}, block)
	if (err == nil) != (wantErr == nil) {
		t.Fatalf("%d bytes, error %v; want %d, %v", len(got), err, len(want), wantErr)
	}
	if err == nil && !bytes.Equal(got, want) {
		t.Fatalf("%d bytes that differ from %d", len(got), len(want))
	}
	if n := min(len(got), len(want)); !bytes.Equal(got[:n], want[:n]) {
		t.Fatalf("bytes before the error %v differ", err)
	}
	if err == nil {
		return
	}
	var e *inflate.Error
	if !errors.As(err, &e) || e.Offset < 0 || e.Offset > int64(len(packed)) {
		t.Fatalf("error %#v", err)
	}
	// A code without an end of block is refused here before its data ends.
	if wantErr == io.ErrUnexpectedEOF && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, inflate.ErrCorrupt) {
		t.Fatalf("error %v, want %v", err, wantErr)
	}
}

// FuzzInflate holds this package against compress/gzip: what is accepted, and
// the bytes. raw streams get a gzip header, and the trailer that they need, so
// that mutations reach DEFLATE and its checksum does not hide what they do.
func FuzzInflate(f *testing.F) {
	for _, s := range streams() {
		f.Add(s.packed, uint16(1<<15), uint16(1), false)
		f.Add(s.packed, uint16(1), uint16(700), true)
		if len(s.packed) > 18 {
			f.Add(s.packed[10:len(s.packed)-8], uint16(41), uint16(1000), true)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, step, block uint16, raw bool) {
		if raw {
			data = wrapped(data)
		}
		if size := size(data); size == most {
			t.Skip("too long to be worth the time")
		} else if size > 10_000 {
			block |= 1 << 11 // each takes 32 KiB of history with it
		}
		same(t, data, int(step)+1, int(block)+1, step&1 != 0)
	})
}

const most = 1 << 20

// size is that of a stream inflated, or most.
func size(packed []byte) int64 {
	z, err := stdgzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return 0
	}
	n, _ := io.CopyN(io.Discard, z, most)
	return n
}
