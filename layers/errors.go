package layers

import (
	"errors"
	"fmt"
	"strconv"
	"syscall"

	"skiff/internal/idmap"
)

var (
	// ErrEscape: an entry would land, link or lead outside the layer's directory.
	ErrEscape = errors.New("leads outside the layer")
	// ErrFormat: the archive or its compression is broken, or of no known kind.
	ErrFormat = errors.New("malformed layer")
	// ErrQuota: Options.MaxBytes or Options.MaxEntries is used up.
	ErrQuota = errors.New("layer exceeds its limit")
	// ErrDamaged: a layer on disk is not as it was unpacked.
	ErrDamaged = errors.New("damaged layer")
	// ErrWorker: the unpacking process died or could not be talked to.
	ErrWorker = errors.New("unpacking worker")
)

// An EntryError is an entry of a layer that could not be unpacked.
type EntryError struct {
	Name string // as the archive has it: any bytes
	Step string // "open", "mknod", …
	Err  error
}

// Error escapes the name, and cuts it where it is endless.
func (e *EntryError) Error() string {
	return fmt.Sprintf("entry %s: %s: %v", quote(e.Name), e.Step, e.Err)
}

func (e *EntryError) Unwrap() error { return e.Err }

func quote(name string) string {
	const most = 200
	if len(name) > most {
		return strconv.QuoteToASCII(name[:most]) + "…"
	}
	return strconv.QuoteToASCII(name)
}

// An UnmappedError is an owner that the user namespace has no id for. More
// subordinate ids cure it, or Options.Squash.
type UnmappedError struct {
	Kind string // "uid" or "gid"
	ID   int64  // as the archive has it
	Map  string // the ids there are, as idmap.Map prints them
}

func (e *UnmappedError) Error() string {
	return fmt.Sprintf("%s %d is not among the ids %s", e.Kind, e.ID, e.Map)
}

// mapped finds the id in the map, which is of the user namespace that the
// caller runs in.
func mapped(m idmap.Map, uid, gid int64) error {
	if uid < 0 || uid >= 1<<32-1 || !m.HasUID(uint32(uid)) {
		return &UnmappedError{"uid", uid, m.String()}
	}
	if gid < 0 || gid >= 1<<32-1 || !m.HasGID(uint32(gid)) {
		groups := idmap.Map{Kind: m.Kind, UIDs: m.GIDs}
		return &UnmappedError{"gid", gid, groups.String()}
	}
	return nil
}

// A remote error was an error in the worker: the text as it was there, and as
// much of its type as callers branch on.
type remote struct {
	Text     string
	Sentinel string         `json:",omitempty"`
	Errno    syscall.Errno  `json:",omitempty"`
	Unmapped *UnmappedError `json:",omitempty"`
}

var sentinels = map[string]error{"escape": ErrEscape, "format": ErrFormat, "quota": ErrQuota, "damaged": ErrDamaged}

// export turns an error into what can be sent.
func export(err error) *remote {
	if err == nil {
		return nil
	}
	r := &remote{Text: err.Error()}
	for name, sentinel := range sentinels {
		if errors.Is(err, sentinel) {
			r.Sentinel = name
		}
	}
	errors.As(err, &r.Errno)
	errors.As(err, &r.Unmapped)
	return r
}

func (r *remote) Error() string { return r.Text }

// Unwrap gives back what export kept.
func (r *remote) Unwrap() []error {
	var errs []error
	if s := sentinels[r.Sentinel]; s != nil {
		errs = append(errs, s)
	}
	if r.Errno != 0 {
		errs = append(errs, r.Errno)
	}
	if r.Unmapped != nil {
		errs = append(errs, r.Unmapped)
	}
	return errs
}
