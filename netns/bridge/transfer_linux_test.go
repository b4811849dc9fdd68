package bridge

import (
	"crypto/sha256"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"
)

// TestTransfer is SECURITY case 122: what goes through segmentation offload,
// masquerading and an odd MTU arrives as it was sent, both ways at once.
func TestTransfer(t *testing.T) {
	if !inHost(t) {
		return
	}
	const size = 64 << 20
	w := newWorld(t)
	s, _, _ := w.container(w.prepare())
	var l net.Listener
	var err error
	w.outside.do(func() { l, err = net.Listen("tcp4", outsideAddr+":81") })
	w.must(err)
	defer l.Close()

	type sums struct {
		sent, got []byte
		err       error
	}
	exchange := func(c net.Conn, seed byte) (r sums) {
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		sent := make(chan error, 1)
		out, in := sha256.New(), sha256.New()
		go func() {
			source := rand.NewChaCha8([32]byte{seed})
			_, err := io.Copy(io.MultiWriter(c, out), io.LimitReader(source, size+int64(seed)))
			c.(*net.TCPConn).CloseWrite()
			sent <- err
		}()
		n, err := io.Copy(hash.Hash(in), c)
		if e := <-sent; err == nil {
			err = e
		}
		if err == nil && n < size {
			err = io.ErrUnexpectedEOF
		}
		return sums{out.Sum(nil), in.Sum(nil), err}
	}
	far := make(chan sums, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			far <- sums{err: err}
			return
		}
		far <- exchange(c, 1)
	}()
	var c net.Conn
	s.do(func() { c, err = net.DialTimeout("tcp4", outsideAddr+":81", 5*time.Second) })
	w.must(err)
	here := exchange(c, 2)
	there := <-far
	w.must(here.err)
	w.must(there.err)
	if string(here.sent) != string(there.got) || string(there.sent) != string(here.got) {
		t.Error("what arrived is not what was sent")
	}
}
