package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"skiff/internal/again"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// A Claim keeps layers and blobs from the collector while a pull brings them in
// and no image names them yet. It dies with the process.
type Claim struct{ t *Temp }

// Claim must be made before the first HasLayer, as a run writes its record
// before it looks (see the package comment).
func (s *Store) Claim(diffIDs []v1.Hash, blobs ...v1.Hash) (*Claim, error) {
	t, err := s.NewTemp("pull")
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	for _, d := range diffIDs {
		if k, err := s.key(d); err == nil {
			b.WriteString("layers/" + k + "\n")
		}
	}
	for _, d := range blobs {
		if p, err := blobPath(d); err == nil {
			b.WriteString(p + "\n")
		}
	}
	if err := s.create(t.name+"/uses", []byte(b.String())); err != nil {
		t.Remove()
		return nil, err
	}
	return &Claim{t}, nil
}

// Release ends the claim: the image that names the layers is published, or will not be.
func (c *Claim) Release() { c.t.Remove() }

// Collect removes layers and blobs that no image, container or pull uses and
// that nobody has touched for the grace time, by the file system's own clock. With a
// grace of a day the layers of an interrupted pull wait for its second try.
//
// A layer is renamed away, then what is used is read once more, and the layer
// renamed back if somebody has come to use it: see the package comment. If another process is collecting
// the error says so, after two seconds.
func (s *Store) Collect(ctx context.Context, inUse InUse, grace time.Duration) (Removed, error) {
	if err := s.Writable(); err != nil {
		return Removed{}, err
	}
	r, err := s.collect(ctx, inUse, grace, nil)
	if errors.Is(err, errBusy) {
		err = fmt.Errorf("collect %s: another process is at it", s.root)
	}
	return r, err
}

// collect does it. What belongs to the image of, which was just removed, has no
// grace. errBusy: another process is collecting.
func (s *Store) collect(ctx context.Context, inUse InUse, grace time.Duration, of *Image) (Removed, error) {
	var r Removed
	wait, cancel := context.WithTimeoutCause(ctx, 2*time.Second, errBusy)
	defer cancel()
	l, err := s.waitLock(wait, "collect", "store")
	if err != nil {
		return r, err
	}
	defer l.unlock()

	used, err := s.used(inUse)
	if err != nil {
		return r, err
	}
	dead, err := s.unused(used, grace, of)
	if err != nil || len(dead) == 0 {
		return r, err
	}
	trash, err := s.NewTemp("trash")
	if err != nil {
		return r, err
	}
	defer trash.Leave()
	var gone []string
	for _, name := range dead {
		to := trash.name + "/" + strings.ReplaceAll(name, "/", "_")
		if err := again.Renameat(s.fd, name, s.fd, to); err == nil {
			gone = append(gone, name)
		} else if !errors.Is(err, unix.ENOENT) {
			return r, explain("collect", s.Path(name), err)
		}
	}
	back := func(name string) {
		to := trash.name + "/" + strings.ReplaceAll(name, "/", "_")
		// EEXIST: it has been pulled anew; then this one is garbage after all.
		again.Renameat2(s.fd, to, s.fd, name, unix.RENAME_NOREPLACE)
	}
	used, err = s.used(inUse)
	for _, name := range gone {
		if err != nil || used[name] {
			back(name)
			continue
		}
		k, layer := strings.CutPrefix(name, "layers/")
		if !layer {
			r.Blobs++
			continue
		}
		if h, ok := keyHash(k); ok {
			r.Layers = append(r.Layers, h)
		}
		r.Bytes += s.sizeOf(trash.name + "/layers_" + k)
		s.dropLock(k)
	}
	return r, err
}

// dropLock removes a layer's lock file if nobody holds it, while we do: who
// opened it before sees that it no longer has its name (tryLock).
func (s *Store) dropLock(name string) {
	if l, err := s.tryLock(name); err == nil {
		again.Unlinkat(s.fd, "locks/"+name, 0)
		l.unlock()
	}
}

// keyHash is the reverse of key.
func keyHash(k string) (v1.Hash, bool) {
	k = strings.TrimSuffix(k, "-single")
	algorithm, hex, ok := strings.Cut(k, "_")
	if !ok {
		algorithm, hex = "sha256", k
	}
	h, err := v1.NewHash(algorithm + ":" + hex)
	return h, err == nil
}

func (s *Store) sizeOf(dir string) int64 {
	b, err := s.readFile(dir+"/layer.json", 1<<20)
	if err != nil {
		return 0
	}
	var r LayerRecord
	if json.Unmarshal(b, &r) != nil {
		return 0
	}
	return r.Size
}

// used reads, in this order, what images, containers and pulls use, as names
// below the root. A pull publishes its image before its claim ends, and a container is
// recorded before its image can go, so reading claims and containers first and
// images last would miss nothing either way round: what moves goes from claim to image.
func (s *Store) used(inUse InUse) (map[string]bool, error) {
	used := map[string]bool{}
	add := func(h v1.Hash, all bool, ids IDs) {
		for _, kind := range []IDs{Range, Single} {
			if k, err := key(h, kind); err == nil && (all || kind == ids) {
				used["layers/"+k] = true
			}
		}
	}
	// Claims before images: a claim that ended before we read it has published.
	claims, err := s.temps("pull")
	if err != nil {
		return nil, err
	}
	for _, name := range claims {
		b, err := s.readFile("tmp/"+name+"/uses", maxRecord)
		if errors.Is(err, unix.ENOENT) {
			continue // made just now: it will look after us; or just gone
		}
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(b)) {
			used[strings.TrimSuffix(line, "\n")] = true
		}
	}
	if inUse != nil {
		containers, err := inUse()
		if err != nil {
			return nil, err
		}
		for h, is := range containers {
			if is {
				add(h, true, "")
			}
		}
	}
	images, err := s.OwnImages()
	if err != nil {
		return nil, err
	}
	for _, i := range images {
		for _, d := range i.DiffIDs {
			add(d, false, i.IDs)
		}
		for _, h := range []v1.Hash{i.Digest, i.Manifest, i.ID} {
			if p, err := blobPath(h); err == nil {
				used[p] = true
			}
		}
	}
	return used, nil
}

// unused lists what may go: names below the root.
func (s *Store) unused(used map[string]bool, grace time.Duration, of *Image) ([]string, error) {
	now, err := s.now()
	if err != nil {
		return nil, err
	}
	asked := map[string]bool{}
	if of != nil {
		for _, d := range of.DiffIDs {
			if k, err := key(d, of.IDs); err == nil {
				asked["layers/"+k] = true
			}
		}
		for _, h := range []v1.Hash{of.Digest, of.Manifest, of.ID} {
			if p, err := blobPath(h); err == nil {
				asked[p] = true
			}
		}
	}
	var dead []string
	for _, dir := range []string{"layers", "blobs/sha256", "blobs/sha512"} {
		names, err := s.names(dir)
		if err != nil {
			return nil, err
		}
		slices.Sort(names)
		for _, n := range names {
			name := dir + "/" + n
			if used[name] {
				continue
			}
			var st unix.Stat_t
			if unix.Fstatat(s.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
				continue
			}
			if asked[name] || now.Sub(time.Unix(st.Ctim.Unix())) >= grace {
				dead = append(dead, name)
			}
		}
	}
	return dead, nil
}
