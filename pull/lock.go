package pull

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// A Lock says which images names stand for, so that they stand for the same ones
// tomorrow and elsewhere. Its file has a line for each name and its digest, and below it one for
// each platform and its manifest's, all sorted, so that it can be read and merged:
//
//	skiff lock 1
//	docker.io/library/alpine:3.20 sha256:…
//	  linux/amd64 sha256:…
//	  linux/arm64/v8 sha256:…
//
// Empty lines, and those that begin with #, mean nothing and are not kept.
type Lock []Locked

// A Locked is one name's digest: of the index if it has one, else of the manifest.
type Locked struct {
	Reference string // in full
	Digest    v1.Hash
	Platforms map[string]v1.Hash // "linux/arm64/v8": the manifest's digest
}

// LockFile is the name of the file.
const LockFile = "skiff.lock"

// ErrNotLocked is a name that a Lock does not have.
var ErrNotLocked = errors.New("not in the lock")

const (
	lockHead = "skiff lock 1"
	maxLock  = 4 << 20
)

// Find returns the entry of a full reference, or nil.
func (l Lock) Find(ref string) *Locked {
	for i := range l {
		if l[i].Reference == ref {
			return &l[i]
		}
	}
	return nil
}

// Set adds an entry or replaces that of its name, and returns the new lock, sorted.
func (l Lock) Set(e Locked) Lock {
	l = slices.DeleteFunc(slices.Clone(l), func(o Locked) bool { return o.Reference == e.Reference })
	l = append(l, e)
	slices.SortFunc(l, func(a, b Locked) int { return strings.Compare(a.Reference, b.Reference) })
	return l
}

// ParseLock reads a lock's file. An error names the line.
func ParseLock(r io.Reader) (Lock, error) {
	var l Lock
	limited := &io.LimitedReader{R: r, N: maxLock}
	s := bufio.NewScanner(limited)
	head := false
	for n := 1; s.Scan(); n++ {
		text := s.Text()
		if line := strings.TrimSpace(text); line == "" || line[0] == '#' {
			continue
		}
		if !head {
			if strings.TrimSpace(text) != lockHead {
				return nil, fmt.Errorf("line %d: it does not begin with %q: it is no lock, or that of a newer skiff", n, lockHead)
			}
			head = true
			continue
		}
		if err := l.line(text); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
	}
	if err := s.Err(); err != nil {
		return nil, err
	}
	if limited.N <= 0 {
		return nil, fmt.Errorf("it is longer than %d bytes", maxLock)
	}
	if !head {
		return nil, errors.New("there is nothing in it")
	}
	return l, nil
}

func (l *Lock) line(text string) error {
	words := strings.Fields(text)
	if len(words) != 2 {
		return errors.New("it is no name and digest")
	}
	digest, err := v1.NewHash(words[1])
	if err != nil {
		return fmt.Errorf("%q is no digest", clip(words[1]))
	}
	if text[0] != ' ' && text[0] != '\t' {
		ref, err := ParseReference(words[0])
		if err != nil {
			return err
		}
		if ref.Host == "" || ref.Digest != "" || l.Find(ref.String()) != nil {
			return fmt.Errorf("%q is no name with a tag, or stands twice", clip(words[0]))
		}
		*l = append(*l, Locked{Reference: ref.String(), Digest: digest, Platforms: map[string]v1.Hash{}})
		return nil
	}
	if len(*l) == 0 {
		return errors.New("a platform stands before any name")
	}
	last := (*l)[len(*l)-1]
	if _, twice := last.Platforms[words[0]]; twice {
		return fmt.Errorf("platform %q stands twice", clip(words[0]))
	}
	last.Platforms[words[0]] = digest
	return nil
}

// String is the file's text.
func (l Lock) String() string {
	var b strings.Builder
	b.WriteString(lockHead + "\n")
	for _, e := range l {
		fmt.Fprintf(&b, "%s %s\n", e.Reference, e.Digest)
		var lines []string
		for p, d := range e.Platforms {
			lines = append(lines, fmt.Sprintf("  %s %s\n", p, d))
		}
		slices.Sort(lines)
		b.WriteString(strings.Join(lines, ""))
	}
	return b.String()
}
