package pull

import (
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"skiff/pull/manifest"
	"skiff/pull/store"
)

const (
	chunkSize = 128 << 10
	chunks    = 8 // in flight for one layer: 1 MiB
)

// A pump reads and hashes in a goroutine of its own, so that the network and
// SHA-256 run beside the decoder. The buffers go round: nothing is allocated while it runs.
type pump struct {
	src   source
	hash  hash.Hash // nil: no digest is known
	full  chan []byte
	empty chan []byte
	quit  chan struct{}
	once  sync.Once
	done  chan struct{} // closed when the goroutine is through

	cur  []byte // the rest of the chunk being read
	back []byte // that chunk, to be given back

	// Written by the goroutine before it closes full.
	err error
	n   int64
}

// A source is a transfer.Body or a transfer.Split.
type source interface {
	io.ReadCloser
	Stop()
}

// newPump starts it. add is told of bytes as they come.
func newPump(src source, algorithm string, add func(int64)) *pump {
	p := &pump{src: src, full: make(chan []byte, chunks), empty: make(chan []byte, chunks), quit: make(chan struct{}), done: make(chan struct{})}
	if algorithm != "" {
		p.hash, p.err = v1.Hasher(algorithm)
	}
	for range chunks {
		p.empty <- nil // made when first used
	}
	go p.run(add)
	return p
}

func (p *pump) run(add func(int64)) {
	defer close(p.done)
	defer close(p.full)
	for p.err == nil {
		var b []byte
		select {
		case b = <-p.empty:
		case <-p.quit:
			p.err = errClosed
			return
		}
		if b == nil {
			b = make([]byte, chunkSize)
		}
		// As much as is there at once: a slow network must not fill the chunk first.
		n, err := p.src.Read(b[:chunkSize])
		if n > 0 {
			if p.hash != nil {
				p.hash.Write(b[:n])
			}
			p.n += int64(n)
			add(int64(n))
			select {
			case p.full <- b[:n]:
			case <-p.quit:
				p.err = errClosed
				return
			}
		}
		p.err = err
	}
}

var errClosed = errors.New("closed")

func (p *pump) Read(b []byte) (int, error) {
	if err := p.fill(); err != nil {
		return 0, err
	}
	n := copy(b, p.cur)
	p.cur = p.cur[n:]
	return n, nil
}

// fill waits until there is something in cur.
func (p *pump) fill() error {
	for len(p.cur) == 0 {
		if p.back != nil {
			p.empty <- p.back
			p.back = nil
		}
		b, ok := <-p.full
		if !ok {
			return p.err // never nil: the goroutine ends with an error or EOF
		}
		p.cur, p.back = b, b[:chunkSize]
	}
	return nil
}

// peek returns up to n bytes without taking them; fewer if there are no more.
func (p *pump) peek(n int) ([]byte, error) {
	if err := p.fill(); err != nil && err != io.EOF {
		return nil, err
	}
	// A first read may be shorter than the magic.
	for len(p.cur) < n {
		b, ok := <-p.full
		if !ok {
			if p.err != io.EOF {
				return nil, p.err
			}
			break
		}
		joined := make([]byte, len(p.cur)+len(b), max(chunkSize, len(p.cur)+len(b)))
		copy(joined[copy(joined, p.cur):], b)
		p.empty <- b[:chunkSize]
		if p.back != nil {
			p.empty <- p.back
		}
		p.cur, p.back = joined, nil
	}
	return p.cur[:min(n, len(p.cur))], nil
}

// failed is what broke the transfer, if anything has.
func (p *pump) failed() error {
	select {
	case <-p.done:
		if p.err != io.EOF && p.err != errClosed {
			return p.err
		}
	default:
	}
	return nil
}

// verify reads what the unpacker left, so that every byte counts, and holds the digest
// and the size against what was promised. The size is the source's to hold.
func (p *pump) verify(want v1.Hash) error {
	for {
		p.cur = nil
		if err := p.fill(); err == io.EOF {
			break
		} else if err != nil {
			return err
		}
	}
	if p.hash == nil {
		return nil
	}
	if have := fmt.Sprintf("%x", p.hash.Sum(nil)); have != want.Hex {
		return &manifest.DigestError{What: "blob", Want: want.String(), Have: want.Algorithm + ":" + have}
	}
	return nil
}

// Close ends the transfer and waits for its goroutine.
func (p *pump) Close() {
	p.once.Do(func() { close(p.quit) })
	// The goroutine may be in a read of the network, which only the end of its context stops.
	p.src.Stop()
	<-p.done
	p.src.Close()
}

// isDisk says whether an error is the disk's.
func isDisk(err error) bool {
	var space *store.SpaceError
	var readonly *store.ReadOnlyError
	return errors.As(err, &space) || errors.As(err, &readonly)
}
