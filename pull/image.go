package pull

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"skiff/pull/manifest"
	"skiff/pull/store"
	"skiff/pull/transfer"
)

// pull brings one image in from a source and publishes it under a name, or its
// id if that is empty.
func (p *Puller) pull(ctx context.Context, from Source, ref Reference, name string) (*Pulled, error) {
	if err := p.Store.Writable(); err != nil {
		return nil, err
	}
	img, err := from.Image(ctx, p.Want)
	if err != nil {
		return nil, err
	}
	raw, err := p.Store.BlobOnce(ctx, img.ConfigDigest, img.Config)
	if err != nil {
		return nil, err
	}
	if err := manifest.VerifyDigest(raw, img.ConfigDigest); err != nil {
		return nil, err
	}
	config, err := manifest.Config(raw, len(img.Layers))
	if err != nil {
		return nil, err
	}
	if name == "" {
		name = img.ConfigDigest.String()
	}
	if err := p.platform(name, config); err != nil {
		return nil, err
	}
	record := recordOf(name, img, config)
	record.IDs = p.Store.IDs
	if old, err := p.local(name); err == nil && old != nil && old.ID == record.ID && old.Digest == record.Digest && old.Manifest == record.Manifest && p.whole(old) {
		return p.here(old)
	}

	kept := []v1.Hash{img.ConfigDigest}
	for _, doc := range img.Kept {
		d, err := store.Digest("sha256", doc)
		if err != nil {
			return nil, err
		}
		kept = append(kept, d)
	}
	claim, err := p.Store.Claim(record.DiffIDs, kept...)
	if err != nil {
		return nil, err
	}
	defer claim.Release()
	if err := p.layers(ctx, img, record.DiffIDs, name); err != nil {
		return nil, err
	}
	for i, doc := range img.Kept {
		if err := p.Store.PutBlob(kept[i+1], doc); err != nil {
			return nil, err
		}
	}
	// The collector may have been at the config between its reading and the claim.
	if err := p.Store.PutBlob(img.ConfigDigest, raw); err != nil {
		return nil, err
	}
	for try := 0; ; try++ {
		err := p.tally(record)
		if err == nil {
			break
		}
		// A collector that began before the claim has a layer in its hand. It gives it
		// back within milliseconds, unless it was killed.
		if !errors.Is(err, fs.ErrNotExist) || try == 20 {
			return nil, err
		}
		time.Sleep(time.Duration(try) * time.Millisecond)
		if err := p.layers(ctx, img, record.DiffIDs, name); err != nil {
			return nil, err
		}
	}
	if p.Account != nil {
		record.Account = p.Account(record)
	}
	if err := p.Store.PutImage(record); err != nil {
		return nil, err
	}
	return &Pulled{Image: record, Fresh: true, Settle: p.Store.Settle}, nil
}

// tally adds what the layers' records say to the image's.
func (p *Puller) tally(record *store.Image) error {
	record.First, record.Size = 0, 0
	seen := map[v1.Hash]bool{}
	for i, d := range record.DiffIDs {
		l, err := p.Store.LayerRecord(d)
		if err != nil {
			return err
		}
		if l.Opaque {
			record.First = i
		}
		if !seen[d] {
			seen[d] = true
			record.Size += l.Size
		}
	}
	return nil
}

// platform holds what the config says against what was asked for. An index
// may lie, and a single manifest says nothing. Who asked for nothing is only told.
func (p *Puller) platform(name string, c *v1.ConfigFile) error {
	if c.OS == "" && c.Architecture == "" {
		return nil
	}
	have := manifest.Platform{OS: c.OS, Arch: c.Architecture, Variant: c.Variant}
	if have.OS != "linux" {
		return p.Want.Refuse(have)
	}
	if p.Want.Accepts(have) {
		return nil
	}
	if p.Want.Asked {
		return p.Want.Refuse(have)
	}
	p.warn("%s is for %s and this machine is %s: its programs need an emulator", Familiar(name), have, manifest.Host())
	return nil
}

// recordOf is the image's record without its size.
func recordOf(name string, img *manifest.Image, c *v1.ConfigFile) *store.Image {
	sorted := func(m map[string]struct{}) []string { return slices.Sorted(maps.Keys(m)) }
	i := &store.Image{
		Reference: name,
		Digest:    img.Digest,
		Manifest:  img.Manifest,
		ID:        img.ConfigDigest,
		OS:        c.OS,
		Arch:      c.Architecture,
		Variant:   c.Variant,
		Created:   c.Created.UTC(),
		Pulled:    time.Now().UTC(),
		DiffIDs:   c.RootFS.DiffIDs,
		Config: store.Config{
			User:         c.Config.User,
			WorkingDir:   c.Config.WorkingDir,
			StopSignal:   c.Config.StopSignal,
			Env:          c.Config.Env,
			Entrypoint:   c.Config.Entrypoint,
			Cmd:          c.Config.Cmd,
			Volumes:      sorted(c.Config.Volumes),
			ExposedPorts: sorted(c.Config.ExposedPorts),
		},
	}
	for _, k := range slices.Sorted(maps.Keys(c.Config.Labels)) {
		i.Config.Labels = append(i.Config.Labels, store.Label{Key: k, Value: c.Config.Labels[k]})
	}
	return i
}

// maxSegments bounds what a pull fetches ahead, 12 MiB, and its connections beside one for each layer.
const maxSegments = 6

// layers brings in what is not here, several at once in the manifest's order. Each
// DiffID is done once, however often the image has it. The first error stops the others.
func (p *Puller) layers(ctx context.Context, img *manifest.Image, diffIDs []v1.Hash, source string) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	type job struct {
		layer manifest.Layer
		diff  v1.Hash
	}
	var jobs []job
	seen := map[v1.Hash]bool{}
	for i, d := range diffIDs {
		if !seen[d] {
			seen[d] = true
			jobs = append(jobs, job{img.Layers[i], d})
		}
	}
	todo := make(chan job, len(jobs))
	for _, j := range jobs {
		todo <- j
	}
	close(todo)
	n := p.Parallel
	if n == 0 {
		n = min(max(runtime.NumCPU(), 2), 6)
	}
	budget := transfer.NewBudget(maxSegments)
	var wg sync.WaitGroup
	for range min(n, len(jobs)) {
		wg.Go(func() {
			for j := range todo {
				if ctx.Err() != nil {
					return
				}
				if err := p.layer(ctx, j.layer, j.diff, source, budget); err != nil {
					stop(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// layer brings one layer in.
func (p *Puller) layer(ctx context.Context, l manifest.Layer, diff v1.Hash, from string, budget transfer.Budget) (err error) {
	short := l.Digest.Hex
	if short == "" {
		short = diff.Hex
	}
	line := p.Display.Layer(short[:12], l.Size)
	defer func() { line.End(err) }()
	if _, ok := p.Store.HasLayer(diff); ok {
		line.Here()
		return nil
	}
	line.Waiting()
	stage, err := p.Store.StageLayer(ctx, diff)
	if err != nil {
		return err
	}
	if stage == nil {
		line.Here()
		return nil
	}
	defer stage.Abort()
	line.Start()
	var src source = transfer.NewBody(ctx, l.Size, p.patience(), l.Open)
	if l.Range != nil {
		src = transfer.NewSplit(ctx, l.Size, p.patience(), budget, l.Range)
	}
	in := newPump(src, l.Digest.Algorithm, line.Add)
	defer in.Close()
	r, err := p.unpack(ctx, stage.Dir(), in)
	if err != nil {
		return p.blame(ctx, err, in, l, short[:12], stage.Dir())
	}
	if err := in.verify(l.Digest); err != nil {
		return fmt.Errorf("layer %s: %w", short[:12], err)
	}
	if r.DiffID != diff {
		return &manifest.DigestError{What: "layer " + short[:12] + ", uncompressed", Want: diff.String(), Have: r.DiffID.String()}
	}
	return stage.Commit(store.LayerRecord{
		Blob: l.Digest, Packed: l.Size, Source: from,
		Size: r.Size, Entries: r.Entries, Owners: r.Owners, Opaque: r.OpaqueRoot,
	})
}

// unpack finds out how the bytes are packed and hands them on.
func (p *Puller) unpack(ctx context.Context, dir string, in *pump) (Result, error) {
	head, err := in.peek(6)
	if err != nil {
		return Result{}, err
	}
	c, err := sniff(head)
	if err != nil {
		return Result{}, err
	}
	return p.Unpacker.Unpack(ctx, dir, c, in)
}

// sniff knows gzip (RFC 1952, 2.3.1) and zstd with its skippable frames (RFC 8878,
// 3.1); all else is taken for a plain archive but what is surely none.
func sniff(head []byte) (Compression, error) {
	has := func(magic string) bool { return strings.HasPrefix(string(head), magic) }
	switch {
	case has("\x1f\x8b"):
		return Gzip, nil
	case has("\x28\xb5\x2f\xfd"), len(head) >= 4 && head[0]&0xf0 == 0x50 && has(string(head[:1])+"\x2a\x4d\x18"):
		return Zstd, nil
	case has("\xfd7zXZ\x00"):
		return "", &manifest.UnsupportedError{Why: "it is compressed with xz; gzip, zstd and none are known"}
	case has("BZh"):
		return "", &manifest.UnsupportedError{Why: "it is compressed with bzip2; gzip, zstd and none are known"}
	}
	return None, nil
}

// blame finds the cause of a failed unpacking: the context, the transfer, bytes that are
// not what was promised, the disk, or the archive itself.
func (p *Puller) blame(ctx context.Context, err error, in *pump, l manifest.Layer, short, dir string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if terr := in.failed(); terr != nil {
		return fmt.Errorf("layer %s: %w", short, terr)
	}
	if full := p.Store.Explain("unpack layer "+short+" in", dir, err); full != nil && isDisk(full) {
		return full
	}
	// An unpacker chokes on damaged bytes before their digest is known; the damage is the
	// better message. What is left is read for it if it is not much.
	if l.Size < 64<<20 {
		if derr := in.verify(l.Digest); derr != nil {
			return fmt.Errorf("layer %s: %w", short, derr)
		}
	}
	return fmt.Errorf("layer %s: %w", short, err)
}
