package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"skiff/internal/format"
	"skiff/pull/manifest"
	"skiff/pull/store"
	"skiff/run"
	"skiff/run/state"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/urfave/cli/v2"
)

func inspectCommand() *cli.Command {
	return &cli.Command{
		Name: "inspect", Usage: "print all that is known of containers and images", ArgsUsage: "NAME...",
		UsageText: "skiff inspect alpine\nskiff inspect --format '{{.Config.Env}}' alpine",
		Flags: []cli.Flag{inspectFormat(),
			&cli.StringFlag{Name: "type", Value: "all", Usage: "look among things of `TYPE` container, image or all: then containers first"}},
		Action: action("inspect", func(c *cli.Context) error { return inspect(c, "inspect", c.String("type")) }),
	}
}

func imageInspectCommand() *cli.Command {
	return &cli.Command{
		Name: "inspect", Usage: "print all that is known of images", ArgsUsage: "IMAGE...",
		Flags:  []cli.Flag{inspectFormat()},
		Action: action("image inspect", func(c *cli.Context) error { return inspect(c, "image inspect", "image") }),
	}
}

func inspectFormat() cli.Flag {
	return &cli.StringFlag{Name: "format", Aliases: []string{"f"}, Usage: "print each as the Go `TEMPLATE` says, or \"json\" as a line of JSON"}
}

// inspect prints a JSON array, also of what was found beside what was not: then it
// ends with 1.
func inspect(c *cli.Context, verb, kind string) error {
	if err := count(c, 1, -1, "of what?"); err != nil {
		return err
	}
	if kind != "all" && kind != "image" && kind != "container" {
		return fmt.Errorf("type %q: there are container, image and all", kind)
	}
	f, err := format.Parse(c.String("format"), "")
	if err != nil {
		return err
	}
	r, err := openRunner(c)
	if err != nil {
		return err
	}
	found, status := []any{}, 0
	var errs []error
	for _, name := range c.Args().Slice() {
		v, err := inspected(r, name, kind)
		if err != nil {
			errs = append(errs, &verbError{verb: verb, object: name, err: err})
			if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, state.ErrAbsent) {
				status = 125
			}
			status = max(status, 1)
			continue
		}
		found = append(found, v)
	}
	if c.String("format") == "" {
		err = format.Indented(stdout, found)
	} else {
		err = each(f, found)
	}
	if err != nil {
		return err
	}
	for _, err := range errs {
		complain(os.Stderr, err)
	}
	if status != 0 {
		return exitStatus(status)
	}
	return nil
}

// each prints values by a template. One that names what the value lacks is tried on
// its JSON, as docker does, where keys may differ from the fields.
func each(f *format.Format, values []any) error {
	for _, v := range values {
		err := f.One(stdout, v)
		if err == nil {
			continue
		}
		var raw any
		if b, errJSON := json.Marshal(v); errJSON != nil || json.Unmarshal(b, &raw) != nil || f.One(stdout, raw) != nil {
			return err
		}
	}
	return nil
}

func inspected(r *run.Runner, name, kind string) (any, error) {
	if kind != "image" {
		l, err := r.Containers().Find(name)
		if err == nil {
			c := containerOf(l)
			if l.Status == state.Running {
				c.NetworkSettings.Networks, err = endpoints(r.Networks(), l.ID)
			}
			return c, err
		}
		if kind == "container" {
			return nil, err
		}
		if !errors.Is(err, state.ErrAbsent) {
			return nil, err
		}
	}
	i, err := lookImage(r, name)
	if err != nil {
		if kind == "all" && errors.Is(err, fs.ErrNotExist) {
			return nil, noSuch{}
		}
		return nil, err
	}
	return inspectImage(r.Store, i)
}

// noSuch is neither a container nor an image.
type noSuch struct{}

func (noSuch) Error() string { return "no such container or image" }
func (noSuch) Unwrap() error { return fs.ErrNotExist }

// An inspectedImage is an image as docker and podman inspect it.
type inspectedImage struct {
	Id           string
	RepoTags     []string
	RepoDigests  []string
	Digest       string
	Parent       string
	Comment      string
	Created      string
	Author       string
	Config       v1.Config
	Architecture string
	Variant      string `json:",omitempty"`
	Os           string
	Size         int64 // bytes of the uncompressed layers
	VirtualSize  int64
	GraphDriver  struct{ Name string }
	RootFS       struct {
		Type   string
		Layers []string
	}
	Labels   map[string]string
	User     string
	History  []v1.History
	Metadata struct{ LastTagTime string }
}

// ID is podman's name.
func (i *inspectedImage) ID() string { return i.Id }

func inspectImage(st *store.Store, img *store.Image) (*inspectedImage, error) {
	all, err := st.Images()
	if err != nil {
		return nil, err
	}
	var names []*store.Image
	for _, other := range all {
		if other.ID == img.ID {
			names = append(names, other)
		}
	}
	config, err := configOf(st, img)
	if err != nil {
		return nil, err
	}
	i := &inspectedImage{
		Id: img.ID.String(), RepoTags: repoTags(names...), RepoDigests: repoDigests(names...), Created: rfc3339(img.Created),
		Author: config.Author, Config: config.Config, Architecture: img.Arch, Variant: img.Variant, Os: img.OS,
		Size: img.Size, VirtualSize: img.Size, Labels: labels(img), User: img.Config.User, History: config.History,
	}
	if img.Digest != (v1.Hash{}) {
		i.Digest = img.Digest.String()
	}
	if n := len(config.History); n > 0 {
		i.Comment = config.History[n-1].Comment
	}
	i.GraphDriver.Name, i.RootFS.Type, i.RootFS.Layers = "overlay", "layers", []string{}
	for _, d := range img.DiffIDs {
		i.RootFS.Layers = append(i.RootFS.Layers, d.String())
	}
	i.Metadata.LastTagTime = rfc3339(img.Pulled)
	return i, nil
}

// configOf is the image's config: its own document, or what the record says of it where
// that is not here, as with skiff's own image.
func configOf(st *store.Store, img *store.Image) (*v1.ConfigFile, error) {
	raw, err := st.Blob(img.ID)
	if err == nil {
		return manifest.Config(raw, len(img.DiffIDs))
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	set := func(list []string) map[string]struct{} {
		if len(list) == 0 {
			return nil
		}
		m := map[string]struct{}{}
		for _, k := range list {
			m[k] = struct{}{}
		}
		return m
	}
	k := img.Config
	return &v1.ConfigFile{
		Architecture: img.Arch, OS: img.OS, Variant: img.Variant, Created: v1.Time{Time: img.Created},
		RootFS: v1.RootFS{Type: "layers", DiffIDs: img.DiffIDs},
		Config: v1.Config{
			User: k.User, WorkingDir: k.WorkingDir, StopSignal: k.StopSignal, Env: k.Env, Entrypoint: k.Entrypoint, Cmd: k.Cmd,
			Volumes: set(k.Volumes), ExposedPorts: set(k.ExposedPorts), Labels: labels(img),
		},
	}, nil
}

// An inspectedContainer is a container as docker inspects it.
type inspectedContainer struct {
	Id      string
	Created string
	Path    string
	Args    []string
	State   struct {
		Status     string
		Running    bool
		Paused     bool
		Dead       bool
		Pid        int
		ExitCode   int
		StartedAt  string
		FinishedAt string
	}
	Image  string
	Name   string
	Config struct {
		Image  string
		Cmd    []string
		Labels map[string]string
	}
	HostConfig      struct{ AutoRemove bool }
	NetworkSettings struct {
		Ports    map[string][]portBinding
		Networks map[string]inspectedEndpoint // named ones, while the container runs
	}
}

func containerOf(l state.Listed) *inspectedContainer {
	c := &inspectedContainer{Id: l.ID, Created: rfc3339(l.Created), Args: []string{}, Image: l.ImageID, Name: "/" + l.Name}
	if len(l.Command) > 0 {
		c.Path, c.Args = l.Command[0], l.Command[1:]
	}
	c.State.Status, c.State.Running = dockerState(l), l.Status == state.Running
	c.State.Pid, c.State.ExitCode = l.PID, l.ExitCode
	c.State.StartedAt, c.State.FinishedAt = rfc3339(l.Created), "0001-01-01T00:00:00Z"
	if !l.Finished.IsZero() {
		c.State.FinishedAt = rfc3339(l.Finished)
	}
	c.Config.Image, c.Config.Cmd, c.Config.Labels = l.Image, l.Command, l.Labels
	if c.Config.Labels == nil {
		c.Config.Labels = map[string]string{}
	}
	c.HostConfig.AutoRemove = l.Remove
	c.NetworkSettings.Ports = portMap(portsOf(l))
	c.NetworkSettings.Networks = map[string]inspectedEndpoint{}
	return c
}
