package archive

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"skiff/pull/manifest"
)

// A saved is what `docker save` writes: manifest.json, configs, and layers by
// names that mean nothing. It has no manifests and no digests of layers, so those are verified by
// their DiffIDs alone. Source: moby, image/spec/v1.2.md, "Combined Image JSON + Filesystem Changeset Format".
type saved struct {
	*tarball
	name string
	only *savedImage // instead of a name
}

// OpenDocker opens docker-archive:FILE[:NAME].
func OpenDocker(spec string) (manifest.Source, error) {
	file, name := Split(spec)
	t, err := openTar(file, file)
	if err != nil {
		return nil, err
	}
	if _, err := t.section("manifest.json"); err != nil {
		t.Close()
		return nil, &FormatError{file, "it is no archive of docker save: " + err.Error()}
	}
	return &saved{tarball: t, name: name}, nil
}

type savedImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// Image finds the named image, or the only one. A name is a tag alone, or all of
// one in RepoTags.
func (s *saved) Image(_ context.Context, _ manifest.Want) (*manifest.Image, error) {
	img := s.only
	if img == nil {
		list, err := s.list()
		if err != nil {
			return nil, err
		}
		if img, err = s.choose(list); err != nil {
			return nil, err
		}
	}
	config, err := s.read(img.Config, manifest.MaxConfig)
	if err != nil {
		return nil, err
	}
	i := &manifest.Image{ConfigDigest: sha(config)}
	i.Config = func(context.Context) ([]byte, error) { return config, nil }
	for _, name := range img.Layers {
		layer, err := s.section(name)
		if err != nil {
			return nil, err
		}
		i.Layers = append(i.Layers, manifest.Layer{Size: layer.Size(), Open: from(layer)})
	}
	if len(i.Layers) == 0 {
		return nil, fmt.Errorf("%s: %w", s.path, &manifest.UnsupportedError{Why: "the image has no layers"})
	}
	return i, nil
}

func (s *saved) list() ([]savedImage, error) {
	raw, err := s.read("manifest.json", manifest.MaxManifest)
	if err != nil {
		return nil, err
	}
	list, err := decodeSaved(raw)
	if err != nil {
		return nil, &FormatError{s.path, "manifest.json: " + err.Error()}
	}
	return list, nil
}

// maxImages bounds the memory that a list of nothing would take.
const maxImages = 10_000

func decodeSaved(raw []byte) ([]savedImage, error) {
	if !json.Valid(raw) {
		var v any
		return nil, json.Unmarshal(raw, &v)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	if t, _ := d.Token(); t != json.Delim('[') {
		return nil, errors.New("it is no list of images")
	}
	var list []savedImage
	for d.More() {
		if len(list) == maxImages {
			return nil, fmt.Errorf("it lists more than %d images", maxImages)
		}
		var img savedImage
		if err := d.Decode(&img); err != nil {
			return nil, err
		}
		list = append(list, img)
	}
	return list, nil
}

func (s *saved) choose(list []savedImage) (*savedImage, error) {
	var have []string
	for i, img := range list {
		for _, tag := range img.RepoTags {
			if s.name != "" && (tag == s.name || strings.HasSuffix(tag, ":"+s.name) || tag == s.name+":latest") {
				return &list[i], nil
			}
			if !slices.Contains(have, tag) {
				have = append(have, tag)
			}
		}
	}
	switch {
	case s.name != "":
		return nil, &NameError{s.path, s.name, have}
	case len(list) == 0:
		return nil, &FormatError{s.path, "manifest.json names no image"}
	case len(list) > 1:
		return nil, &NameError{s.path, "", have}
	}
	return &list[0], nil
}
