package codec

import (
	"bytes"
	"io"
	"testing"

	"skiff/layers"
)

// What is compressed comes back, the same way each time, and a level that is none is said to be.
func TestCompress(t *testing.T) {
	data := bytes.Repeat([]byte("a layer of some sort, "), 50_000)
	for _, c := range []struct {
		as    layers.Compression
		level int
		ok    bool
	}{
		{layers.Gzip, 0, true}, {layers.Gzip, 1, true}, {layers.Gzip, 9, true}, {layers.Gzip, 10, false}, {layers.Gzip, -1, false},
		{layers.Zstd, 0, true}, {layers.Zstd, 1, true}, {layers.Zstd, 20, true}, {layers.Zstd, 21, false}, {layers.Plain, 0, false},
	} {
		var made [2]bytes.Buffer
		for i := range made {
			z, err := Compress(&made[i], c.as, c.level)
			if (err == nil) != c.ok {
				t.Errorf("%v at %d: %v", c.as, c.level, err)
			}
			if err != nil {
				break
			}
			for rest := data; len(rest) > 0; { // however it is cut
				n, err := z.Write(rest[:min(len(rest), 3000*(i+1))])
				if err != nil {
					t.Fatal(err)
				}
				rest = rest[n:]
			}
			if err := z.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if !c.ok {
			continue
		}
		if !bytes.Equal(made[0].Bytes(), made[1].Bytes()) {
			t.Errorf("%v at %d: two ways", c.as, c.level)
		}
		r, err := Decompress(&made[0], c.as)
		if err != nil {
			t.Fatal(err)
		}
		if have, err := io.ReadAll(r); err != nil || !bytes.Equal(have, data) {
			t.Errorf("%v at %d: %d bytes of %d came back: %v", c.as, c.level, len(have), len(data), err)
		}
		r.Close()
	}
}
