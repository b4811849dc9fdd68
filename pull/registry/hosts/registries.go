package hosts

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// A registry is one [[registry]] of registries.conf. Source: containers-registries.conf(5).
type registry struct {
	Prefix             string
	Location           string
	Insecure           bool
	Blocked            bool
	MirrorByDigestOnly bool     `toml:"mirror-by-digest-only"`
	Mirrors            []mirror `toml:"mirror"`

	file string // that says so
}

type mirror struct {
	Location       string
	Insecure       bool
	PullFromMirror string `toml:"pull-from-mirror"` // all, digest-only, tag-only
}

// conf is all files together.
type conf []*registry

// registries reads registries.conf and then the files of registries.conf.d, in
// which a prefix replaces the same one before it. CONTAINERS_REGISTRIES_CONF stands for the
// first, and a user's own registries.conf for the machine's.
func (f *Finder) registries() (conf, error) {
	main := filepath.Join(f.etc(), "containers/registries.conf")
	user := f.config()
	if user != "" {
		user = filepath.Join(user, "containers")
		if own := filepath.Join(user, "registries.conf"); exists(own) {
			main = own
		}
	}
	given := f.env("CONTAINERS_REGISTRIES_CONF")
	if given != "" {
		main = given
	}
	var all conf
	if err := all.read(main); err != nil && (given != "" || !errors.Is(err, fs.ErrNotExist)) {
		return nil, err
	}
	for _, dir := range []string{filepath.Join(f.etc(), "containers"), user} {
		if dir == "" {
			continue
		}
		files, err := filepath.Glob(filepath.Join(escapeGlob(dir), "registries.conf.d", "*.conf"))
		if err != nil {
			return nil, err
		}
		for _, file := range files { // in the order of their names
			if err := all.read(file); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func escapeGlob(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(s)
}

// read adds one file.
func (c *conf) read(file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var doc struct {
		Registries []*registry `toml:"registry"`
		// The format's first version.
		Old struct {
			Insecure, Block struct{ Registries []string }
		} `toml:"registries"`
	}
	if _, err := toml.Decode(string(b), &doc); err != nil {
		return fmt.Errorf("read %s: %w", file, plain(err))
	}
	for _, host := range doc.Old.Insecure.Registries {
		doc.Registries = append(doc.Registries, &registry{Prefix: host, Insecure: true})
	}
	for _, host := range doc.Old.Block.Registries {
		doc.Registries = append(doc.Registries, &registry{Prefix: host, Blocked: true})
	}
	for _, r := range doc.Registries {
		r.file = file
		if err := r.check(); err != nil {
			return fmt.Errorf("read %s: %w", file, err)
		}
		*c = slices.DeleteFunc(*c, func(old *registry) bool { return old.Prefix == r.Prefix && old.file != file })
		*c = append(*c, r)
	}
	return nil
}

// plain takes the library's name off its error, and keeps the line.
func plain(err error) error {
	var e toml.ParseError
	if errors.As(err, &e) {
		return fmt.Errorf("line %d: %s", e.Position.Line, e.Message)
	}
	return errors.New(strings.TrimPrefix(err.Error(), "toml: "))
}

func (r *registry) check() error {
	for _, s := range []*string{&r.Prefix, &r.Location} {
		if strings.Contains(*s, "://") {
			return fmt.Errorf("registry %q: it has no scheme here", *s)
		}
		*s = strings.TrimRight(*s, "/")
	}
	wild := strings.HasPrefix(r.Prefix, "*.")
	switch {
	case r.Prefix == "" && r.Location == "":
		return errors.New("a registry without prefix and location")
	case strings.Contains(strings.TrimPrefix(r.Prefix, "*."), "*"), strings.Contains(r.Location, "*"):
		return fmt.Errorf("registry %q: * is only for the beginning of a prefix, as *.example.com", r.Prefix+r.Location)
	case versioned(r.Prefix) && r.Location == r.Prefix:
		r.Location = ""
	case versioned(r.Prefix) && !r.Blocked && (r.Location != "" || len(r.Mirrors) > 0):
		return fmt.Errorf("registry %q: one image of a repository has no other location or mirrors here", r.Prefix)
	case r.Prefix == "":
		r.Prefix = r.Location
	case r.Location == "" && !wild && !r.Blocked && !versioned(r.Prefix):
		r.Location = r.Prefix
	}
	r.Prefix = canonical(r.Prefix)
	for i := range r.Mirrors {
		m := &r.Mirrors[i]
		m.Location = strings.TrimRight(m.Location, "/")
		switch {
		case m.Location == "" || strings.Contains(m.Location, "://"):
			return fmt.Errorf("mirror %q of %s: it must be HOST or HOST/PATH", m.Location, r.Prefix)
		case m.PullFromMirror != "" && r.MirrorByDigestOnly:
			return fmt.Errorf("mirror %s of %s: pull-from-mirror does not go with mirror-by-digest-only", m.Location, r.Prefix)
		case !slices.Contains([]string{"", "all", "digest-only", "tag-only"}, m.PullFromMirror):
			return fmt.Errorf("mirror %s of %s: pull-from-mirror %q is none of all, digest-only, tag-only", m.Location, r.Prefix, m.PullFromMirror)
		}
	}
	return nil
}

// versioned says whether a prefix ends in a tag or a digest.
func versioned(prefix string) bool {
	_, path, _ := strings.Cut(prefix, "/")
	return strings.ContainsAny(path, ":@")
}

// find returns the registry with the longest prefix that fits, or nil. versions
// are what may stand behind the name: ":TAG", "@DIGEST".
func (c conf) find(name string, versions ...string) *registry {
	var best *registry
	for _, r := range c {
		fits := match(r.Prefix, name) >= 0
		for _, v := range versions {
			fits = fits || r.Prefix == name+v
		}
		if fits && (best == nil || len(r.Prefix) > len(best.Prefix)) {
			best = r
		}
	}
	return best
}

func (r *registry) origin(name string) Endpoint {
	n := match(r.Prefix, name)
	if r.Location == "" {
		n = 0
	}
	e := at(r.Location, name[n:])
	e.Insecure = r.Insecure
	return e
}

func (r *registry) mirrors(name string, digest bool) []Endpoint {
	n := match(r.Prefix, name)
	var all []Endpoint
	for _, m := range r.Mirrors {
		if digest && m.PullFromMirror == "tag-only" || !digest && (m.PullFromMirror == "digest-only" || r.MirrorByDigestOnly) {
			continue
		}
		e := at(m.Location, name[n:])
		e.Insecure, e.Tags = m.Insecure, true
		all = append(all, e)
	}
	return all
}
