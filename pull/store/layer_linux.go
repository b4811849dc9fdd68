package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"skiff/internal/again"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// A Layer is one published layer. Its directory is never written again.
type Layer struct {
	DiffID v1.Hash
	Dir    string // absolute; the overlay's lower directory
}

// A LayerRecord is what is known of a layer besides its files.
type LayerRecord struct {
	DiffID  v1.Hash   `json:"diffID"`
	Blob    v1.Hash   `json:"blob,omitzero"`    // as it came: the compressed bytes' digest; zero if it had none
	Source  string    `json:"source,omitempty"` // where from: a reference without credentials
	Packed  int64     `json:"packed,omitempty"` // bytes of the blob
	Sent    v1.Hash   `json:"sent,omitzero"`    // as it was last sent to a registry
	SentAs  int64     `json:"sentAs,omitempty"` // bytes of that blob
	Size    int64     `json:"size"`             // bytes of the uncompressed archive
	Entries int64     `json:"entries"`          // names in it
	Opaque  bool      `json:"opaque,omitempty"` // its root hides every layer below it
	IDs     IDs       `json:"ids"`              // set by Commit
	Created time.Time `json:"created"`          // set by Commit
	Owners  []byte    `json:"-"`                // goes to the file owners, where fs could not keep them
}

// key is a layer's name below layers/. Layers of single ids have other owners
// on disk, so they are other things with other names.
func (s *Store) key(diffID v1.Hash) (string, error) { return key(diffID, s.IDs) }

func key(diffID v1.Hash, ids IDs) (string, error) {
	name, err := hexName(diffID)
	if err == nil && ids == Single {
		name += "-single"
	}
	return name, err
}

// hexName is a digest as one path component. A v1.Hash may have been made
// without its parser, so it is parsed here once more: it becomes a path.
func hexName(h v1.Hash) (string, error) {
	if _, err := v1.NewHash(h.Algorithm + ":" + h.Hex); err != nil {
		return "", fmt.Errorf("digest %q: %w", h.Algorithm+":"+h.Hex, err)
	}
	if h.Algorithm == "sha256" {
		return h.Hex, nil
	}
	return h.Algorithm + "_" + h.Hex, nil
}

// LayerDir is where the layer's files are if it is there. Whoever needs to know
// that it is opens it; see the package comment for what must be written before.
func (s *Store) LayerDir(diffID v1.Hash) string {
	s = s.Home(diffID)
	k, err := s.key(diffID)
	if err != nil {
		return s.Path("layers", "invalid", "fs")
	}
	return s.Path("layers", k, "fs")
}

// HasLayer returns a published layer. One whose data a power cut may have lost
// is not there.
func (s *Store) HasLayer(diffID v1.Hash) (Layer, bool) {
	s = s.Home(diffID)
	k, err := s.key(diffID)
	if err != nil || s.recover() != nil || s.suspects[k] || !s.exists("layers/"+k+"/layer.json") {
		return Layer{}, false
	}
	return Layer{DiffID: diffID, Dir: s.Path("layers", k, "fs")}, true
}

// LayerRecord reads a layer's record.
func (s *Store) LayerRecord(diffID v1.Hash) (LayerRecord, error) {
	var r LayerRecord
	s = s.Home(diffID)
	k, err := s.key(diffID)
	if err != nil {
		return r, err
	}
	b, err := s.readFile("layers/"+k+"/layer.json", 1<<20)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, explain("read", s.Path("layers", k, "layer.json"), err)
	}
	return r, nil
}

// NoteSent keeps in a layer's record the digest and size of the blob that it was sent as.
func (s *Store) NoteSent(diffID, blob v1.Hash, size int64) error {
	r, err := s.LayerRecord(diffID)
	if err != nil || r.Sent == blob && r.SentAs == size {
		return err
	}
	s = s.Home(diffID)
	if err := s.Writable(); err != nil {
		return err
	}
	k, err := s.key(diffID)
	if err != nil {
		return err
	}
	r.Sent, r.SentAs = blob, size
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	// If the layer is removed meanwhile, there is no directory to rename it into.
	return s.writeFile("layers/"+k+"/layer.json", append(b, '\n'))
}

// A Stage is a layer being written. It ends with Commit or Abort.
type Stage struct {
	s    *Store
	key  string
	diff v1.Hash
	temp *Temp
	lock *lock
}

// StageLayer begins a layer. If another process is at it, this waits until
// that has ended, which ctx may cut short. The Stage is nil, and the error too, if
// the layer is published by then: then there is nothing to do.
func (s *Store) StageLayer(ctx context.Context, diffID v1.Hash) (*Stage, error) {
	k, err := s.key(diffID)
	if err != nil {
		return nil, err
	}
	if err := s.Writable(); err != nil {
		return nil, err
	}
	l, err := s.waitLock(ctx, k, "layer "+diffID.Hex[:12])
	if err != nil {
		return nil, err
	}
	if err := s.recover(); err != nil {
		l.unlock()
		return nil, err
	}
	if _, ok := s.HasLayer(diffID); ok {
		l.unlock()
		return nil, nil
	}
	t, err := s.NewTemp("layer")
	if err != nil {
		l.unlock()
		return nil, err
	}
	st := &Stage{s: s, key: k, diff: diffID, temp: t, lock: l}
	for _, d := range []struct {
		name string
		mode uint32
	}{{"/layer", 0o700}, {"/layer/fs", 0o755}} {
		err := again.Mkdirat(s.fd, t.name+d.name, d.mode)
		if err == nil {
			err = again.Fchmodat(s.fd, t.name+d.name, d.mode, 0)
		}
		if err != nil {
			st.Abort()
			return nil, explain("make", s.Path(t.name)+d.name, err)
		}
	}
	return st, nil
}

// Split is the name of the file beside a layer's fs from which, with its files, the
// layer's archive can be made again. Who fills a Stage may make it beside Dir.
const Split = "split"

// LayerFiles are where a published layer's fs and its Split are, below the
// layers/ of its Home. Whether there is a Split is for who opens it to see.
func (s *Store) LayerFiles(diffID v1.Hash) (fs, split string, err error) {
	k, err := s.key(diffID)
	return k + "/fs", k + "/" + Split, err
}

// Dir is the empty directory to fill, mode 0755: it becomes the layer's fs.
func (st *Stage) Dir() string { return st.temp.Path() + "/layer/fs" }

// Commit publishes the layer. The caller has verified what it wrote. After an
// error the stage is gone, as after Abort.
func (st *Stage) Commit(r LayerRecord) error {
	s := st.s
	r.DiffID, r.IDs, r.Created = st.diff, s.IDs, time.Now().UTC()
	b, err := json.MarshalIndent(r, "", "\t")
	if err == nil {
		err = s.create(st.temp.name+"/layer/layer.json", append(b, '\n'))
	}
	if err == nil && r.Owners != nil {
		err = s.create(st.temp.name+"/layer/owners", r.Owners)
	}
	var marker string
	if err == nil {
		marker, err = s.mark(st.key)
	}
	if err == nil {
		err = again.Renameat2(s.fd, st.temp.name+"/layer", s.fd, "layers/"+st.key, unix.RENAME_NOREPLACE)
		if errors.Is(err, unix.EINVAL) {
			// A file system without the flag (some FUSE). A plain rename does not
			// replace a directory with something in it either: ENOTEMPTY.
			err = again.Renameat(s.fd, st.temp.name+"/layer", s.fd, "layers/"+st.key)
		}
		if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENOTEMPTY) {
			s.unmark(marker) // the winner's layer has a marker of its own
			err = nil
		} else if err != nil {
			s.unmark(marker)
			err = explain("publish", s.Path("layers", st.key), err)
		}
	}
	st.Abort()
	return err
}

// Abort drops the stage. It is harmless after Commit, and says nothing: what it could
// not remove, Sweep will.
func (st *Stage) Abort() {
	if st.temp == nil {
		return
	}
	st.lock.unlock()
	st.temp.Remove()
	st.temp = nil
}

// mark makes a marker of this boot for a layer that is about to be published.
func (s *Store) mark(key string) (string, error) {
	name := "unsynced/" + key + "." + random()
	for {
		err := again.Symlinkat(bootID(), s.fd, name)
		if !errors.Is(err, unix.ENOENT) {
			return name, explain("create", s.Path(name), err)
		}
		// Settle removes the directory when the last marker has gone.
		if err := again.Mkdirat(s.fd, "unsynced", 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
			return "", explain("make", s.Path("unsynced"), err)
		}
	}
}

func (s *Store) unmark(name string) { again.Unlinkat(s.fd, name, 0) }

// Settle makes every layer published before the call durable by one syncfs(2), and
// then removes their markers: data is written before the marker is made, so what
// is listed here is covered. A pull waits for it; a run does it beside the start.
// When ctx ends first the kernel goes on alone, and the markers stay for the next Settle.
func (s *Store) Settle(ctx context.Context) error {
	if err := s.Writable(); err != nil {
		return err
	}
	markers, err := s.names("unsynced")
	if err != nil {
		return err
	}
	if len(markers) > 0 {
		fd, err := again.Openat(s.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return explain("open", s.root, err)
		}
		done := make(chan error, 1)
		go func() {
			done <- again.Syncfs(fd)
			unix.Close(fd)
		}()
		select {
		case err := <-done:
			if err != nil {
				return explain("sync", s.root, err)
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	for _, m := range markers {
		if target, err := s.readlink("unsynced/" + m); err == nil && target == bootID() {
			s.unmark("unsynced/" + m)
		}
	}
	again.Unlinkat(s.fd, "unsynced", unix.AT_REMOVEDIR) // ENOTEMPTY: somebody published meanwhile
	return nil
}

func (s *Store) readlink(name string) (string, error) {
	var b [128]byte
	n, err := unix.Readlinkat(s.fd, name, b[:])
	if err != nil {
		return "", err
	}
	return string(b[:n]), nil
}

// recover drops the layers that were written in another boot and never
// synced, once per Store: one system call that says ENOENT where there is nothing to do.
// On a store that cannot be written to they are only not trusted.
func (s *Store) recover() error {
	s.recovered.Lock()
	defer s.recovered.Unlock()
	if s.checked {
		return nil
	}
	stale, err := s.stale()
	if err != nil {
		return err
	}
	if len(stale) > 0 {
		if err := s.drop(); err != nil {
			s.suspects = map[string]bool{}
			for _, m := range stale {
				s.suspects[markerKey(m)] = true
			}
		}
	}
	s.checked = true
	return nil
}

// markerKey is the layer's name in a marker's.
func markerKey(marker string) string {
	k, _, _ := strings.Cut(marker, ".")
	return k
}

// stale lists the markers of other boots.
func (s *Store) stale() ([]string, error) {
	markers, err := s.names("unsynced")
	if err != nil {
		return nil, err
	}
	var stale []string
	for _, m := range markers {
		if target, err := s.readlink("unsynced/" + m); err == nil && target != bootID() {
			stale = append(stale, m)
		}
	}
	return stale, nil
}

// drop renames the layers of stale markers away, each before its marker goes:
// killed between the two, the next one finds the marker and nothing to drop. The lock
// keeps it from dropping what another process, through with this, published again.
func (s *Store) drop() error {
	if err := s.Writable(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	l, err := s.waitLock(ctx, "collect", "store")
	if err != nil {
		return err
	}
	defer l.unlock()
	markers, err := s.stale()
	if err != nil || len(markers) == 0 {
		return err
	}
	trash, err := s.NewTemp("trash")
	if err != nil {
		return err
	}
	defer trash.Leave()
	for _, m := range markers {
		k := markerKey(m)
		err := again.Renameat(s.fd, "layers/"+k, s.fd, trash.name+"/"+k)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return explain("drop", s.Path("layers", k), err)
		}
		s.unmark("unsynced/" + m)
	}
	again.Unlinkat(s.fd, "unsynced", unix.AT_REMOVEDIR)
	return nil
}
