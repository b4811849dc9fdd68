// Package pull makes a reference an image in the store.
//
//	ParseReference ─► Puller.Ensure ─► store.Image
//	                   │ Source: a registry, a directory, an archive, the binary itself
//	                   │ manifest.Resolve: index ─► manifest ─► config
//	                   └ each layer, several at once:
//	                     socket ─► SHA-256 and count ─► Unpacker ─► diffID ─► Stage.Commit
//
// Nothing is used before its digest, its size and its DiffID are verified, and a layer's bytes are
// never stored: they go from the socket to the unpacker. The name is published last.
//
// What a registry's documents may say is in package manifest. The client of a
// registry, package registry, is handed in: what it is made of costs a program's start,
// and an image that is here needs none of it.
//
// Limits: the unpacker is trusted to report the digest of what it unpacked, and to stay in
// its directory. Layers are never fetched from the URLs of foreign layers.
package pull

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"skiff/internal/progress"
	"skiff/pull/archive"
	"skiff/pull/manifest"
	"skiff/pull/store"
	"skiff/pull/transfer"
)

// A Policy is when to ask the source.
type Policy string

const (
	Missing Policy = "missing" // when the image is not here
	Always  Policy = "always"  // for the digest; its layers only if they are not here
	Never   Policy = "never"
	Newer   Policy = "newer" // as Always, but what is here will do if that fails
)

// ParsePolicy reads a word of --pull.
func ParsePolicy(s string) (Policy, error) {
	switch p := Policy(s); p {
	case Missing, Always, Never, Newer:
		return p, nil
	}
	return "", fmt.Errorf("pull policy %q is none of missing, always, never, newer", clip(s))
}

// A Compression is how a layer's bytes are packed, by their first bytes: media
// types lie.
type Compression string

const (
	None Compression = "none"
	Gzip Compression = "gzip"
	Zstd Compression = "zstd"
)

// An Unpacker makes a directory of a layer.
type Unpacker interface {
	// Unpack reads r to its end and fills dir, which is empty and of mode 0755. It
	// removes nothing after an error. When ctx ends it returns soon, and so does r.
	Unpack(ctx context.Context, dir string, compression Compression, r io.Reader) (Result, error)
}

// A Result is what was unpacked.
type Result struct {
	DiffID  v1.Hash // of the uncompressed bytes, all of them
	Size    int64   // of these
	Entries int64
	Owners  []byte // the true owners where the map is single; kept beside the layer

	// OpaqueRoot: the layer hides every layer below it, which overlayfs does not do by itself.
	OpaqueRoot bool
}

// A Source has images; see manifest.Source.
type Source = manifest.Source

// A Registry is a Source that can also be asked what its image is now.
type Registry interface {
	Source
	// Head asks for the digest of the reference; the zero hash if the registry does
	// not say it without sending the manifest.
	Head(ctx context.Context) (v1.Hash, error)
}

// A Mirrored registry has more than one place to read from. Which of them served wrong bytes
// is only known when they have been unpacked.
type Mirrored interface {
	Registry
	// Distrust leaves out the places that may have to do with an error of a pull; it is
	// false if there are none, and trying again is in vain.
	Distrust(err error) bool
}

// An Opener finds the credentials for the registry of a reference, and connects to nothing
// yet. registry.Open is one. Its errors, and those of what it returns, are of the types that
// Ensure lists where one of these fits.
type Opener func(ctx context.Context, ref Reference, access Access) (Registry, error)

// Access is how a registry is spoken to; see the fields of Puller.
type Access struct {
	Insecure func(host string) bool
	Warn     func(string)
	Patience transfer.Patience // each of them set
	Reach
}

// Reach is what the user says of registries beside what the machine's files say. Its
// zero value is nothing.
type Reach struct {
	Mirrors  []string // REGISTRY=URL, asked in this order before the registry itself
	CertDir  string   // of authorities and client certificates, instead of certs.d
	AuthFile string   // instead of all files of credentials
	Login    *Login   // for the image's registry, instead of what is stored
}

// A Login is a user's name and password, or a token in its place.
type Login struct{ User, Password string }

// A Puller brings images into a store. The fields are set before the first use.
type Puller struct {
	Store    *store.Store
	Unpacker Unpacker
	Open     Opener // nil where no registry is asked, as with Never
	Want     manifest.Want
	Display  *progress.Display // nil is silent

	// Insecure names the hosts (with their port) that may have plain http and any certificate.
	Insecure func(host string) bool

	Reach Reach

	// Account looks up whom a new image's programs run as, once its layers are
	// here, or returns nil: so that no run has to.
	Account func(*store.Image) *store.Account

	// Warn is told what the user should know and nobody must act on.
	Warn func(string)

	// Builtin is the source of builtin:NAME.
	Builtin func(name string) (Source, error)

	Parallel int // layers at once; 0: the number of processors, 2 to 6

	// For tests and slow networks; the zero value of each is the default.
	Idle       time.Duration // without a byte: 60 s
	RetryFirst time.Duration // the wait before the first new try: 300 ms
	RetryLimit time.Duration // of one request with its tries: 30 s
	Tries      int           // see transfer.Patience
	Even       bool
}

// A Pulled is an image that can be run.
type Pulled struct {
	*store.Image
	Fresh bool // something came in or changed: Settle has work to do
	// Settle makes it last through a power cut. A pull waits for it; a run does it
	// beside the start. It may be called in any case.
	Settle func(context.Context) error
}

// Patience is how long a registry is borne with by default.
var Patience = transfer.Patience{Idle: 60 * time.Second, First: 300 * time.Millisecond, Limit: 30 * time.Second}

func (p *Puller) patience() transfer.Patience {
	t := Patience
	if p.Idle != 0 {
		t.Idle = p.Idle
	}
	if p.RetryFirst != 0 {
		t.First = p.RetryFirst
	}
	if p.RetryLimit != 0 {
		t.Limit = p.RetryLimit
	}
	t.Tries, t.Even = p.Tries, p.Even
	return t
}

func (p *Puller) warn(format string, args ...any) {
	if p.Warn != nil {
		p.Warn(fmt.Sprintf(format, args...))
	}
}

// Ensure returns the image of a reference, and gets it first if the policy and
// the store want that. With Missing and an image that is here there is no request; with
// Always and one that is still the registry's, one HEAD.
//
// A cancelled context leaves the finished layers published, for the next try. Errors are typed: *store.AbsentError,
// *UnknownImageError, *UnauthorizedError, *UnreachableError, *BusyError, *manifest.PlatformError,
// *manifest.UnsupportedError, *manifest.InvalidError, *manifest.DigestError, *store.SpaceError, *store.ReadOnlyError.
func (p *Puller) Ensure(ctx context.Context, ref Reference, policy Policy) (*Pulled, error) {
	if ref.Transport != "" {
		return p.fromSource(ctx, ref, policy)
	}
	if ref.ID != "" {
		i, err := p.Store.ImageByID(ref.ID)
		if err != nil {
			return nil, err
		}
		return p.here(i)
	}
	local, err := p.local(ref.String())
	if err != nil {
		return nil, err
	}
	if local == nil && policy != Always {
		if local, err = p.byShortID(ref); err != nil {
			return nil, err
		}
	}
	switch {
	case policy == Never && local == nil:
		return nil, &store.AbsentError{Name: ref.Familiar()}
	case policy == Never, policy == Missing && local != nil, local != nil && ref.Digest != "":
		return p.here(local)
	}
	c, err := p.Open(ctx, ref, Access{p.Insecure, p.Warn, p.patience(), p.Reach})
	if err == nil {
		defer c.Close()
		if local != nil {
			var digest v1.Hash
			if digest, err = c.Head(ctx); err == nil && digest == local.Digest && digest != (v1.Hash{}) && p.whole(local) {
				return p.here(local)
			}
		}
		if err == nil {
			var pulled *Pulled
			for {
				if pulled, err = p.pull(ctx, c, ref, ref.String()); err == nil {
					return pulled, nil
				}
				// Finished layers are here; what failed is asked for elsewhere.
				m, ok := c.(Mirrored)
				if !ok || ctx.Err() != nil || isDisk(err) || !m.Distrust(err) {
					break
				}
			}
		}
	}
	if policy == Newer && local != nil && ctx.Err() == nil {
		p.warn("%s: %v; the copy that is here is used", ref.Familiar(), err)
		return p.here(local)
	}
	return nil, err
}

// local returns a record whose layers are here and that is for the wanted
// platform, or nil.
func (p *Puller) local(name string) (*store.Image, error) {
	i, err := p.Store.Image(name)
	var absent *store.AbsentError
	if errors.As(err, &absent) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if i.IDs != p.Store.IDs || p.Want.Asked && !p.Want.Accepts(platformOf(i)) {
		return nil, nil
	}
	for _, d := range i.DiffIDs {
		if _, ok := p.Store.HasLayer(d); !ok {
			return nil, nil
		}
	}
	return i, nil
}

// whole says whether the documents of an image are here, which no run needs:
// `skiff fsck --repair` may have dropped one.
func (p *Puller) whole(i *store.Image) bool {
	return p.Store.HasBlob(i.ID) && (i.Manifest == v1.Hash{} || p.Store.HasBlob(i.Manifest)) && (i.Digest == v1.Hash{} || p.Store.HasBlob(i.Digest))
}

func platformOf(i *store.Image) manifest.Platform {
	return manifest.Platform{OS: i.OS, Arch: i.Arch, Variant: i.Variant}
}

// byShortID takes a name such as 3f57d9401f8d for an image id, as docker does,
// when no image has the name.
func (p *Puller) byShortID(ref Reference) (*store.Image, error) {
	short, tagged := strings.CutSuffix(ref.Familiar(), ":"+defaultTag)
	if !tagged || len(short) < 4 || !isHex(short) {
		return nil, nil
	}
	i, err := p.Store.ImageByID(short)
	var absent *store.AbsentError
	if errors.As(err, &absent) {
		return nil, nil
	}
	return i, err
}

// here is an image that nothing had to be done for.
func (p *Puller) here(i *store.Image) (*Pulled, error) {
	return &Pulled{Image: i, Settle: func(context.Context) error { return nil }}, nil
}

// fromSource runs straight from a directory, an archive or the binary. These are
// always looked at, since they are near and may have changed; Never too, since nothing is pulled.
func (p *Puller) fromSource(ctx context.Context, ref Reference, _ Policy) (*Pulled, error) {
	var s Source
	var err error
	switch ref.Transport {
	case "builtin":
		if p.Builtin == nil {
			return nil, &ReferenceError{Name: ref.String(), Why: "no such image is built in; there is builtin:hello"}
		}
		s, err = p.Builtin(ref.Rest)
	case "oci":
		s, err = archive.OpenLayout(ref.Rest)
	case "dir":
		s, err = archive.OpenDir(ref.Rest)
	case "oci-archive":
		s, err = archive.OpenOCI(ref.Rest)
	case "docker-archive":
		s, err = archive.OpenDocker(ref.Rest)
	default:
		err = &ReferenceError{Name: ref.String(), Why: "the transport is not known"}
	}
	if err != nil {
		return nil, err
	}
	defer s.Close()
	name := ref.String()
	if ref.Transport != "builtin" {
		if abs, err := filepath.Abs(ref.Rest); err == nil {
			name = ref.Transport + ":" + abs // the same file from wherever it is named
		}
	}
	return p.pull(ctx, s, ref, name)
}

// Load brings in the image of a source under a name that the source may not
// have; without one it is kept under its id. The errors are Ensure's.
func (p *Puller) Load(ctx context.Context, from Source, ref Reference) (*Pulled, error) {
	if ref == (Reference{}) {
		return p.pull(ctx, from, ref, "")
	}
	if ref.Digest != "" {
		from = pinnedSource{from, ref}
	}
	return p.pull(ctx, from, ref, ref.String())
}

// A pinnedSource is a file that calls its image by a digest. A name with a digest is trusted
// wherever it is found later, so the image must be the one.
type pinnedSource struct {
	Source
	ref Reference
}

func (s pinnedSource) Image(ctx context.Context, want manifest.Want) (*manifest.Image, error) {
	img, err := s.Source.Image(ctx, want)
	if err == nil && img.Digest.String() != s.ref.Digest {
		have := img.Digest.String()
		if (img.Digest == v1.Hash{}) {
			have = "without a digest"
		}
		return nil, &manifest.DigestError{What: "image", Want: s.ref.Digest, Have: have}
	}
	return img, err
}
