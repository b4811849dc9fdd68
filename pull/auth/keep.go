package auth

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"skiff/pull/transfer"
)

// Keep stores a login in the first of the files that Find reads, or with the
// credential helper that this file names for the host. All else in the file stays.
//
// where is the file or the helper. open: the password is in the file as it is.
func (f *Finder) Keep(ctx context.Context, host, path, user, password string) (where string, open bool, err error) {
	file := f.paths()[0]
	key := keyOf(host, path)
	err = change(ctx, file, func(d *document) error {
		where, open = file, true
		d.drop(host, path)
		helper := d.helper(host)
		if helper == "" {
			return d.set(key, map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte(user + ":" + password))})
		}
		if path != "" {
			return fmt.Errorf("%s keeps the logins of whole registries only: log in to %s", program(helper), host)
		}
		where, open = program(helper), false
		b, err := json.Marshal(map[string]string{"ServerURL": key, "Username": user, "Secret": password})
		if err != nil {
			return err
		}
		if _, err := call(ctx, helper, "store", b); err != nil {
			return err
		}
		return d.set(key, map[string]string{}) // as docker notes what its helper has
	})
	return where, open, err
}

// Forget removes the login of a host, or of a namespace of it, from where Keep
// stores it. found: there was one.
func (f *Finder) Forget(ctx context.Context, host, path string) (found bool, err error) {
	if _, err := os.Stat(f.paths()[0]); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	err = change(ctx, f.paths()[0], func(d *document) error {
		found = d.drop(host, path)
		helper := d.helper(host)
		if helper == "" || path != "" {
			return nil
		}
		had, err := ask(ctx, helper, serverURL(host))
		if err != nil || had == nil {
			return err
		}
		found = true
		_, err = call(ctx, helper, "erase", []byte(serverURL(host)))
		return err
	})
	return found, err
}

// ForgetAll removes every login from where Keep stores them.
func (f *Finder) ForgetAll(ctx context.Context) error {
	if _, err := os.Stat(f.paths()[0]); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return change(ctx, f.paths()[0], func(d *document) error {
		keys := map[string]string{} // and who has them
		for key := range d.auths {
			if _, path := split(key); path == "" {
				keys[key] = d.store
			}
		}
		for key, helper := range d.helpers {
			keys[key] = helper
		}
		for key, helper := range keys {
			if helper == "" {
				continue
			}
			host, _ := split(key)
			if had, err := ask(ctx, helper, serverURL(host)); err != nil {
				return err
			} else if had != nil {
				if _, err := call(ctx, helper, "erase", []byte(serverURL(host))); err != nil {
					return err
				}
			}
		}
		clear(d.auths)
		return nil
	})
}

// Missing says whether an error of Find is that its one file is not there.
func (f *Finder) Missing(err error) bool {
	return f.File != "" && errors.Is(err, fs.ErrNotExist)
}

// keyOf is the key of a login in a file, as docker writes it.
func keyOf(host, path string) string {
	if path == "" {
		return serverURL(host)
	}
	return host + "/" + path
}

// A document is a credentials file of which only the logins are understood.
type document struct {
	all     map[string]json.RawMessage
	auths   map[string]json.RawMessage
	helpers map[string]string
	store   string
}

// helper is who keeps the login of a host, or "".
func (d *document) helper(host string) string {
	for key, helper := range d.helpers {
		if sameHost(key, host) {
			return helper
		}
	}
	return d.store
}

// drop removes a login under all its spellings.
func (d *document) drop(host, path string) (found bool) {
	for key, raw := range d.auths {
		if h, p := split(key); p == path && (h == host || hub(h) && hub(host)) {
			delete(d.auths, key)
			var e entry
			found = found || json.Unmarshal(raw, &e) != nil || e != entry{}
		}
	}
	return found
}

func (d *document) set(key string, entry map[string]string) error {
	b, err := json.Marshal(entry)
	d.auths[key] = b
	return err
}

// change rewrites a credentials file, or makes it: of mode 0600, replaced by
// rename, and by one skiff at a time, which holds a lock on the directory. A symbolic
// link stays, and the file that it leads to is replaced. The owner stays.
func change(ctx context.Context, path string, edit func(*document) error) error {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	lock, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	for {
		err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			break
		}
		if err != syscall.EWOULDBLOCK && err != syscall.EINTR {
			return &fs.PathError{Op: "lock", Path: dir, Err: err}
		}
		if err := transfer.Wait(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	before, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	d, err := parse(path, before)
	if err != nil {
		return err
	}
	if err := edit(d); err != nil {
		return err
	}
	after, err := d.text()
	if err != nil || bytes.Equal(before, after) || before == nil && len(d.auths) == 0 {
		return err
	}
	return replace(path, after)
}

func parse(path string, b []byte) (*document, error) {
	d := &document{all: map[string]json.RawMessage{}, auths: map[string]json.RawMessage{}}
	if len(strings.TrimSpace(string(b))) == 0 {
		return d, nil
	}
	err := json.Unmarshal(b, &d.all)
	for key, to := range map[string]any{"auths": &d.auths, "credHelpers": &d.helpers, "credsStore": &d.store} {
		if raw, ok := d.all[key]; ok && err == nil {
			err = json.Unmarshal(raw, to)
		}
	}
	if err != nil || d.all == nil {
		return nil, fmt.Errorf("read %s: it is not a docker config or podman auth file", path)
	}
	if d.auths == nil { // "auths": null
		d.auths = map[string]json.RawMessage{}
	}
	return d, nil
}

// text is indented as docker does it. Numbers and unknown members are as they were.
func (d *document) text() ([]byte, error) {
	auths, err := json.Marshal(d.auths)
	if err != nil {
		return nil, err
	}
	d.all["auths"] = auths
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "\t")
	err = e.Encode(d.all)
	return slices.Clip(b.Bytes()), err
}

func replace(path string, content []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	if info, err := os.Stat(path); err == nil {
		if was, ok := info.Sys().(*syscall.Stat_t); ok && int(was.Uid) != os.Geteuid() {
			if err := tmp.Chown(int(was.Uid), int(was.Gid)); err != nil {
				return err
			}
		}
	}
	if _, err := tmp.Write(content); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
