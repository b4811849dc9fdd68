package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// An image may have several names, each with a record of its own, or none: then its
// one record's reference is its id. A pull that moves a name replaces the
// name's record and leaves the older image no record at all, unlike docker, which lists
// it as <none>: what only it had goes with the next Collect.

// Nameless says whether the record stands for an image that has no name by it.
func (i *Image) Nameless() bool { return i.Reference == i.ID.String() }

// Repository is the reference without tag and digest; empty if there is no name.
func (i *Image) Repository() string {
	if i.Nameless() {
		return ""
	}
	name, _, _ := strings.Cut(i.Reference, "@")
	if colon := strings.LastIndexByte(name, ':'); colon > strings.LastIndexByte(name, '/') {
		name = name[:colon]
	}
	return name
}

// Tag gives an image one more name, a full reference, and takes it from the one
// that has it. The error is an *AbsentError if the image went meanwhile.
//
// Where the image has no other name, whoever untags it meanwhile must not take the record that goes
// for its last one.
func (s *Store) Tag(i *Image, ref string) error {
	if i.Nameless() {
		l, err := s.lockNames()
		if err != nil {
			return err
		}
		defer l.unlock()
	}
	return s.tag(i, ref)
}

// lockNames is taken by who removes a record because the image has another one.
func (s *Store) lockNames() (*lock, error) {
	if err := s.Writable(); err != nil {
		return nil, err
	}
	wait, cancel := context.WithTimeoutCause(context.Background(), 10*time.Second, errBusy)
	defer cancel()
	l, err := s.waitLock(wait, "names", "names of images")
	if errors.Is(err, errBusy) {
		err = fmt.Errorf("change the names of images in %s: another process is at it", s.root)
	}
	return l, err
}

func (s *Store) tag(i *Image, ref string) error {
	// Claimed first: from now on nobody takes away what the record says is there.
	claim, err := s.Claim(i.DiffIDs, i.ID, i.Manifest, i.Digest)
	if err != nil {
		return err
	}
	defer claim.Release()
	if _, err := s.Image(i.Reference); err != nil {
		return err
	}
	named := *i
	named.Reference = ref
	if err := s.PutImage(&named); err != nil {
		return err
	}
	if i.Nameless() && !named.Nameless() {
		var absent *AbsentError
		if err := s.unlinkImage(i.Reference); !errors.As(err, &absent) {
			return err
		}
	}
	return nil
}

// Named says whether an image may have the name, for two system calls at most: without reading its record.
func (s *Store) Named(ref string) bool {
	for _, st := range append([]*Store{s}, s.Shared...) {
		if unix.Faccessat(st.fd, imagePath(ref), unix.F_OK, 0) == nil {
			return true
		}
	}
	return false
}

// Untag takes a name from its image, which stays: without a name if this was its
// last one. Two at once take turns, or each would leave the image to the other's name.
func (s *Store) Untag(ref string) error {
	if _, err := s.ownImage(ref); err != nil {
		return s.orShared(ref, err)
	}
	l, err := s.lockNames()
	if err != nil {
		return err
	}
	defer l.unlock()
	i, err := s.ownImage(ref)
	if err != nil {
		return s.orShared(ref, err)
	}
	if i.Nameless() {
		return nil
	}
	list, err := s.OwnImages()
	if err != nil {
		return err
	}
	last := true
	for _, other := range list {
		last = last && (other.ID != i.ID || other.Reference == ref)
	}
	if last {
		if err := s.tag(i, i.ID.String()); err != nil {
			return err
		}
	}
	return s.unlinkImage(ref)
}

// unlinkImage removes a record alone.
func (s *Store) unlinkImage(ref string) error {
	err := unix.Unlinkat(s.fd, imagePath(ref), 0)
	if errors.Is(err, unix.ENOENT) {
		return &AbsentError{Name: ref}
	}
	return explain("remove", s.Path(imagePath(ref)), err)
}

// useEvery is how exactly it is known when an image was last used.
const useEvery = 24 * time.Hour

// Used notes that an image is used now, for Evict: by its record's time, at most once a
// day. It costs one fstatat, reports nothing, and does nothing on a read-only store.
func (s *Store) Used(i *Image) {
	path := imagePath(i.Reference)
	var st unix.Stat_t
	if unix.Fstatat(s.fd, path, &st, unix.AT_SYMLINK_NOFOLLOW) != nil || time.Since(time.Unix(st.Mtim.Unix())) < useEvery {
		return
	}
	now := []unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_NOW}}
	unix.UtimesNanoAt(s.fd, path, now, unix.AT_SYMLINK_NOFOLLOW)
}

// LastUsed is when an image was pulled or used, to a day; zero if it is not known.
func (s *Store) LastUsed(i *Image) time.Time {
	var st unix.Stat_t
	if unix.Fstatat(s.fd, imagePath(i.Reference), &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return time.Time{}
	}
	return time.Unix(st.Mtim.Unix())
}

// Parts are the names below the root of all that an image is made of: its record,
// its documents and its layers, each once.
func (i *Image) Parts() []string {
	parts := []string{imagePath(i.Reference)}
	seen := map[string]bool{}
	add := func(name string, err error) {
		if err == nil && !seen[name] {
			seen[name] = true
			parts = append(parts, name)
		}
	}
	for _, h := range []v1.Hash{i.Digest, i.Manifest, i.ID} {
		add(blobPath(h))
	}
	for _, d := range i.DiffIDs {
		k, err := key(d, i.IDs)
		add("layers/"+k, err)
	}
	return parts
}
