package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"skiff/internal/again"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// A Problem is a thing of the store that is not as it was published.
type Problem struct {
	What   string   // "layer", "blob" or "image"
	Name   string   // DiffID, digest or reference; of an unreadable record its file
	Why    []string // never empty
	Images []string `json:",omitempty"` // the references that need it, sorted
	path   string   // below the root
	ino    uint64   // of path when it was looked at; 0: there is nothing at path
}

// A Report is what Check found.
type Report struct {
	Images, Layers, Blobs int // that were looked at
	Problems              []Problem
	Unproved              []v1.Hash `json:",omitempty"` // layers whose archive was not kept
}

// ErrUnproved is what Check's layer function returns for a layer that it has
// nothing to hold against.
var ErrUnproved = errors.New("the layer's archive was not kept")

// Check looks at every image, layer and blob of the store: records are whole, blobs
// are their digests, each image has its layers, and layer finds nothing wrong with them. It changes
// nothing but what Sweep and every start would: a layer that a power cut may have cut short is dropped. What is
// published or removed meanwhile is no problem.
//
// layer says what is wrong with a layer; it is called by several goroutines.
func (s *Store) Check(ctx context.Context, layer func(context.Context, v1.Hash) ([]string, error)) (*Report, error) {
	var unknown *VersionError
	if err := s.CheckVersion(); errors.As(err, &unknown) {
		return nil, err // what is right in it is not known either
	}
	if err := s.recover(); err != nil {
		return nil, err
	}
	r := new(Report)
	users, err := s.checkImages(ctx, r)
	if err != nil {
		return nil, err
	}
	if err := s.checkBlobs(ctx, r, users); err != nil {
		return nil, err
	}
	return r, s.checkLayers(ctx, r, users, layer)
}

// checkImages reads the records and returns who uses what: references by path below the root.
func (s *Store) checkImages(ctx context.Context, r *Report) (users map[string][]string, err error) {
	users = map[string][]string{}
	names, err := s.names("images")
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	for _, name := range names {
		path := "images/" + name
		i, err := s.image(path, "")
		var absent *AbsentError
		if errors.As(err, &absent) {
			if s.exists(path) {
				r.Problems = append(r.Problems, Problem{What: "image", Name: name, Why: []string{"its record is not whole"}, path: path, ino: s.inode(path)})
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		r.Images++
		use := func(path string) {
			// An image may have a layer twice, and a layer very many images.
			if n := len(users[path]); n == 0 || users[path][n-1] != i.Reference {
				users[path] = append(users[path], i.Reference)
			}
		}
		var why []string
		for _, d := range i.DiffIDs {
			k, err := key(d, i.IDs)
			if err != nil {
				return nil, err
			}
			use("layers/" + k)
			if _, ok := s.HasLayer(d); !ok && !s.exists("layers/"+k+"/layer.json") && s.missed(ctx, path, k) {
				why = append(why, fmt.Sprintf("layer %.12s is not here", d.Hex))
			}
		}
		if !strings.HasPrefix(i.Reference, "builtin:") {
			for _, h := range []v1.Hash{i.ID, i.Manifest, i.Digest} {
				p, err := blobPath(h)
				if err != nil {
					continue // it has none
				}
				use(p)
				if !s.HasBlob(h) && s.exists(path) && !slices.ContainsFunc(why, func(w string) bool { return strings.Contains(w, h.Hex[:12]) }) {
					why = append(why, fmt.Sprintf("blob %.12s is not here", h.Hex))
				}
			}
		}
		if why != nil {
			r.Problems = append(r.Problems, Problem{What: "image", Name: i.Reference, Why: why, Images: []string{i.Reference}})
		}
	}
	return users, nil
}

// missed says that an image is there and a layer of it, which was just not there, is not: it is in
// no collector's hand, which would give it back, and the image was not made anew meanwhile.
func (s *Store) missed(ctx context.Context, image, key string) bool {
	wait, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if l, err := s.waitLock(wait, "collect", "store"); err == nil {
		defer l.unlock()
	}
	return s.exists(image) && !s.exists("layers/"+key+"/layer.json") // in this order: layers come first
}

func (s *Store) checkBlobs(ctx context.Context, r *Report, users map[string][]string) error {
	for _, algorithm := range []string{"sha256", "sha512"} {
		names, err := s.names("blobs/" + algorithm)
		if err != nil {
			return err
		}
		slices.Sort(names)
		for _, name := range names {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			path := "blobs/" + algorithm + "/" + name
			ino := s.inode(path)
			problem := func(why string) {
				r.Problems = append(r.Problems, Problem{What: "blob", Name: algorithm + ":" + name, Why: []string{why}, Images: users[path], path: path, ino: ino})
			}
			h, err := v1.NewHash(algorithm + ":" + name)
			if err != nil {
				problem("its name is no digest")
				continue
			}
			_, err = s.ownBlob(h)
			var absent *AbsentError
			switch {
			case errors.As(err, &absent):
				problem("its bytes are others")
			case errors.Is(err, fs.ErrNotExist):
				continue // collected meanwhile
			case again.Later(err):
				return err
			case err != nil:
				problem(err.Error())
			}
			r.Blobs++
		}
	}
	return nil
}

func (s *Store) checkLayers(ctx context.Context, r *Report, users map[string][]string, layer func(context.Context, v1.Hash) ([]string, error)) error {
	names, err := s.names("layers")
	if err != nil {
		return err
	}
	slices.Sort(names)
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	todo := make(chan string, len(names))
	for _, name := range names {
		todo <- name
	}
	close(todo)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range min(runtime.NumCPU(), 4) {
		wg.Go(func() {
			for name := range todo {
				if ctx.Err() != nil {
					return
				}
				err := s.checkLayer(ctx, name, r, users["layers/"+name], layer, &mu)
				if err != nil {
					stop(err)
				}
			}
		})
	}
	wg.Wait()
	slices.SortStableFunc(r.Problems, func(a, b Problem) int {
		return strings.Compare(a.What+a.Name, b.What+b.Name)
	})
	slices.SortFunc(r.Unproved, func(a, b v1.Hash) int { return strings.Compare(a.Hex, b.Hex) })
	return context.Cause(ctx)
}

func (s *Store) checkLayer(ctx context.Context, name string, r *Report, users []string, layer func(context.Context, v1.Hash) ([]string, error), mu *sync.Mutex) error {
	path := "layers/" + name
	diffID, ok := keyHash(name)
	if mine, _ := s.key(diffID); ok && mine != name {
		return nil // of the other kind of ids, which another mode of skiff's made
	}
	ino := s.inode(path)
	var why []string
	var err error
	if !ok {
		why = []string{"its name is no DiffID"}
	} else if _, rerr := s.LayerRecord(diffID); again.Later(rerr) {
		err = rerr
	} else if rerr != nil {
		why = []string{"its record: " + rerr.Error()}
	} else {
		why, err = layer(ctx, diffID)
	}
	if ino == 0 || s.inode(path) != ino {
		return nil // collected meanwhile, and perhaps pulled again
	}
	mu.Lock()
	defer mu.Unlock()
	r.Layers++
	if errors.Is(err, ErrUnproved) {
		r.Unproved = append(r.Unproved, diffID)
		return nil
	}
	if err != nil {
		return err
	}
	if why != nil {
		shown := name
		if ok {
			shown = diffID.String()
		}
		r.Problems = append(r.Problems, Problem{What: "layer", Name: shown, Why: why, Images: users, path: path, ino: ino})
	}
	return nil
}

func (s *Store) inode(path string) uint64 {
	var st unix.Stat_t
	if unix.Fstatat(s.fd, path, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return 0
	}
	return st.Ino
}

// Drop takes what is damaged out of the store, so that the next pull brings it
// in anew. A layer that a container uses stays, and is an error. What has been brought in anew
// since Check stays too. As with Collect, a layer is given back if a container has come to
// use it meanwhile.
func (s *Store) Drop(ctx context.Context, problems []Problem, inUse InUse) error {
	if err := s.Writable(); err != nil {
		return err
	}
	l, err := s.waitLock(ctx, "collect", "store")
	if err != nil {
		return err
	}
	defer l.unlock()
	used, err := inUse()
	if err != nil {
		return err
	}
	trash, err := s.NewTemp("trash")
	if err != nil {
		return err
	}
	defer trash.Leave()
	var errs []error
	gone := map[v1.Hash][2]string{} // layers: from, to
	for _, p := range problems {
		if p.path == "" || p.ino == 0 || s.inode(p.path) != p.ino {
			continue // it is what the others leave out, or another one by now
		}
		h, herr := v1.NewHash(p.Name)
		layer := herr == nil && p.What == "layer"
		if layer && used[h] {
			errs = append(errs, &inUseError{h})
			continue
		}
		to := trash.name + "/" + strings.ReplaceAll(p.path, "/", "_")
		err := again.Renameat(s.fd, p.path, s.fd, to)
		switch {
		case err == nil && layer:
			gone[h] = [2]string{p.path, to}
		case err != nil && !errors.Is(err, unix.ENOENT):
			errs = append(errs, explain("drop", s.Path(p.path), err))
		}
	}
	used, err = inUse()
	for h, names := range gone {
		if err == nil && !used[h] {
			continue
		}
		// EEXIST: it has been pulled anew; then this one is garbage.
		if again.Renameat2(s.fd, names[1], s.fd, names[0], unix.RENAME_NOREPLACE) == nil && err == nil {
			errs = append(errs, &inUseError{h})
		}
	}
	return errors.Join(append(errs, err)...)
}

// An inUseError is a damaged layer that can't be dropped now.
type inUseError struct{ layer v1.Hash }

func (e *inUseError) Error() string {
	return fmt.Sprintf("layer %.12s: a container uses it", e.layer.Hex)
}

// HasBlob says whether there is a blob of that name.
func (s *Store) HasBlob(digest v1.Hash) bool {
	path, err := blobPath(digest)
	return err == nil && (s.exists(path) || slices.ContainsFunc(s.Shared, func(o *Store) bool { return o.exists(path) }))
}
