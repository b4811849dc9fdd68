package inflate

import (
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	kgzip "github.com/klauspost/compress/gzip"
)

// standard is what this package is held against: compress/gzip, with the same
// rule for what follows the last member.
func standard(b []byte) ([]byte, error) {
	br := bufio.NewReader(bytes.NewReader(b))
	z, err := gzip.NewReader(br)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for {
		z.Multistream(false)
		if _, err := io.Copy(&out, z); err != nil {
			return out.Bytes(), err
		}
		next, err := br.Peek(1)
		switch {
		case err == io.EOF:
			return out.Bytes(), nil
		case next[0] == 0:
			rest, _ := io.ReadAll(br)
			if len(bytes.Trim(rest, "\x00")) > 0 {
				return out.Bytes(), ErrGarbage
			}
			return out.Bytes(), nil
		case next[0] != 0x1f:
			return out.Bytes(), ErrGarbage
		}
		if err := z.Reset(br); err != nil {
			return out.Bytes(), err
		}
	}
}

// readers cut the input into pieces of all kinds.
var readers = map[string]func(io.Reader) io.Reader{
	"whole":       func(r io.Reader) io.Reader { return r },
	"byte":        iotest.OneByteReader,
	"half":        iotest.HalfReader,
	"data+EOF":    iotest.DataErrReader,
	"odd lengths": func(r io.Reader) io.Reader { return &oddReader{r, rand.New(rand.NewPCG(1, 2))} },
}

type oddReader struct {
	r   io.Reader
	rnd *rand.Rand
}

func (o *oddReader) Read(p []byte) (int, error) {
	return o.r.Read(p[:min(len(p), 1+o.rnd.IntN(40))])
}

// same holds the two decoders against each other. Both refuse, or both give the same bytes.
func same(t *testing.T, stream []byte) {
	t.Helper()
	sameCut(t, stream, slices.Sorted(maps.Keys(readers))...)
}

// sameCut is same for some of the readers.
func sameCut(t *testing.T, stream []byte, names ...string) {
	t.Helper()
	want, wantErr := standard(stream)
	for _, name := range names {
		cut := readers[name]
		got, err := io.ReadAll(NewReader(cut(bytes.NewReader(stream))))
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%s: %v, compress/gzip: %v", name, err, wantErr)
		}
		if err == nil && !bytes.Equal(got, want) {
			t.Fatalf("%s: other bytes than compress/gzip's: %d and %d", name, len(got), len(want))
		}
		if err != nil {
			var format *FormatError
			if !errors.As(err, &format) && !errors.Is(err, ErrGarbage) && err != io.ErrUnexpectedEOF {
				t.Fatalf("%s: an error of no known type: %v", name, err)
			}
		}
	}
}

// contents are of several kinds: what is a code's worst and best case.
func contents() map[string][]byte {
	rnd := rand.New(rand.NewPCG(3, 4))
	noise := make([]byte, 200_000)
	for i := range noise {
		noise[i] = byte(rnd.Uint32())
	}
	skewed := make([]byte, 300_000) // codes of up to 15 bits
	for i := range skewed {
		for skewed[i] < 200 && rnd.IntN(3) > 0 {
			skewed[i]++
		}
	}
	var words strings.Builder
	for words.Len() < 700_000 {
		fmt.Fprintf(&words, "%s %d ", []string{"alpha", "beta", "gamma", "delta", "usr/lib/x86_64-linux-gnu/"}[rnd.IntN(5)], rnd.IntN(1000))
	}
	mixed := append(append(bytes.Clone(noise[:50_000]), words.String()[:60_000]...), make([]byte, 100_000)...)
	far := append(append(bytes.Clone(noise[:1000]), noise[50_000:50_000+31_768]...), noise[:1000]...) // a distance of 32 KiB
	return map[string][]byte{
		"nothing": nil, "byte": {7}, "zeros": make([]byte, 1<<20), "noise": noise, "skewed": skewed,
		"words": []byte(words.String()), "mixed": mixed, "far": far,
		"pairs": bytes.Repeat([]byte("ab"), 100_000), "threes": bytes.Repeat([]byte("abc"), 100_000),
		"nines": bytes.Repeat([]byte("abcdefghi"), 50_000), "seventeens": bytes.Repeat([]byte("abcdefghijklmnopq"), 30_000),
	}
}

func packed(t testing.TB, content []byte, level int) []byte {
	t.Helper()
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, level)
	if err != nil {
		t.Fatal(err)
	}
	z.Write(content)
	z.Close()
	return b.Bytes()
}

func TestContents(t *testing.T) {
	for name, content := range contents() {
		for _, level := range []int{flate.HuffmanOnly, 0, 1, 6, 9} {
			t.Run(fmt.Sprint(name, " ", level), func(t *testing.T) {
				stream := packed(t, content, level)
				got, err := io.ReadAll(NewReader(bytes.NewReader(stream)))
				if err != nil || !bytes.Equal(got, content) {
					t.Fatalf("%d bytes of %d, %v", len(got), len(content), err)
				}
				if len(stream) < 100_000 {
					same(t, stream)
				}
			})
		}
	}
}

// klauspost's encoder writes fixed blocks with matches, and blocks that are flushed.
func TestOtherEncoder(t *testing.T) {
	for name, content := range contents() {
		for level := kgzip.StatelessCompression; level <= 9; level++ {
			var b bytes.Buffer
			z, err := kgzip.NewWriterLevel(&b, level)
			if err != nil {
				t.Fatal(err)
			}
			for rest := content; len(rest) > 0; {
				n := min(len(rest), 30_001)
				z.Write(rest[:n])
				rest = rest[n:]
				z.Flush()
			}
			z.Close()
			got, err := io.ReadAll(NewReader(bytes.NewReader(b.Bytes())))
			if err != nil || !bytes.Equal(got, content) {
				t.Errorf("%s, level %d: %d bytes of %d, %v", name, level, len(got), len(content), err)
			}
		}
	}
}

func TestMembers(t *testing.T) {
	a, b := packed(t, []byte("first, first, first"), 9), packed(t, []byte("second"), 1)
	named := func(change func(*gzip.Header)) []byte {
		var buf bytes.Buffer
		z := gzip.NewWriter(&buf)
		change(&z.Header)
		z.Write([]byte("named"))
		z.Close()
		return buf.Bytes()
	}
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for name, stream := range map[string][]byte{
		"two":                   join(a, b),
		"an empty one":          join(a, packed(t, nil, 6), b),
		"zeros":                 join(a, b, make([]byte, 5000)),
		"garbage":               join(a, []byte("garbage")),
		"garbage after zeros":   join(a, make([]byte, 700), []byte("x")),
		"half a header":         join(a, b[:5]),
		"half a member":         join(a, b[:len(b)-9]),
		"half a trailer":        a[:len(a)-3],
		"nothing":               {},
		"wrong sum":             join(a[:len(a)-8], []byte{1, 2, 3, 4}, a[len(a)-4:]),
		"wrong size":            join(a[:len(a)-4], []byte{1, 2, 3, 4}),
		"name":                  named(func(h *gzip.Header) { h.Name, h.Comment, h.Extra = "n", "c", []byte("extra") }),
		"long name":             named(func(h *gzip.Header) { h.Name = strings.Repeat("n", 511) }),
		"too long":              named(func(h *gzip.Header) { h.Name = strings.Repeat("n", 512) }),
		"distance into another": join(a, crossing()),
	} {
		t.Run(name, func(t *testing.T) { same(t, stream) })
	}
}

// crossing is a member whose first match reaches before it.
func crossing() []byte {
	// A fixed block: length 3, distance 1, end.
	b := bitWriter{}
	b.add(1, 1)
	b.add(1, 2)
	b.code(0b0000001, 7)
	b.code(0, 5)
	b.code(0, 7)
	return append(append([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}, b.out()...), make([]byte, 8)...)
}

// A bitWriter writes numbers from their lowest bit and codes from their highest.
type bitWriter struct {
	buf []byte
	n   int
}

func (b *bitWriter) bit(v int) {
	if b.n%8 == 0 {
		b.buf = append(b.buf, 0)
	}
	b.buf[b.n/8] |= byte(v&1) << (b.n % 8)
	b.n++
}

func (b *bitWriter) add(v, n int) {
	for i := range n {
		b.bit(v >> i)
	}
}

func (b *bitWriter) code(v, n int) {
	for i := range n {
		b.bit(v >> (n - 1 - i))
	}
}

func (b *bitWriter) out() []byte { return b.buf }

// TestCodes tries codes that are no code, and the few that are accepted though
// incomplete, in a dynamic block of which they are the literals' or the distances'.
func TestCodes(t *testing.T) {
	for name, c := range map[string]struct{ lit, dist []int }{
		"complete":                 {[]int{1, 1}, []int{1, 1}},
		"one distance":             {[]int{1, 1}, []int{1}},
		"one distance of two bits": {[]int{1, 1}, []int{2}},
		"no distance":              {[]int{1, 1}, []int{0}},
		"over-subscribed":          {[]int{1, 1, 1}, []int{1, 1}},
		"incomplete":               {[]int{2, 2}, []int{1, 1}},
		"only an end":              {[]int{0, 1}, []int{1, 1}},
		"only an end of 2":         {[]int{0, 2}, []int{1, 1}},
		"no end":                   {[]int{1, 0}, []int{1, 1}},
		"30 distances":             {[]int{1, 1}, append(make([]int, 29), 1)},
		"31 distances":             {[]int{1, 1}, append(make([]int, 30), 1)},
	} {
		t.Run(name, func(t *testing.T) {
			for _, body := range []int{0b1, 0b01, 0b0, 0b1110, 0xffff} {
				b := bitWriter{}
				b.add(1, 1)
				b.add(2, 2)
				lens := append(append(make([]int, 255), c.lit...), c.dist...)
				b.add(len(lens)-len(c.dist)-257&31, 5)
				b.add(len(c.dist)-1, 5)
				b.add(15, 4)
				// Lengths 0, 1 and 2 have codes of 1, 2 and 2 bits.
				for _, symbol := range codeOrder {
					b.add(map[uint8]int{0: 1, 1: 2, 2: 2}[symbol], 3)
				}
				for _, l := range lens {
					b.code([]int{0, 0b10, 0b11}[l], []int{1, 2, 2}[l])
				}
				b.code(body, 16)
				header := []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}
				same(t, append(append(header, b.out()...), make([]byte, 8)...))
			}
		})
	}
}

// TestDamage changes and cuts streams everywhere.
func TestDamage(t *testing.T) {
	content := contents()
	streams := [][]byte{packed(t, content["words"][:3000], 9), packed(t, content["mixed"][49_000:53_000], 6), packed(t, content["noise"][:300], 0)}
	for _, stream := range streams {
		step := max(len(stream)/300, 1)
		for i := 0; i < len(stream); i += step {
			same(t, stream[:i])
			damaged := bytes.Clone(stream)
			damaged[i] ^= 1 << (i % 8)
			same(t, damaged)
		}
	}
}

// A source's own error comes as it is, after what came before it.
func TestSourceError(t *testing.T) {
	stream := packed(t, contents()["words"], 6)
	broken := errors.New("the line is cut")
	for _, n := range []int{0, 5, 100, len(stream) / 2, len(stream) - 4} {
		r := NewReader(io.MultiReader(bytes.NewReader(stream[:n]), iotest.ErrReader(broken)))
		if _, err := io.Copy(io.Discard, r); err != broken {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
	if _, err := io.Copy(io.Discard, NewReader(idle{})); err != io.ErrNoProgress {
		t.Error(err)
	}
}

type idle struct{}

func (idle) Read([]byte) (int, error) { return 0, nil }

func TestAllocations(t *testing.T) {
	stream := packed(t, contents()["words"], 6)
	src := bytes.NewReader(nil)
	r := NewReader(src)
	p := make([]byte, 64<<10)
	n := testing.AllocsPerRun(5, func() {
		src.Reset(stream)
		r.bad, r.err, r.state = nil, nil, atMember
		for {
			if _, err := r.Read(p); err != nil {
				if err != io.EOF {
					t.Fatal(err)
				}
				return
			}
		}
	})
	if n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzInflate(f *testing.F) {
	for _, content := range contents() {
		for _, level := range []int{flate.HuffmanOnly, 0, 1, 9} {
			f.Add(packed(f, content[:min(len(content), 2000)], level)[10:])
		}
	}
	f.Add(crossing()[10:])
	f.Fuzz(func(t *testing.T, body []byte) {
		// The bits matter, not whether a checksum happens to be right: what a stream
		// unpacks to gives it the trailer it needs.
		content, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(body)), 1<<20))
		header := []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}
		if len(content) == 1<<20 {
			return
		}
		if err == nil {
			sound := packed(t, content, 0)
			br := bytes.NewReader(body)
			io.Copy(io.Discard, flate.NewReader(br))
			body = append(bytes.Clone(body[:len(body)-br.Len()]), sound[len(sound)-8:]...)
		}
		sameCut(t, append(header, body...), []string{"whole", "odd lengths"}[len(body)%2])
	})
}

// FuzzStream is about headers, members and what follows them.
func FuzzStream(f *testing.F) {
	a := packed(f, []byte("first, first, first"), 9)
	f.Add(a)
	f.Add(append(bytes.Clone(a), a...))
	f.Add(append(bytes.Clone(a), 0, 0, 0))
	f.Fuzz(func(t *testing.T, stream []byte) {
		if n, _ := io.Copy(io.Discard, io.LimitReader(NewReader(bytes.NewReader(stream)), 1<<20)); n < 1<<20 {
			same(t, stream)
		}
	})
}
