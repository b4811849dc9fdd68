// Package manifest reads what describes an image: indexes, manifests and
// configs, all of which come from strangers.
//
// Limits: it sees bytes, and neither asks for them nor stores them. Who hands them over has
// verified their digest and their size.
package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

const (
	// MaxManifest is distribution-spec's: "registries SHOULD enforce some limit …
	// at least 4 megabytes". Larger ones are refused.
	MaxManifest = 4 << 20
	// MaxConfig bounds a config: labels and history may be long.
	MaxConfig = 8 << 20

	maxDepth  = 64
	maxLayers = 1024
)

// Media types. Source: image-spec media-types.md; distribution's
// manifest/schema1, schema2 and manifestlist.
const (
	OCIIndex       = "application/vnd.oci.image.index.v1+json"
	OCIManifest    = "application/vnd.oci.image.manifest.v1+json"
	OCIConfig      = "application/vnd.oci.image.config.v1+json"
	DockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	DockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	DockerConfig   = "application/vnd.docker.container.image.v1+json"
	DockerLayer    = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	OCILayer       = "application/vnd.oci.image.layer.v1.tar"
	schema1        = "application/vnd.docker.distribution.manifest.v1+json"
	schema1Signed  = "application/vnd.docker.distribution.manifest.v1+prettyjws"
)

// Accept is the Accept header of a manifest's request.
const Accept = OCIIndex + ", " + DockerList + ", " + OCIManifest + ", " + DockerManifest

// An UnsupportedError is a thing that is well formed and no image that skiff runs.
type UnsupportedError struct{ Why string }

func (e *UnsupportedError) Error() string { return e.Why }

// An InvalidError is a document that breaks its specification, or could be read as two.
type InvalidError struct {
	What string // "manifest", "index", "config"
	Err  error
}

func (e *InvalidError) Error() string { return e.What + ": " + e.Err.Error() }
func (e *InvalidError) Unwrap() error { return e.Err }

// A Descriptor points to bytes. Its digest has been checked for its syntax,
// its size for its sign. URLs are not read: nothing is ever fetched from them.
type Descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      v1.Hash           `json:"digest"`
	Size        int64             `json:"size"`
	Platform    *Platform         `json:"platform"`
	Annotations map[string]string `json:"annotations"`
	Artifact    string            `json:"artifactType"`
}

// A Document is a manifest or an index: IsIndex says which.
type Document struct {
	IsIndex   bool
	MediaType string
	Manifests []Descriptor // of an index
	Config    Descriptor   // of a manifest
	Layers    []Descriptor // of a manifest, base first
}

// Parse reads a manifest or an index of the declared media type. It refuses
// what another reader could take for the other kind: a mediaType inside that differs, keys
// of both kinds, the same key twice. declared may be empty where there is no
// declaration (an archive): then the document must say what it is, or leave no doubt.
// Source: GHSA-5j5w-g665-5m35, GHSA-xmmx-7jpf-fx42, GHSA-qq97-vm5h-rrhg.
func Parse(raw []byte, declared string) (*Document, error) {
	if len(raw) > MaxManifest {
		return nil, invalid("manifest", fmt.Errorf("%d bytes are more than %d", len(raw), MaxManifest))
	}
	declared, _, _ = strings.Cut(declared, ";")
	declared = strings.TrimSpace(declared)
	if err := strict(raw); err != nil {
		return nil, invalid("manifest", err)
	}
	var m struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     string          `json:"mediaType"`
		ArtifactType  string          `json:"artifactType"`
		Config        *Descriptor     `json:"config"`
		Layers        *[]Descriptor   `json:"layers"`
		Manifests     *[]Descriptor   `json:"manifests"`
		FSLayers      json.RawMessage `json:"fsLayers"`
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, invalid("manifest", err)
	}
	if m.SchemaVersion == 1 || m.FSLayers != nil || declared == schema1 || declared == schema1Signed {
		return nil, &UnsupportedError{"the manifest is of schema 1, which no registry should serve since 2020; push the image anew"}
	}
	if m.SchemaVersion != 2 {
		return nil, invalid("manifest", fmt.Errorf("schemaVersion is %d, not 2", m.SchemaVersion))
	}
	kind := declared
	switch declared {
	case OCIIndex, OCIManifest, DockerList, DockerManifest:
		if m.MediaType != "" && m.MediaType != declared {
			return nil, invalid("manifest", fmt.Errorf("it is served as %s and says %s", declared, clean(m.MediaType)))
		}
	case "", "application/json", "text/plain", "application/octet-stream":
		// No declaration, or that of a plain file server.
		kind = m.MediaType
		if kind == "" && m.Manifests != nil {
			kind = OCIIndex
		} else if kind == "" {
			kind = OCIManifest
		}
	}
	switch kind {
	case OCIIndex, DockerList:
		if m.Layers != nil || m.Config != nil {
			return nil, invalid("index", errors.New("it has the keys of a manifest too"))
		}
		if m.Manifests == nil {
			return nil, invalid("index", errors.New("it has no manifests"))
		}
		if err := check("index", *m.Manifests); err != nil {
			return nil, err
		}
		return &Document{IsIndex: true, MediaType: kind, Manifests: *m.Manifests}, nil
	case OCIManifest, DockerManifest:
		if m.Manifests != nil {
			return nil, invalid("manifest", errors.New("it has the keys of an index too"))
		}
		if m.Config == nil || m.Layers == nil {
			return nil, invalid("manifest", errors.New("it has no config or no layers"))
		}
		if err := check("manifest", append([]Descriptor{*m.Config}, *m.Layers...)); err != nil {
			return nil, err
		}
		d := &Document{MediaType: kind, Config: *m.Config, Layers: *m.Layers}
		return d, d.image(m.ArtifactType)
	}
	return nil, &UnsupportedError{fmt.Sprintf("%s is neither an image nor an index", clean(kind))}
}

// image says whether a manifest is an image's, and not that of some other artifact.
func (d *Document) image(artifact string) error {
	if artifact == "" {
		artifact = d.Config.MediaType // image-spec manifest.md, "artifactType"
	}
	if !isConfig(artifact) || !isConfig(d.Config.MediaType) {
		return &UnsupportedError{fmt.Sprintf("it is an artifact (%s), not an image", clean(artifact))}
	}
	if d.Config.Size > MaxConfig {
		return invalid("config", fmt.Errorf("%d bytes are more than %d", d.Config.Size, MaxConfig))
	}
	if len(d.Layers) > maxLayers {
		return invalid("manifest", fmt.Errorf("%d layers are more than %d", len(d.Layers), maxLayers))
	}
	for i, l := range d.Layers {
		switch t, _, _ := strings.Cut(l.MediaType, "+"); {
		case strings.Contains(t, "nondistributable"), strings.Contains(t, "foreign"):
			return &UnsupportedError{fmt.Sprintf("layer %d is a foreign one, which its registry does not have; nothing is fetched from other places", i+1)}
		case t != OCILayer && !strings.HasPrefix(t, "application/vnd.docker.image.rootfs.diff.tar"):
			return &UnsupportedError{fmt.Sprintf("layer %d is %s, no file system layer", i+1, clean(l.MediaType))}
		}
	}
	return nil
}

func isConfig(mediaType string) bool { return mediaType == OCIConfig || mediaType == DockerConfig }

func check(what string, list []Descriptor) error {
	for _, d := range list {
		switch {
		case d.Digest == v1.Hash{}:
			return invalid(what, errors.New("a descriptor has no digest"))
		case d.Size < 0:
			return invalid(what, fmt.Errorf("the size of %s is %d", d.Digest, d.Size))
		}
	}
	return nil
}

func invalid(what string, err error) error { return &InvalidError{what, err} }

// clean bounds a word of a stranger for a message; the display escapes it.
func clean(s string) string {
	if s == "" {
		return "a thing of no type"
	}
	if len(s) > 100 {
		s = s[:100] + "…"
	}
	return s
}

// strict refuses JSON that two readers may understand differently: a key twice in one
// object, keys of the outermost object that differ only in case (encoding/json takes either),
// trailing data; and what nests deeper than any image does.
func strict(raw []byte) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	type level struct {
		object bool
		key    bool // the next token is a key
		seen   map[string]bool
	}
	var stack []level
	for {
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) {
			if len(stack) == 0 {
				return nil
			}
			return io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
		if d, ok := tok.(json.Delim); ok && (d == '}' || d == ']') {
			if stack = stack[:len(stack)-1]; len(stack) == 0 {
				if _, err := dec.Token(); !errors.Is(err, io.EOF) {
					return errors.New("data after the document")
				}
				return nil
			}
			stack[len(stack)-1].key = stack[len(stack)-1].object
			continue
		}
		if len(stack) == 0 {
			if tok != json.Delim('{') {
				return errors.New("it is no JSON object")
			}
		} else if top := &stack[len(stack)-1]; top.object && top.key {
			name := tok.(string)
			if len(stack) == 1 {
				name = strings.ToLower(name)
			}
			if top.seen[name] {
				return fmt.Errorf("the key %q stands twice", clean(name))
			}
			top.seen[name], top.key = true, false
			continue
		} else {
			top.key = top.object
		}
		if d, ok := tok.(json.Delim); ok {
			if len(stack) == maxDepth {
				return fmt.Errorf("it nests deeper than %d", maxDepth)
			}
			l := level{object: d == '{', key: d == '{'}
			if l.object {
				l.seen = map[string]bool{}
			}
			stack = append(stack, l)
		}
	}
}
