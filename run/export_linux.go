package run

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"skiff/internal/idmap"
	"skiff/layers"
	"skiff/pull/store"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// Export writes a container's root file system, as its layers and what it has written
// make it, as one tar archive, in the order of the paths. The container may run: a file that
// vanishes meanwhile is left out, and one that shrinks is filled up with zeros.
//
// As with docker the root directory itself, sockets, and what is mounted are not in it.
// Files that are links of one another in their layer are links in the archive. In single-id
// mode the owners are those that the layers' records tell, and 0:0 for what the container made.
//
// Files are read with the caller's own rights, without following a link. The error wraps
// state.ErrAbsent if there is no such container, and is ctx's soon after that ends.
func (r *Runner) Export(ctx context.Context, name string, to io.Writer) error {
	c, err := r.Containers().Find(name)
	if err != nil {
		return err
	}
	img, err := r.imageOf(c.Layers)
	if err != nil {
		return err
	}
	x := &exporter{ctx: ctx, to: tar.NewWriter(to), raw: to, links: map[inode]string{}, buf: make([]byte, 128<<10)}
	dirs := stackOf(r.Store, img).Dirs
	if r.IDs.Kind == idmap.Single {
		x.owners = map[inode]layers.Owner{}
		for _, dir := range dirs {
			if err := x.know(dir); err != nil {
				return err
			}
		}
	}
	root, err := openMerged(append(dirs, r.Store.Path("containers", c.ID, "upper")))
	if err != nil {
		return err
	}
	defer root.close()
	if err := x.dir("", root, true); err != nil {
		return err
	}
	return x.to.Close()
}

// imageOf is what of an image's record the layers of a container need to be found.
func (r *Runner) imageOf(list []string) (*store.Image, error) {
	img := &store.Image{}
	for n, text := range list {
		d, err := v1.NewHash(text)
		if err != nil {
			return nil, fmt.Errorf("layer %q: %w", text, err)
		}
		l, err := r.Store.LayerRecord(d)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("layer %.19s: %w", d.String(), ErrLayerGone)
		} else if err != nil {
			return nil, err
		}
		if img.DiffIDs = append(img.DiffIDs, d); l.Opaque {
			img.First = n
		}
	}
	return img, nil
}

// An exporter walks a merged root file system.
type exporter struct {
	ctx    context.Context
	to     *tar.Writer
	raw    io.Writer              // what to writes to
	owners map[inode]layers.Owner // true owners in single-id mode; else nil
	links  map[inode]string       // the first name of a file that has several
	buf    []byte
}

type inode struct{ dev, ino uint64 }

func inodeOf(st *unix.Stat_t) inode { return inode{uint64(st.Dev), st.Ino} }

// know reads the owners that a layer's files could not be given.
func (x *exporter) know(dir string) error {
	path := filepath.Dir(dir) + "/owners"
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	defer f.Close()
	for o, err := range layers.ReadOwners(f) {
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		var st unix.Stat_t
		if unix.Lstat(dir+"/"+o.Path, &st) == nil { // a device was not made
			x.owners[inodeOf(&st)] = o
		}
	}
	return nil
}

// dir writes what is in a directory. top says whether its first part is what the container wrote.
func (x *exporter) dir(path string, m merged, top bool) error {
	all, err := m.list(path)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if x.ctx.Err() != nil {
			return context.Cause(x.ctx)
		}
		e := all[name]
		err := x.entry(path+name, name, e, m, top && e.from == m[0])
		// Only the container itself takes files away, and only its own.
		if err != nil && !(top && errors.Is(err, unix.ENOENT)) {
			return err
		}
	}
	return nil
}

// entry writes a file of any kind, and what is in it.
func (x *exporter) entry(path, name string, e *entry, m merged, top bool) error {
	h := &tar.Header{
		Name: path, Mode: int64(e.st.Mode & 0o7777), Format: tar.FormatPAX,
		ModTime: time.Unix(e.st.Mtim.Unix()), Uid: int(e.st.Uid), Gid: int(e.st.Gid),
	}
	fd, err := unix.Openat(e.from, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: "/" + path, Err: err}
	}
	defer unix.Close(fd)
	// What was listed may be another file by now.
	var now unix.Stat_t
	if err := unix.Fstat(fd, &now); err != nil {
		return &fs.PathError{Op: "stat", Path: "/" + path, Err: err}
	}
	if inodeOf(&now) != inodeOf(&e.st) {
		return &fs.PathError{Op: "open", Path: "/" + path, Err: unix.ENOENT}
	}
	if h.PAXRecords, err = xattrs(fd); err != nil {
		return &fs.PathError{Op: "read attributes", Path: "/" + path, Err: err}
	}
	if x.owners != nil {
		h.Uid, h.Gid = x.owner(name, e, m, top, fd)
	}
	kind := e.st.Mode & unix.S_IFMT
	if first, ok := x.links[inodeOf(&e.st)]; ok && kind != unix.S_IFDIR {
		h.Typeflag, h.Linkname, h.PAXRecords = tar.TypeLink, first, nil
		return x.to.WriteHeader(h)
	}
	switch kind {
	case unix.S_IFREG:
		h.Typeflag, h.Size = tar.TypeReg, now.Size
		err = x.file(h, fd)
	case unix.S_IFDIR:
		h.Typeflag, h.Name = tar.TypeDir, path+"/"
		if err := x.to.WriteHeader(h); err != nil {
			return err
		}
		inside, err := e.open("/"+path, name)
		if err != nil {
			return err
		}
		defer inside.close()
		return x.dir(path+"/", inside, top)
	case unix.S_IFLNK:
		h.Typeflag, h.Linkname = tar.TypeSymlink, target(e.from, name)
		err = x.to.WriteHeader(h)
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if kind == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(e.st.Rdev)), int64(unix.Minor(e.st.Rdev))
		err = x.to.WriteHeader(h)
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
		err = x.to.WriteHeader(h)
	default:
		return nil
	}
	if err == nil && e.st.Nlink > 1 {
		x.links[inodeOf(&e.st)] = path
	}
	return err
}

// owner is a file's true owner. A file or directory that the container changed was copied
// from a layer, and belongs to whom it belonged to there.
func (x *exporter) owner(name string, e *entry, m merged, top bool, fd int) (uid, gid int) {
	at := inodeOf(&e.st)
	var mark [1]byte
	_, err := unix.Getxattr(procFD(fd), "user.overlay.origin", mark[:])
	if top && (len(e.parts) > 1 || err == nil || err == unix.ERANGE) {
		for _, layer := range m[1:] {
			var st unix.Stat_t
			if unix.Fstatat(layer, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
				at = inodeOf(&st)
				break
			}
		}
	}
	o := x.owners[at]
	return int(o.UID), int(o.GID)
}

// file writes a regular file, as long as its header says: as a sparse one if its holes are many.
func (x *exporter) file(h *tar.Header, fd int) error {
	// A descriptor of O_PATH cannot be exchanged for a device before this opens it.
	f, err := os.Open(procFD(fd))
	if err != nil {
		return &fs.PathError{Op: "open", Path: "/" + h.Name, Err: errors.Unwrap(err)}
	}
	defer f.Close()
	if h.Size >= sparseFrom {
		if parts, held := fragments(f, h.Size); h.Size-held >= sparseFrom {
			return x.sparse(h, f, parts, held)
		}
	}
	if err := x.to.WriteHeader(h); err != nil {
		return err
	}
	return x.content(x.to, h.Name, f, 0, h.Size)
}

func procFD(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// xattrs are the extended attributes that a layer may have, as tar's records. A file
// system without them has none.
func xattrs(fd int) (map[string]string, error) {
	list, err := readXattr(func(b []byte) (int, error) { return unix.Listxattr(procFD(fd), b) })
	if err == unix.ENOTSUP || err == unix.EACCES {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var records map[string]string
	for name := range strings.SplitSeq(string(list), "\x00") {
		if !layers.KeepXattr(name) {
			continue
		}
		value, err := readXattr(func(b []byte) (int, error) { return unix.Getxattr(procFD(fd), name, b) })
		switch err {
		case nil:
			if records == nil {
				records = map[string]string{}
			}
			records["SCHILY.xattr."+name] = string(value)
		case unix.ENODATA, unix.ENOTSUP:
		default:
			return nil, err
		}
	}
	return records, nil
}

// readXattr asks for the size first, which may have grown when it asks for the rest.
func readXattr(read func([]byte) (int, error)) ([]byte, error) {
	for {
		n, err := read(nil)
		if err != nil || n == 0 {
			return nil, err
		}
		b := make([]byte, n)
		if n, err = read(b); err == nil {
			return b[:n], nil
		} else if err != unix.ERANGE {
			return nil, err
		}
	}
}
