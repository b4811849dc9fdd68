package codec

import (
	"bufio"
	"compress/gzip"
	"io"
)

// members reads gzip members one after the other, by the standard library.
// Source: RFC 1952, 2.2; gzip(1) on trailing zeros.
type members struct {
	z  *gzip.Reader
	br *bufio.Reader
}

func newMembers(br *bufio.Reader) (*members, error) {
	z, err := gzip.NewReader(br)
	if err != nil {
		return nil, err
	}
	z.Multistream(false)
	return &members{z, br}, nil
}

func (m *members) Read(p []byte) (int, error) {
	for {
		n, err := m.z.Read(p)
		if n > 0 && err == io.EOF {
			return n, nil // comes again
		}
		if n > 0 || err != io.EOF {
			return n, err
		}
		next, err := m.br.Peek(1)
		if err != nil {
			return 0, err // io.EOF: the regular end
		}
		if next[0] == 0 {
			return 0, m.zeros()
		}
		if next[0] != 0x1f {
			return 0, malformed("garbage after gzip data")
		}
		if err := m.z.Reset(m.br); err != nil {
			return 0, unexpected(err)
		}
		m.z.Multistream(false)
	}
}

// zeros reads to the end, io.EOF, and finds anything but zeros malformed.
func (m *members) zeros() error {
	for {
		c, err := m.br.ReadByte()
		if err != nil {
			return err
		}
		if c != 0 {
			return malformed("garbage after gzip data")
		}
	}
}
