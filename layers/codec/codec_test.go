package codec

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"strings"
	"testing"

	"skiff/layers"
)

// Both decoders of gzip say the same of where a stream ends.
func TestGzip(t *testing.T) {
	data := bytes.Repeat([]byte("layer"), 200_000)
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write(data)
	z.Close()
	one := b.String()
	for _, env := range []string{"", "std"} {
		t.Setenv("SKIFF_GZIP", env)
		for _, c := range []struct {
			name, packed string
			copies       int // of data; -1: malformed
			also         error
		}{
			{"one", one, 1, nil},
			{"three", one + one + one, 3, nil},
			{"zeros", one + strings.Repeat("\x00", 5000), 1, nil},
			{"garbage", one + "garbage", -1, nil},
			{"garbage after zeros", one + "\x00\x00garbage", -1, nil},
			{"cut", one[:len(one)-9], -1, io.ErrUnexpectedEOF},
			{"cut trailer", one[:len(one)-1], -1, io.ErrUnexpectedEOF},
			{"cut header", one[:5], -1, io.ErrUnexpectedEOF},
			{"half a second", one + one[:30], -1, io.ErrUnexpectedEOF},
			{"checksum", one[:len(one)-5] + "\x99" + one[len(one)-4:], -1, nil},
		} {
			var got bytes.Buffer
			r, err := Decompress(strings.NewReader(c.packed), layers.Gzip)
			if err == nil {
				_, err = io.Copy(&got, r)
				r.Close()
			}
			if c.copies < 0 {
				if !errors.Is(err, layers.ErrFormat) || c.also != nil && !errors.Is(err, c.also) {
					t.Errorf("%s %s: error %v", env, c.name, err)
				}
			} else if err != nil || !bytes.Equal(got.Bytes(), bytes.Repeat(data, c.copies)) {
				t.Errorf("%s %s: %d bytes, %v", env, c.name, got.Len(), err)
			}
		}
	}
}
