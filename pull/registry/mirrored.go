package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"skiff/pull"
	"skiff/pull/manifest"
	"skiff/pull/registry/hosts"
	"skiff/pull/transfer"
)

// A mirrored registry reads each thing from the first of its places that gives
// it. The origin is the last, and its errors are what the user sees; of a mirror that fails
// the user is told once.
//
// What is asked for by its digest may come from anywhere. Whether a layer was right is known
// when it has been unpacked: see Distrust.
type mirrored struct {
	ref      pull.Reference
	places   []*client // the origin last
	patience transfer.Patience
	warn     func(string)

	mu   sync.Mutex
	out  map[*client]bool // asked no more
	told map[*client]bool
	gave map[*client]bool // bytes
}

// A mirror is there to be fast: it is not waited for as its registry is.
const (
	mirrorConnect = 5 * time.Second
	mirrorIdle    = 15 * time.Second
	mirrorLimit   = 3 * time.Second
)

func openMirrors(ctx context.Context, ref pull.Reference, mirrors []hosts.Endpoint, origin *client, access pull.Access) (pull.Registry, error) {
	m := &mirrored{ref: ref, patience: access.Patience, warn: access.Warn, out: map[*client]bool{}, told: map[*client]bool{}, gave: map[*client]bool{}}
	access.Login = nil // is for the image's registry, as --tls-verify=false is for its host
	access.Patience.Idle = min(access.Patience.Idle, mirrorIdle)
	access.Patience.Limit = min(access.Patience.Limit, mirrorLimit)
	access.Patience.Tries = min(access.Patience.Tries, 2)
	for _, place := range mirrors {
		c, err := open(ctx, ref, place, access, pullScope)
		if err != nil {
			return nil, fmt.Errorf("mirror %s: %w", place.Host, err)
		}
		c.guard.connect = mirrorConnect
		m.places = append(m.places, c)
	}
	m.places = append(m.places, origin)
	return m, nil
}

// Close is a pull.Registry's.
func (m *mirrored) Close() error {
	for _, c := range m.places {
		c.Close()
	}
	return nil
}

func (m *mirrored) origin(c *client) bool { return c == m.places[len(m.places)-1] }

// usable says whether a place is to be asked.
func (m *mirrored) usable(c *client, tag bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.origin(c) || !m.out[c] && (!tag || c.place.Tags)
}

// failed notes that a mirror did not give something. One that can't be spoken
// to or refuses is asked no more; one that only lacks a thing may have another.
func (m *mirrored) failed(c *client, err error) {
	var unknown *pull.UnknownImageError
	m.leave(c, err, !errors.As(err, &unknown))
}

func (m *mirrored) leave(c *client, err error, out bool) {
	m.mu.Lock()
	told := m.told[c]
	m.told[c] = true
	if out {
		m.out[c] = true
	}
	m.mu.Unlock()
	if !told && m.warn != nil {
		m.warn(fmt.Sprintf("mirror %s: %v; %s is asked instead", c.host, blame(err), m.after(c).host))
	}
}

// blame says the cause without the registry's name, which the warning has.
func blame(err error) string {
	var unknown *pull.UnknownImageError
	var unauthorized *pull.UnauthorizedError
	var unreachable *pull.UnreachableError
	var busy *pull.BusyError
	switch {
	case errors.As(err, &unknown):
		return "it does not have the image"
	case errors.As(err, &unauthorized):
		return "it refuses: " + unauthorized.Err.Error()
	case errors.As(err, &unreachable):
		return unreachable.Cause()
	case errors.As(err, &busy):
		return busy.Err.Error()
	}
	return err.Error()
}

// after is the next place that is to be asked.
func (m *mirrored) after(c *client) *client {
	seen := false
	for _, p := range m.places {
		if seen && m.usable(p, false) {
			return p
		}
		seen = seen || p == c
	}
	return m.places[len(m.places)-1]
}

// Head is a pull.Registry's.
func (m *mirrored) Head(ctx context.Context) (v1.Hash, error) {
	for _, c := range m.places {
		if !m.usable(c, m.ref.Digest == "") {
			continue
		}
		digest, err := c.Head(ctx)
		switch {
		case m.origin(c), ctx.Err() != nil:
			return digest, err
		case err != nil:
			m.failed(c, err)
		case digest != v1.Hash{}:
			return digest, nil
		}
	}
	return v1.Hash{}, nil
}

// Image is a pull.Registry's. The document that a tag names decides what the rest
// must be, so a mirror whose document is unfit is as good as one that has none.
func (m *mirrored) Image(ctx context.Context, want manifest.Want) (*manifest.Image, error) {
	var img *manifest.Image
	var err error
	for i, c := range m.places {
		if !m.usable(c, m.ref.Digest == "") {
			continue
		}
		img, err = image(ctx, m.ref, want, m.patience, &from{m, i})
		if err == nil || m.origin(c) || ctx.Err() != nil {
			break
		}
		m.failed(c, err)
	}
	return img, err
}

// from reads from the places of a mirrored registry that stand not before one of
// them, which is the one that is asked for a tag.
type from struct {
	*mirrored
	first int
}

func (f *from) document(ctx context.Context, identifier string) ([]byte, string, error) {
	digest, err := v1.NewHash(identifier)
	if err != nil {
		raw, mediaType, err := f.places[f.first].document(ctx, identifier)
		f.took(f.places[f.first], err)
		return raw, mediaType, err
	}
	for _, c := range f.places[f.first:] {
		if !f.usable(c, false) {
			continue
		}
		raw, mediaType, err := c.document(ctx, identifier)
		if err == nil && !f.origin(c) {
			err = manifest.VerifyDigest(raw, digest)
		}
		if err == nil || f.origin(c) || ctx.Err() != nil {
			f.took(c, err)
			return raw, mediaType, err
		}
		f.failed(c, err)
	}
	return nil, "", errors.New("no place is left") // the origin is always
}

func (m *mirrored) took(c *client, err error) {
	if err == nil {
		m.mu.Lock()
		m.gave[c] = true
		m.mu.Unlock()
	}
}

// opener opens a blob where it is to be had. After a transfer from a mirror
// has broken, the blob is opened at a later place, at the offset that was reached.
func (f *from) opener(d manifest.Descriptor) opener {
	var mu sync.Mutex
	broke := map[*client]bool{}
	return func(ctx context.Context, offset, to int64) (io.ReadCloser, error) {
		for _, c := range f.places {
			mu.Lock()
			skip := broke[c]
			mu.Unlock()
			if skip && !f.origin(c) || !f.usable(c, false) {
				continue
			}
			r, err := c.blob(ctx, d, offset, to)
			if f.origin(c) || errors.Is(err, transfer.ErrNoRange) || ctx.Err() != nil && !errors.Is(context.Cause(ctx), transfer.ErrIdle) {
				return r, err
			}
			if err != nil {
				f.failed(c, err)
				if ctx.Err() != nil {
					return nil, context.Cause(ctx)
				}
				continue
			}
			f.took(c, nil)
			return &watchful{r, to - offset, func(err error) {
				if parent := context.Cause(ctx); parent != nil && !errors.Is(parent, transfer.ErrIdle) {
					return // it was ended from here
				}
				mu.Lock()
				broke[c] = true
				mu.Unlock()
				f.leave(c, err, false)
			}}, nil
		}
		return nil, errors.New("no place is left")
	}
}

// watchful notes that a transfer did not come to its end.
type watchful struct {
	io.ReadCloser
	left  int64
	broke func(error)
}

func (w *watchful) Read(p []byte) (int, error) {
	n, err := w.ReadCloser.Read(p)
	w.left -= int64(n)
	if err != nil && (w.left > 0 || err != io.EOF) && w.broke != nil {
		cause := err
		if err == io.EOF {
			cause = io.ErrUnexpectedEOF
		}
		w.broke(fmt.Errorf("a layer broke off: %w", cause))
		w.broke = nil
	}
	return n, err
}

// Distrust is a pull.Mirrored's.
func (m *mirrored) Distrust(err error) bool {
	var unreachable *pull.UnreachableError
	var busy *pull.BusyError
	var errno syscall.Errno
	if errors.As(err, &unreachable) || errors.As(err, &busy) || errors.As(err, &errno) {
		return false // the origin's, after all mirrors; or this machine's own
	}
	any := false
	for _, c := range m.places[:len(m.places)-1] {
		m.mu.Lock()
		suspect := m.gave[c] && !m.out[c]
		m.told[c] = m.told[c] && !suspect
		m.mu.Unlock()
		if suspect {
			m.leave(c, fmt.Errorf("what it sent is not right: %w", err), true)
			any = true
		}
	}
	return any
}
