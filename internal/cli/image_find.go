package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"time"

	"skiff/pull"
	"skiff/pull/store"
	"skiff/run"

	"github.com/urfave/cli/v2"
)

// lookImage finds an image by reference as typed, by digest, or by id.
func lookImage(r *run.Runner, name string) (*store.Image, error) {
	found, _, err := lookImages(r, name)
	if err != nil {
		return nil, err
	}
	return found[0], nil
}

// lookImages finds the records that a word means: one by its name, those of one
// repository by a digest, or all of an image by its id or the beginning of that.
func lookImages(r *run.Runner, name string) (found []*store.Image, byID bool, err error) {
	ref, err := pull.ParseReference(name)
	if err == nil && ref.ID == "" {
		img, err := r.Store.Image(ref.String())
		if err == nil {
			return []*store.Image{img}, false, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, false, err
		}
		if other := namesake(name, ref); other != "" && r.Store.Named(other) {
			if img, err := r.Store.Image(other); err == nil {
				return []*store.Image{img}, false, nil
			}
		}
	}
	all, errAll := r.Store.Images()
	if errAll != nil {
		return nil, false, errAll
	}
	if err == nil && ref.Digest != "" {
		for _, i := range all {
			if i.Repository() == ref.Host+"/"+ref.Path && (i.Digest.String() == ref.Digest || i.Manifest.String() == ref.Digest) {
				found = append(found, i)
			}
		}
		if found == nil {
			return nil, false, &store.AbsentError{Name: ref.Familiar()}
		}
		return found, false, nil
	}
	one, err := r.Store.ImageByID(name)
	if err != nil {
		return nil, false, err
	}
	for _, i := range all {
		if i.ID == one.ID {
			found = append(found, i)
		}
	}
	if found == nil {
		found = []*store.Image{one}
	}
	return found, true, nil
}

// namesake is the other full name that a word may mean of an image that was made
// here, or "": podman gives such an image the registry localhost, docker and skiff
// none, so that mine:1 and localhost/mine:1 are typed for each other. A word that names
// docker.io means that. No registry is ever asked for a namesake.
func namesake(word string, ref pull.Reference) string {
	switch {
	case ref.Tag == "" || ref.Digest != "":
	case ref.Host == "localhost":
		other, err := pull.ParseReference(strings.TrimPrefix(word, "localhost/"))
		// What is left may name docker.io, and is another's then.
		if err == nil && other.Host == pull.Hub && (other.Path == ref.Path || other.Path == "library/"+ref.Path) {
			return other.String()
		}
	case ref.Host == pull.Hub && !strings.HasPrefix(word, pull.Hub+"/") && !strings.HasPrefix(word, "index."+pull.Hub+"/"):
		if other, err := pull.ParseReference("localhost/" + word); err == nil {
			return other.String()
		}
	}
	return ""
}

// usersOf are the names of the containers of each image, by its id.
func usersOf(r *run.Runner) (map[string][]string, error) {
	all, err := r.Containers().List()
	users := map[string][]string{}
	for _, c := range all {
		users[c.ImageID] = append(users[c.ImageID], c.Name)
	}
	return users, err
}

// busyImages are the images, by id, that a container has or that are mounted.
func busyImages(r *run.Runner) (map[string]bool, error) {
	users, err := usersOf(r)
	busy := map[string]bool{}
	for id := range users {
		busy[id] = true
	}
	for _, m := range r.MountedImages() {
		busy[m.ID.String()] = true
	}
	return busy, err
}

// imageFilters are the keys of --filter.
var imageFilters = [...]string{"reference", "dangling", "label", "before", "since", "until", "id"}

// imageFilter makes one condition of filters: those of one key are alternatives,
// but for label, of which all must hold, as with docker.
func imageFilter(r *run.Runner, filters []string) (func(*store.Image) bool, error) {
	either := map[string][]func(*store.Image) bool{}
	var all []func(*store.Image) bool
	for _, f := range filters {
		key, value, ok := strings.Cut(f, "=")
		if !ok {
			return nil, fmt.Errorf("filter %q: it is no KEY=VALUE", f)
		}
		match, err := oneFilter(r, key, value)
		if err != nil {
			return nil, fmt.Errorf("filter %q: %w", f, err)
		}
		if key == "label" || key == "label!" {
			all = append(all, match)
		} else {
			either[key] = append(either[key], match)
		}
	}
	for _, matches := range either {
		all = append(all, func(i *store.Image) bool {
			for _, m := range matches {
				if m(i) {
					return true
				}
			}
			return false
		})
	}
	return func(i *store.Image) bool {
		for _, m := range all {
			if !m(i) {
				return false
			}
		}
		return true
	}, nil
}

func oneFilter(r *run.Runner, key, value string) (func(*store.Image) bool, error) {
	switch key {
	case "reference":
		if _, err := path.Match(value, ""); err != nil {
			return nil, err
		}
		return func(i *store.Image) bool { return matches(value, i) }, nil
	case "dangling":
		want, err := strconv.ParseBool(value)
		if err != nil {
			return nil, errors.New("it is neither true nor false")
		}
		return func(i *store.Image) bool { return i.Nameless() == want }, nil
	case "label", "label!":
		k, v, exact := strings.Cut(value, "=")
		return func(i *store.Image) bool {
			have, ok := labels(i)[k]
			return (ok && (!exact || have == v)) == (key == "label")
		}, nil
	case "before", "since":
		than, err := lookImage(r, value)
		if err != nil {
			return nil, err
		}
		if key == "before" {
			return func(i *store.Image) bool { return i.Created.Before(than.Created) }, nil
		}
		return func(i *store.Image) bool { return i.Created.After(than.Created) }, nil
	case "until":
		t, err := moment(value)
		if err != nil {
			return nil, err
		}
		return func(i *store.Image) bool {
			if i.Created.IsZero() { // by the time that is known
				return i.Pulled.Before(t)
			}
			return i.Created.Before(t)
		}, nil
	case "id":
		hex := strings.TrimPrefix(value, "sha256:")
		return func(i *store.Image) bool { return strings.HasPrefix(i.ID.Hex, hex) }, nil
	}
	return nil, fmt.Errorf("there are %s", strings.Join(imageFilters[:], ", "))
}

// matches holds a shell pattern against a name with and without its tag, as
// people type it and in full.
func matches(pattern string, i *store.Image) bool {
	if i.Nameless() {
		return false
	}
	for _, name := range []string{i.Reference, i.Repository()} {
		for _, n := range []string{name, pull.Familiar(name)} {
			if ok, _ := path.Match(pattern, n); ok {
				return true
			}
		}
	}
	return false
}

// moment reads a point in time as docker's filters do: a duration before now, seconds
// since 1970, or a date.
func moment(s string) (time.Time, error) {
	if d, err := span(s); err == nil {
		return time.Now().Add(-d), nil
	}
	if n, err := strconv.ParseFloat(s, 64); err == nil {
		return time.Unix(0, int64(n*float64(time.Second))), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is neither a time such as 2026-01-31 nor a duration such as 24h", s)
}

// span reads a duration, of days and weeks too: 30d, 2w, 1h30m.
func span(s string) (time.Duration, error) {
	for unit, length := range map[string]time.Duration{"d": 24 * time.Hour, "w": 7 * 24 * time.Hour} {
		if n, ok := strings.CutSuffix(s, unit); ok {
			if days, err := strconv.ParseUint(n, 10, 16); err == nil {
				return time.Duration(days) * length, nil
			}
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q is no duration such as 30d, 2w or 1h30m", s)
	}
	return d, nil
}

func rfc3339(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

func existsCommand() *cli.Command {
	return &cli.Command{
		Name: "exists", Usage: "end with 0 if an image is here, and with 1 if not", ArgsUsage: "IMAGE",
		Action: action("image exists", func(c *cli.Context) error {
			if err := count(c, 1, 1, "which image?"); err != nil {
				return err
			}
			r, err := openRunner(c)
			if err != nil {
				return err
			}
			if _, err = lookImage(r, c.Args().First()); errors.Is(err, fs.ErrNotExist) {
				return exitStatus(1)
			}
			return err
		}),
	}
}
