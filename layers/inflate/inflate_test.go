package inflate_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/iotest"

	"skiff/layers/inflate"
)

// errAny is for streams of which the reference says what they are.
var errAny = errors.New("an error or none")

func TestStreams(t *testing.T) {
	for i, s := range streams() {
		t.Run(fmt.Sprint(s.name, "/", i), func(t *testing.T) {
			for _, step := range []int{1, 2, 7, 39, 40, 41, 1 << 20} {
				same(t, s.packed, step, 1+step*5, step&1 != 0)
			}
			_, err := io.ReadAll(inflate.NewReader(bytes.NewReader(s.packed)))
			if s.want != errAny && !errors.Is(err, s.want) {
				t.Errorf("error %v, want %v", err, s.want)
			}
		})
	}
}

// Every prefix of a stream ends early, whatever there is of the block's tables.
func TestPrefixes(t *testing.T) {
	for _, packed := range [][]byte{compress(t, invented(3000), 9), compress(t, invented(3000), 0), compress(t, nil, 6)} {
		for n := range packed {
			if _, err := inflated(bytes.NewReader(packed[:n]), 100); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("%d of %d bytes: %v", n, len(packed), err)
			}
		}
	}
}

// Any single wrong bit is found, if not by its place then by the checksum.
func TestFlippedBits(t *testing.T) {
	packed := compress(t, invented(1000), 6)
	trailer := len(packed) - 8
	for bit := range 8 * len(packed) {
		if i := bit / 8; i >= 3 && i < 10 {
			continue // flags and what the header says of time and system
		}
		packed[bit/8] ^= 1 << (bit % 8)
		same(t, packed, 1<<20, 1<<16, false)
		if _, err := inflated(bytes.NewReader(packed), 1<<16); err == nil && bit/8 != trailer-1 { // which has bits that mean nothing
			t.Errorf("bit %d: no error", bit)
		}
		packed[bit/8] ^= 1 << (bit % 8)
	}
}

func TestReaders(t *testing.T) {
	data := invented(300_000)
	packed := compress(t, data, 6)
	for name, r := range map[string]io.Reader{
		"one byte": iotest.OneByteReader(bytes.NewReader(packed)),
		"half":     iotest.HalfReader(bytes.NewReader(packed)),
		"data+eof": iotest.DataErrReader(bytes.NewReader(packed)),
	} {
		if err := iotest.TestReader(inflate.NewReader(r), data); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	var all []byte
	z := inflate.NewReader(bytes.NewReader(packed))
	var some [1000]byte
	n, err := z.Read(some[:])
	all = append(all, some[:n]...)
	for err == nil {
		var block []byte
		block, err = z.Next()
		all = append(all, block...)
	}
	if err != io.EOF || !bytes.Equal(all, data) {
		t.Errorf("Read and Next: %d bytes, %v", len(all), err)
	}
}

// A source's error is the reader's, after the data that came before it.
func TestSourceErrors(t *testing.T) {
	data := invented(100_000)
	packed := compress(t, data, 6)
	for _, broken := range []error{errors.New("no route to host"), io.ErrUnexpectedEOF, inflate.ErrCorrupt} {
		for _, n := range []int{0, 5, 10, 11, 1000, len(packed) - 8, len(packed)} {
			r := io.MultiReader(bytes.NewReader(packed[:n]), iotest.ErrReader(broken))
			got, err := inflated(r, 1000)
			if err != broken || !bytes.HasPrefix(data, got) {
				t.Errorf("after %d bytes: %d bytes, %v", n, len(got), err)
			}
		}
	}
	if _, err := inflated(iotest.TimeoutReader(iotest.OneByteReader(bytes.NewReader(packed))), 1000); err != iotest.ErrTimeout {
		t.Error(err)
	}
	if _, err := inflated(silent{}, 1000); err != io.ErrNoProgress {
		t.Error(err)
	}
	z := inflate.NewReader(bytes.NewReader(packed))
	if n, err := z.WriteTo(iotest.TruncateWriter(io.Discard, 10)); n == 0 || err != nil {
		t.Error(n, err)
	}
}

type silent struct{}

func (silent) Read([]byte) (int, error) { return 0, nil }

// No block costs an allocation, of DEFLATE's or of ours.
func TestAllocations(t *testing.T) {
	packed := compress(t, invented(4<<20), 6)
	buf := make([]byte, inflate.History+64<<10+inflate.Slack)
	allocs := testing.AllocsPerRun(3, func() {
		z := inflate.NewReader(bytes.NewReader(packed))
		for {
			if _, err := z.Fill(buf); err != nil {
				break
			}
		}
	})
	if allocs > 5 {
		t.Errorf("%v allocations", allocs)
	}
}

func TestSamples(t *testing.T) {
	for name, data := range samples(t) {
		for _, level := range []int{0, 1, 6} {
			t.Run(fmt.Sprint(name, level), func(t *testing.T) {
				var b bytes.Buffer
				n, err := io.Copy(&b, inflate.NewReader(bytes.NewReader(compress(t, data, level))))
				if err != nil || n != int64(len(data)) || !bytes.Equal(b.Bytes(), data) {
					t.Errorf("%d of %d bytes, %v", n, len(data), err)
				}
			})
		}
	}
}
