// Package push sends an image of the store to a registry.
//
// A layer's compressed bytes are not kept, so for each layer, several at once:
//
//	the registry has the blob that it came as     ─► nothing to send
//	it came from another repository of there      ─► mounted from it
//	it was sent before, and is there as it was    ─► nothing to send
//	else: the archive again ─► gzip ─► SHA-256 ─► one streamed upload
//
// If every layer is there as it came, so is the manifest: its digest stays. Else a
// new one is made, of the same kind, that names the new blobs; the image's id, its config's digest, stays in any
// case. The same skiff makes the same bytes each time.
//
// Where a format is asked for, only what is compressed with it counts as there. Docker's manifest has no
// word for zstd: an image of it goes with an OCI manifest, and keeps its id.
//
// Limits: one platform's image is sent, not an index: a store has no other.
package push

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"skiff/internal/progress"
	"skiff/pull"
	"skiff/pull/manifest"
	"skiff/pull/store"
	"skiff/pull/transfer"
)

// A Registry is one repository that can be written to. Its errors are those of
// pull.Registry.
type Registry interface {
	// HasBlob asks for a blob and returns its size, or false.
	HasBlob(ctx context.Context, digest v1.Hash) (size int64, ok bool, err error)
	// Mount takes a blob over from another repository of the registry, if the registry lets it.
	Mount(ctx context.Context, digest v1.Hash, from string) (bool, error)
	// Upload sends what write writes as one blob, whose digest is told when it is complete.
	Upload(ctx context.Context, write func(io.Writer) error) (v1.Hash, int64, error)
	// PutManifest publishes a manifest under a tag or its digest.
	PutManifest(ctx context.Context, name, mediaType string, raw []byte) error
	Close() error
}

// An Opener finds the credentials for the registry of a reference and connects
// to nothing yet. from are other repositories there that blobs may be mounted from. registry.OpenPush is one.
type Opener func(ctx context.Context, ref pull.Reference, access pull.Access, from []string) (Registry, error)

// A Pusher sends images. The fields are set before the first use.
type Pusher struct {
	Store *store.Store
	// Archive writes a layer's uncompressed archive; it verifies nothing.
	Archive func(ctx context.Context, diffID v1.Hash, w io.Writer) error
	// Compress makes an encoder; the same input makes the same output. Without a Format it is gzip's.
	Compress func(io.Writer) (io.WriteCloser, error)
	Format   string // "gzip" or "zstd": every layer shall be so
	Again    bool   // Compress is not at its usual level: what it makes is not what the next push would make
	Display  *progress.Display
	Parallel int // layers at once; 0: the number of processors, 2 to 4
	Tries    int // of an upload that breaks; 0: 3
	Patience transfer.Patience
}

// A Pushed is what the registry has now.
type Pushed struct {
	Digest v1.Hash // of the manifest
	Size   int64   // of the manifest
	Same   bool    // the manifest is the one that the image came with
}

// Sources are the repositories of a host that an image's layers came from: what
// may be mounted.
func Sources(st *store.Store, img *store.Image, host string) []string {
	var from []string
	for _, d := range img.DiffIDs {
		record, err := st.LayerRecord(d)
		if err != nil {
			continue
		}
		if ref, err := pull.ParseReference(record.Source); err == nil && ref.Host == host && !slices.Contains(from, ref.Path) {
			from = append(from, ref.Path)
		}
	}
	return from
}

// Push sends an image under the reference's tag, or none: then it goes by its
// digest alone.
func (p *Pusher) Push(ctx context.Context, to Registry, img *store.Image, ref pull.Reference) (*Pushed, error) {
	config, err := p.Store.Blob(img.ID)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	own, ownManifest, err := p.own(img)
	if err != nil {
		return nil, err
	}
	layers, same, err := p.layers(ctx, to, img, ref, own)
	if err != nil {
		return nil, err
	}
	if _, ok, err := to.HasBlob(ctx, img.ID); err != nil {
		return nil, err
	} else if !ok {
		have, _, err := to.Upload(ctx, func(w io.Writer) error { _, err := w.Write(config); return err })
		if err != nil {
			return nil, fmt.Errorf("config: %w", err)
		}
		if have != img.ID {
			return nil, fmt.Errorf("config: %w", &manifest.DigestError{What: "blob", Want: img.ID.String(), Have: have.String()})
		}
	}
	raw, mediaType := ownManifest, ""
	if own != nil {
		mediaType = string(own.MediaType)
	}
	if same = same && own != nil; !same {
		if raw, mediaType, err = makeManifest(img, int64(len(config)), layers, own, p.Format == "zstd"); err != nil {
			return nil, err
		}
	}
	digest, err := store.Digest("sha256", raw)
	if err != nil {
		return nil, err
	}
	name := ref.Tag
	if name == "" {
		name = digest.String()
	}
	if err := to.PutManifest(ctx, name, mediaType, raw); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	return &Pushed{Digest: digest, Size: int64(len(raw)), Same: same}, nil
}

// own is the manifest that the image came with, or nil.
func (p *Pusher) own(img *store.Image) (*v1.Manifest, []byte, error) {
	if (img.Manifest == v1.Hash{}) {
		return nil, nil, nil
	}
	raw, err := p.Store.Blob(img.Manifest)
	if err != nil {
		return nil, nil, fmt.Errorf("manifest: %w", err)
	}
	m := new(v1.Manifest)
	if err := json.Unmarshal(raw, m); err != nil {
		return nil, nil, fmt.Errorf("manifest: %w", err)
	}
	if m.MediaType == "" {
		m.MediaType = types.OCIManifestSchema1
	}
	if len(m.Layers) != len(img.DiffIDs) {
		return nil, nil, errors.New("manifest: it has other layers than the image")
	}
	return m, raw, nil
}

// A blob is a layer as the registry has it.
type blob struct {
	digest v1.Hash
	size   int64
}

// layers sends what is missing. same: each is there as it came.
func (p *Pusher) layers(ctx context.Context, to Registry, img *store.Image, ref pull.Reference, own *v1.Manifest) (list []blob, same bool, err error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	done := map[v1.Hash]blob{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	todo := make(chan int, len(img.DiffIDs))
	seen := map[v1.Hash]bool{}
	for i, d := range img.DiffIDs {
		if !seen[d] {
			seen[d] = true
			todo <- i
		}
	}
	close(todo)
	n := p.Parallel
	if n == 0 {
		n = min(max(runtime.NumCPU(), 2), 4)
	}
	for range n {
		wg.Go(func() {
			for i := range todo {
				if ctx.Err() != nil {
					return
				}
				d := img.DiffIDs[i]
				var came v1.Descriptor
				if own != nil && p.suits(own.Layers[i].MediaType) {
					came = own.Layers[i]
				}
				b, err := p.layer(ctx, to, d, came, ref)
				if err != nil {
					stop(fmt.Errorf("layer %.12s: %w", d.Hex, err))
					return
				}
				mu.Lock()
				done[d] = b
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, false, err
	}
	same = own != nil
	for i, d := range img.DiffIDs {
		list = append(list, done[d])
		same = same && done[d].digest == own.Layers[i].Digest
	}
	return list, same, nil
}

// layer finds a layer at the registry or sends it. came is the blob that it came
// as with this image.
func (p *Pusher) layer(ctx context.Context, to Registry, diffID v1.Hash, came v1.Descriptor, ref pull.Reference) (b blob, err error) {
	record, err := p.Store.LayerRecord(diffID)
	if err != nil {
		return blob{}, err
	}
	line := p.Display.Layer(diffID.Hex[:12], record.Size)
	defer func() { line.End(err) }()
	sent := record.Sent // with gzip at the usual level
	if p.Format == "zstd" || p.Format != "" && p.Again {
		sent = v1.Hash{}
	}
	for _, b := range []blob{{came.Digest, came.Size}, {sent, record.SentAs}} {
		if (b.digest == v1.Hash{}) {
			continue
		}
		size, ok, err := to.HasBlob(ctx, b.digest)
		if err != nil {
			return blob{}, err
		}
		if ok && size == b.size { // of another size it cannot be what it is called
			line.Here()
			return b, nil
		}
	}
	if from, err := pull.ParseReference(record.Source); err == nil && from.Host == ref.Host && from.Path != ref.Path && record.Blob == came.Digest && (came.Digest != v1.Hash{}) {
		ok, err := to.Mount(ctx, came.Digest, from.Path)
		if err != nil {
			return blob{}, err
		}
		if ok {
			line.Here()
			return blob{came.Digest, came.Size}, nil
		}
	}
	line.Start()
	if b, err = p.send(ctx, to, diffID, line); err != nil {
		return blob{}, err
	}
	// So that the next push finds it. It is no failure if a store can't be written to.
	if p.Format != "zstd" && !p.Again {
		p.Store.NoteSent(diffID, b.digest, b.size)
	}
	return b, nil
}

// suits says whether a layer of that type need not be compressed again.
func (p *Pusher) suits(t types.MediaType) bool {
	switch p.Format {
	case "gzip":
		return !p.Again && (t == types.OCILayer || t == types.DockerLayer)
	case "zstd":
		return !p.Again && t == types.OCILayerZStd
	}
	return true
}

// send compresses and uploads a layer, and begins again if the transfer breaks.
func (p *Pusher) send(ctx context.Context, to Registry, diffID v1.Hash, line *progress.Line) (blob, error) {
	tries := p.Tries
	if tries == 0 {
		tries = 3
	}
	var sent int64
	for try := 1; ; try++ {
		line.Add(-sent)
		sent = 0
		digest, size, err := to.Upload(ctx, func(w io.Writer) error {
			z, err := p.Compress(w)
			if err != nil {
				return err
			}
			h, err := v1.Hasher("sha256")
			if err != nil {
				return err
			}
			count := writerFunc(func(b []byte) (int, error) {
				line.Add(int64(len(b)))
				sent += int64(len(b))
				return len(b), nil
			})
			if err := p.Archive(ctx, diffID, io.MultiWriter(z, h, count)); err != nil {
				return err
			}
			if have := fmt.Sprintf("%x", h.Sum(nil)); have != diffID.Hex {
				return &manifest.DigestError{What: "layer on this disk", Want: diffID.String(), Have: "sha256:" + have}
			}
			return z.Close()
		})
		if err == nil {
			return blob{digest, size}, nil
		}
		if try == tries || ctx.Err() != nil || !transfer.Passing(err) {
			return blob{}, err
		}
		if err := transfer.Wait(ctx, transfer.Jitter(p.Patience.First<<(try-1))); err != nil {
			return blob{}, err
		}
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// makeManifest names the blobs as they are at the registry, in the words of the
// manifest that the image came with: docker's or OCI's, which also keeps its annotations. zstd: the layers are.
func makeManifest(img *store.Image, configSize int64, layers []blob, own *v1.Manifest, zstd bool) (raw []byte, mediaType string, err error) {
	m := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: v1.Descriptor{MediaType: types.OCIConfigJSON}}
	layerType := types.OCILayer
	if own != nil {
		m.Annotations, m.Config.MediaType = own.Annotations, own.Config.MediaType
		if m.MediaType = own.MediaType; m.MediaType == types.DockerManifestSchema2 {
			layerType = types.DockerLayer
		}
	}
	if zstd {
		m.MediaType, layerType = types.OCIManifestSchema1, types.OCILayerZStd
		if m.Config.MediaType == types.DockerConfigJSON {
			m.Config.MediaType = types.OCIConfigJSON
		}
	}
	m.Config.Digest, m.Config.Size = img.ID, configSize
	for i, l := range layers {
		d := v1.Descriptor{MediaType: layerType, Digest: l.digest, Size: l.size}
		if own != nil {
			d.Annotations = own.Layers[i].Annotations
			if own.Layers[i].Digest == l.digest {
				d.MediaType = own.Layers[i].MediaType
			}
		}
		m.Layers = append(m.Layers, d)
	}
	raw, err = json.Marshal(m)
	return raw, string(m.MediaType), err
}
