package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"skiff/internal/again"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// imagePath is where the record of a reference is: the reference with every
// byte but [a-z0-9A-Z._-] as %XX, or its digest where that is too long for a name.
func imagePath(ref string) string {
	var b strings.Builder
	b.WriteString("images/")
	for i := 0; i < len(ref); i++ {
		switch c := ref[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.' && i > 0:
			b.WriteByte(c)
		default:
			const digits = "0123456789ABCDEF"
			b.Write([]byte{'%', digits[c>>4], digits[c&15]})
		}
	}
	if b.Len() > 240 {
		return fmt.Sprintf("images/%%%x", sha256.Sum256([]byte(ref)))
	}
	return b.String()
}

// Image returns the record of a full reference: of the store's own and those of shared
// stores the one that was pulled last. It does not look for the layers:
// a run does that when it mounts them, a pull by HasLayer. The error is
// an *AbsentError if there is no record, or no whole one.
func (s *Store) Image(ref string) (*Image, error) {
	i, err := s.ownImage(ref)
	for _, other := range s.Shared {
		if o, oerr := other.ownImage(ref); oerr == nil && (err != nil || !o.Pulled.Before(i.Pulled)) {
			i, err = o, nil
		}
	}
	return i, err
}

func (s *Store) ownImage(ref string) (*Image, error) {
	if err := s.recover(); err != nil {
		return nil, err
	}
	return s.image(imagePath(ref), ref)
}

func (s *Store) image(path, ref string) (*Image, error) {
	b, err := s.readFile(path, maxRecord)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &AbsentError{Name: ref}
	}
	if err != nil {
		return nil, err
	}
	i := new(Image)
	if i.UnmarshalText(b) != nil || ref != "" && i.Reference != ref {
		return nil, &AbsentError{Name: ref}
	}
	return i, nil
}

// Images lists the records, sorted by reference, with those of shared stores; of
// a name that several have, the one that Image returns.
func (s *Store) Images() ([]*Image, error) {
	list, err := s.OwnImages()
	for _, other := range s.Shared {
		more, oerr := other.OwnImages()
		if oerr != nil {
			continue // as Image does
		}
		for _, o := range more {
			at := slices.IndexFunc(list, func(i *Image) bool { return i.Reference == o.Reference })
			if at < 0 {
				list = append(list, o)
			} else if !o.Pulled.Before(list[at].Pulled) {
				list[at] = o
			}
		}
	}
	slices.SortFunc(list, func(a, b *Image) int { return strings.Compare(a.Reference, b.Reference) })
	return list, err
}

// OwnImages lists the records of this store alone, sorted by reference: those that
// can be removed.
func (s *Store) OwnImages() ([]*Image, error) {
	if err := s.recover(); err != nil {
		return nil, err
	}
	names, err := s.names("images")
	if err != nil {
		return nil, err
	}
	var list []*Image
	for _, name := range names {
		i, err := s.image("images/"+name, "")
		var absent *AbsentError
		if errors.As(err, &absent) {
			continue // removed meanwhile, or cut short by a power cut
		}
		if err != nil {
			return nil, err
		}
		list = append(list, i)
	}
	slices.SortFunc(list, func(a, b *Image) int { return strings.Compare(a.Reference, b.Reference) })
	return list, nil
}

// ImageByID returns an image by its id or the beginning of one, with or without
// "sha256:". If several names have it, the first one's record is returned. The
// error is an *AbsentError, or an *AmbiguousError if several ids begin so.
func (s *Store) ImageByID(prefix string) (*Image, error) {
	hex := strings.TrimPrefix(prefix, "sha256:")
	list, err := s.Images()
	if err != nil {
		return nil, err
	}
	var found *Image
	var ids []string
	for _, i := range list {
		if hex == "" || !strings.HasPrefix(i.ID.Hex, hex) {
			continue
		}
		if found == nil {
			found = i
		}
		if !slices.Contains(ids, i.ID.Hex) {
			ids = append(ids, i.ID.Hex)
		}
	}
	switch len(ids) {
	case 0:
		return nil, &AbsentError{Name: prefix}
	case 1:
		return found, nil
	}
	return nil, &AmbiguousError{Prefix: prefix, IDs: ids}
}

// PutImage publishes a record under its reference, replacing an older one.
// Its layers must be there; the caller looks again after this (see the package comment).
func (s *Store) PutImage(i *Image) error {
	b, err := i.MarshalText()
	if err != nil {
		return err
	}
	if err := s.Writable(); err != nil {
		return err
	}
	return s.writeFile(imagePath(i.Reference), b)
}

// InUse returns the DiffIDs of every layer that a container uses, running or
// not, read at the moment of the call.
type InUse func() (map[v1.Hash]bool, error)

// Removed is what RemoveImage or Collect took away.
type Removed struct {
	Untagged string    // the reference
	Layers   []v1.Hash // sha256 unless said; the layers that are gone
	Bytes    int64     // their uncompressed size
	Blobs    int
}

// RemoveImage removes a reference, and the layers and blobs that nothing
// else uses. Layers of containers stay until a later Collect. Their files are
// renamed away at once and deleted by the next Sweep.
func (s *Store) RemoveImage(ctx context.Context, ref string, inUse InUse) (Removed, error) {
	i, err := s.ownImage(ref)
	if err != nil {
		return Removed{}, s.orShared(ref, err)
	}
	if err := s.Writable(); err != nil {
		return Removed{}, err
	}
	if err := again.Unlinkat(s.fd, imagePath(ref), 0); errors.Is(err, unix.ENOENT) {
		return Removed{}, &AbsentError{Name: ref}
	} else if err != nil {
		return Removed{}, explain("remove", s.Path(imagePath(ref)), err)
	}
	r, err := s.collect(ctx, inUse, 24*time.Hour, i)
	if errors.Is(err, errBusy) {
		err = nil // who collects now, or next, takes it
	}
	r.Untagged = ref
	return r, err
}
