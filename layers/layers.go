// Package layers turns changesets into directories, and directories into one
// root file system's view.
//
// Apply unpacks one layer into an empty directory, as overlayfs wants it:
// removals are character devices 0:0, replaced directories carry the extended
// attribute user.overlay.opaque (the overlay is always mounted with the option
// userxattr). A Worker does the same in a confined process, which is the only
// way in which skiff unpacks what it did not make itself. A Stack reads files
// out of several layers without mounting them. Remove deletes what was
// unpacked.
//
// # Names in a layer
//
// A layer is a lower directory of its own: what other layers hold is not known
// here. Names are taken relative to the layer's root, with or without a
// leading slash; "." and ".." are resolved in the text of the name, and one
// that climbs above the root is refused. A directory that is missing on the way
// is made (0755, the unpacker's own id). A symbolic link on the way that this
// very layer made is followed as the container would follow it: absolute
// targets and ".." end at the layer's root. That is what docker and containerd
// do. The last component is never followed.
//
// Limits: Apply takes an uncompressed archive; what decompresses is handed to
// the worker, and package codec does. Global PAX headers are read and ignored.
// Access times and change times of an archive are not kept. The caller has made
// the directory, on a file system with user extended attributes, in a place that
// no other user can reach, and removes it after an error. What a Worker reports
// of a layer is trusted: a layer that took the worker over could claim another
// DiffID for itself.
package layers

import (
	"io"
	"os"

	"skiff/internal/idmap"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Options say how Apply unpacks. The zero value suits root in the initial user
// namespace: every id, no device nodes, no limits.
type Options struct {
	// IDs are the user and group ids that exist where Apply runs. A layer that
	// names another one is refused with an *UnmappedError, unless Squash is set.
	IDs idmap.Map

	// Squash leaves every file to the caller's own ids and writes the true owners
	// to Owners: the single-id mode.
	Squash bool

	// Devices makes device nodes, which needs CAP_MKNOD in the initial user
	// namespace. Otherwise they are left out, counted, and written to Owners.
	Devices bool

	MaxBytes   int64 // of the uncompressed stream, all of it; 0: no limit
	MaxEntries int64 // of the archive; 0: no limit

	MaxDirs int // directories held open, which saves looking them up; 0: 256

	// Owners gets a record for each entry whose owner or device could not be
	// made; nil drops them. ReadOwners reads them back.
	Owners io.Writer

	// Split gets what the archive holds besides the contents of its files, from
	// which Assemble makes it again; nil drops it. See package tarsplit. It is empty,
	// and can be read and written.
	Split *os.File

	inLine bool // of tests: make every file where the archive is taken apart
}

// A Result is what Apply knows of a layer after its last byte.
type Result struct {
	DiffID  v1.Hash // SHA-256 of the uncompressed stream, bytes after the archive's end included
	Size    int64   // of that stream, in bytes
	Entries int64   // headers that name a file, whiteouts included

	// Implied counts directories that no entry names but that lie on the way to
	// one. In a stack they hide the owner and mode of the directory below.
	Implied int64

	// OpaqueRoot: the layer hides everything below it (".wh..wh..opq" at the
	// root). Overlayfs does not look for the mark on a layer's root, so the layers
	// below must be left out of the mount.
	OpaqueRoot bool

	Owners  int64 // records written to Options.Owners
	Split   bool  // what was written to Options.Split is enough for Assemble; not if more files than a million gave way to others
	Skipped Skipped
}

// Skipped counts what a layer holds and this one on disk does not.
type Skipped struct {
	Devices int64 // device nodes
	Xattrs  int64 // extended attributes off the list, or refused by the kernel
	Meta    int64 // leftovers of aufs, ".wh..wh.*"
}

// A Compression is how a layer's blob is packed.
type Compression int

const (
	Detect Compression = iota // by the first bytes, whatever a media type claims
	Plain
	Gzip
	Zstd
)

var compressionNames = [...]string{"detect", "plain", "gzip", "zstd"}

func (c Compression) String() string { return compressionNames[c] }
