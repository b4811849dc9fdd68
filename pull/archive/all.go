package archive

import (
	"slices"
	"strings"

	"skiff/pull/manifest"
)

// An Offer is one image of an archive and the names that it has there: full
// references or short ones, as they are written.
type Offer struct {
	Names  []string
	Source manifest.Source // closed with the archive, not by itself
}

// OpenAll opens a file or directory for all the images in it: an OCI layout, a directory of one image, or
// what docker save writes. Of a file that is both, the layout is read, for it knows digests. Images that are not for
// linux are offered too; who reads one finds out. close closes them all. Errors call the file by name.
func OpenAll(path, name string) (offers []Offer, close func() error, err error) {
	f, err := openFiles(path, name)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	l, err := checked(&layout{path: name, files: keptOpen{f}})
	t, isTar := f.(*tarball)
	switch {
	case err == nil:
		offers, err = l.offers()
	case !isTar && (&plainDir{name, f}).check() == nil:
		offers, err = []Offer{{Source: (&plainDir{name, f}).kept()}}, nil
	case isTar && t.has("manifest.json"):
		offers, err = (&saved{tarball: t}).offers()
	case isTar:
		err = &FormatError{name, "it is neither an OCI image layout nor an archive of docker save"}
	}
	if err == nil && len(offers) == 0 {
		err = &FormatError{name, "there is no image in it"}
	}
	return offers, f.Close, err
}

// keptOpen files are closed by somebody else.
type keptOpen struct{ files }

func (keptOpen) Close() error { return nil }

func (l *layout) offers() ([]Offer, error) {
	_, doc, err := l.index()
	if err != nil {
		return nil, err
	}
	var offers []Offer
	at := map[string]int{}
	for i, d := range doc.Manifests {
		key := d.Digest.String()
		if _, ok := at[key]; !ok {
			at[key] = len(offers)
			offers = append(offers, Offer{Source: &layout{path: l.path, files: l.files, only: &doc.Manifests[i]}})
		}
		o := &offers[at[key]]
		if name := nameOf(d); name != "" && !slices.Contains(o.Names, name) {
			o.Names = append(o.Names, name)
		}
	}
	return offers, nil
}

// nameOf is a descriptor's name. A tag alone, as skopeo may write, names no image.
func nameOf(d manifest.Descriptor) string {
	if full := d.Annotations[containerdName]; full != "" {
		return full
	}
	if ref := d.Annotations[refName]; strings.ContainsAny(ref, "/:") {
		return ref
	}
	return ""
}

func (s *saved) offers() ([]Offer, error) {
	list, err := s.list()
	if err != nil {
		return nil, err
	}
	var offers []Offer
	for i := range list {
		offers = append(offers, Offer{Names: list[i].RepoTags, Source: &savedOne{saved{tarball: s.tarball, only: &list[i]}}})
	}
	return offers, nil
}

// savedOne is closed with the others.
type savedOne struct{ saved }

func (*savedOne) Close() error { return nil }

func (t *tarball) has(name string) bool {
	_, err := t.section(name)
	return err == nil
}
