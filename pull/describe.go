package pull

import (
	"context"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"skiff/pull/manifest"
)

// A Describer is a Registry that gives the document a reference points to, an index or a
// manifest, whatever platforms it is for.
type Describer interface {
	Document(ctx context.Context) (raw []byte, mediaType string, err error)
}

// Describe returns the document of a reference, verified against its digest if it has one,
// and the platform that its config names if it is a manifest and no index.
func Describe(ctx context.Context, from Registry, ref Reference) (raw []byte, platform string, err error) {
	d, ok := from.(Describer)
	if !ok {
		return nil, "", &ReferenceError{Name: ref.String(), Why: "its source has no documents"}
	}
	raw, mediaType, err := d.Document(ctx)
	if err != nil {
		return nil, "", err
	}
	if ref.Digest != "" {
		want, err := v1.NewHash(ref.Digest)
		if err != nil {
			return nil, "", err
		}
		if err := manifest.VerifyDigest(raw, want); err != nil {
			return nil, "", err
		}
	}
	doc, err := manifest.Parse(raw, mediaType)
	if err != nil || doc.IsIndex {
		return raw, "", err
	}
	img, err := from.Image(ctx, manifest.Want{})
	if err != nil {
		return nil, "", err
	}
	text, err := img.Config(ctx)
	if err != nil {
		return nil, "", err
	}
	config, err := manifest.Config(text, len(img.Layers))
	if err != nil {
		return nil, "", err
	}
	return raw, manifest.Platform{OS: config.OS, Arch: config.Architecture, Variant: config.Variant}.String(), nil
}
