package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"skiff/pull"
	"skiff/pull/store"
	"skiff/run"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/urfave/cli/v2"
)

func lockCommand() *cli.Command {
	return &cli.Command{
		Name: "lock", Usage: "write down which images names stand for, in " + pull.LockFile, ArgsUsage: "[IMAGE...]",
		UsageText: "skiff lock alpine:3.20 golang:1.26\nskiff run --locked alpine:3.20 true\nskiff lock --update",
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "check", Usage: "ask the registries whether the names still stand for the same; end with 1 if not"},
			&cli.BoolFlag{Name: "update", Usage: "ask the registries, and write down what has moved"},
			&cli.StringFlag{Name: "file", Value: pull.LockFile, Usage: "the lock is `FILE`"},
		}, askFlags()...),
		Action: action("lock", lock),
	}
}

// lock adds names to the lock, those of images that are here as they are here; with
// --check and --update it looks at those that it has, or only some of them.
func lock(c *cli.Context) error {
	check, update := c.Bool("check"), c.Bool("update")
	if check && update {
		return errors.New("--check looks and --update writes: one of them")
	}
	path := c.String("file")
	old, err := readLock(path)
	if errors.Is(err, fs.ErrNotExist) && !check && !update {
		err = nil
	}
	if err != nil {
		return err
	}
	names := c.Args().Slice()
	if len(names) == 0 {
		if !check && !update {
			return errors.New("which image? --check and --update look at those that " + path + " has")
		}
		for _, e := range old {
			names = append(names, e.Reference)
		}
	}
	r, err := openRunner(c)
	if err != nil {
		return err
	}
	locked, moved := old, 0
	for _, name := range names {
		e, err := lockedNow(c, r, name, check || update)
		if err != nil {
			return &verbError{verb: "lock", object: name, err: err}
		}
		was := old.Find(e.Reference)
		switch {
		case was == nil && (check || update):
			return &verbError{verb: "lock", object: name, err: fmt.Errorf("%s: %w", path, pull.ErrNotLocked)}
		case was == nil:
			fmt.Fprintf(stdout, "%s %s\n", pull.Familiar(e.Reference), e.Digest)
		case was.Digest != e.Digest:
			moved++
			fmt.Fprintf(stdout, "%s moved\n  from %s\n  to   %s\n", pull.Familiar(e.Reference), was.Digest, e.Digest)
		}
		locked = locked.Set(*e)
	}
	if check {
		if moved > 0 {
			say("hint: `skiff lock --update` writes this down")
			return exitStatus(1)
		}
		return nil
	}
	return replaceFile(path, func(f *os.File) error {
		_, err := f.WriteString(locked.String())
		return err
	})
}

func readLock(path string) (pull.Lock, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	l, err := pull.ParseLock(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return l, nil
}

// lockedNow is what a name stands for: here if it is here, unless the registry is
// to be asked.
func lockedNow(c *cli.Context, r *run.Runner, name string, ask bool) (*pull.Locked, error) {
	ref, err := pull.ParseReference(name)
	switch {
	case err != nil:
		return nil, err
	case ref.Host == "" || ref.Digest != "":
		return nil, &pull.ReferenceError{Name: name, Why: "what is locked is a name with a tag"}
	}
	var raw []byte
	var platform string
	if !ask {
		if img, err := r.Store.Image(ref.String()); err == nil && img.Digest != (v1.Hash{}) {
			raw, _ = r.Store.Blob(img.Digest)
			platform = img.Platform()
		}
	}
	if raw == nil {
		if raw, platform, err = remoteDocument(c, name); err != nil {
			return nil, err
		}
	}
	digest, err := store.Digest("sha256", raw)
	if err != nil {
		return nil, err
	}
	platforms, err := platformsOf(raw, digest, platform)
	return &pull.Locked{Reference: ref.String(), Digest: digest, Platforms: platforms}, err
}

// A lockFlag is --locked, or --locked=FILE.
type lockFlag struct{ value string }

func (f *lockFlag) Set(s string) error { f.value = s; return nil }
func (f *lockFlag) String() string     { return f.value }

// IsBoolFlag says to package flag that the value may be left out.
func (f *lockFlag) IsBoolFlag() bool { return true }

func lockedFlag() cli.Flag {
	return &cli.GenericFlag{Name: "locked", Value: &lockFlag{}, DefaultText: pull.LockFile + " here or in a directory above", Usage: "take the image that the lock `[=FILE]` says, and no other"}
}

// lockPath is the file that --locked means, or "" without it.
func lockPath(c *cli.Context) (string, error) {
	f, _ := c.Generic("locked").(*lockFlag)
	if f == nil || f.value == "" || f.value == "false" {
		return "", nil
	}
	if f.value != "true" {
		return f.value, nil
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for at := dir; ; at = filepath.Dir(at) {
		path := filepath.Join(at, pull.LockFile)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
		if at == "/" {
			return "", &noLockError{dir}
		}
	}
}

// A noLockError is --locked where there is no lock.
type noLockError struct{ dir string }

func (e *noLockError) Error() string {
	return "--locked: there is no " + pull.LockFile + " in " + e.dir + " or a directory above it"
}

// pinned is the reference that a lock makes of a name: by digest.
func pinned(path string, ref pull.Reference) (pull.Reference, *pull.Locked, error) {
	l, err := readLock(path)
	if err != nil {
		return ref, nil, err
	}
	if ref.Host == "" {
		return ref, nil, fmt.Errorf("%s: %w", path, pull.ErrNotLocked)
	}
	if ref.Digest != "" {
		for _, e := range l {
			if e.Digest.String() == ref.Digest {
				return ref, &e, nil
			}
		}
		return ref, nil, fmt.Errorf("%s: %w", path, pull.ErrNotLocked)
	}
	e := l.Find(ref.String())
	if e == nil {
		return ref, nil, fmt.Errorf("%s: %w", path, pull.ErrNotLocked)
	}
	ref.Digest = e.Digest.String()
	return ref, e, nil
}

// lockedImage is pullImage held to a lock. What is here is asked of nobody.
func lockedImage(ctx context.Context, c *cli.Context, r *run.Runner, name, path string, policy pull.Policy) (*pull.Pulled, error) {
	ref, err := pull.ParseReference(name)
	if err != nil {
		return nil, err
	}
	by, entry, err := pinned(path, ref)
	if err != nil {
		return nil, err
	}
	p := &pull.Puller{Store: r.Store}
	if p.Want, err = wanted(c); err != nil {
		return nil, err
	}
	img, err := p.Ensure(ctx, ref, pull.Never)
	if err != nil || img.Digest != entry.Digest {
		if policy != pull.Never {
			policy = pull.Missing
		}
		if img, err = pullReference(ctx, c, r, by, policy); err != nil {
			return nil, err
		}
	}
	if want, ok := entry.Platforms[img.Platform()]; ok && img.Manifest != (v1.Hash{}) && want != img.Manifest {
		return nil, fmt.Errorf("its manifest for %s is %s, and %s says %s", img.Platform(), img.Manifest, path, want)
	}
	return img, nil
}

// name gives an image that was pulled by a lock the name that was asked for.
func nameLocked(r *run.Runner, name string, img *store.Image) error {
	ref, err := pull.ParseReference(name)
	if err != nil || ref.Digest != "" || img.Reference == ref.String() {
		return err
	}
	if err := r.Store.Tag(img, ref.String()); err != nil {
		return err
	}
	return r.Store.Untag(img.Reference)
}
