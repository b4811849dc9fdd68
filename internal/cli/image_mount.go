package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"skiff/pull/store"
	"skiff/run"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/urfave/cli/v2"
)

func mountCommand() *cli.Command {
	return &cli.Command{
		Name: "mount", Usage: "as root, mount images read-only and print where; without IMAGE, list those mounted", ArgsUsage: "[IMAGE...]",
		UsageText: "cd $(skiff image mount alpine)\nskiff image unmount alpine",
		Flags:     []cli.Flag{&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "all images"}},
		Action:    action("image mount", mountImages),
	}
}

func mountImages(c *cli.Context) error {
	r, err := openRunner(c)
	if err != nil {
		return err
	}
	all, err := r.Store.Images()
	if err != nil {
		return err
	}
	var list []*store.Image
	var names []string // as they were asked for
	switch {
	case c.Bool("all"):
		if err := count(c, 0, 0, ""); err != nil {
			return err
		}
		for _, i := range distinct(all) {
			list, names = append(list, i), append(names, nameOf(i.ID, all))
		}
	case c.NArg() == 0:
		for _, m := range r.MountedImages() {
			fmt.Fprintf(stdout, "%s %s\n", nameOf(m.ID, all), m.Path)
		}
		return nil
	}
	for _, name := range c.Args().Slice() {
		i, err := lookImage(r, name)
		if err != nil {
			return &verbError{verb: "image mount", object: name, err: err}
		}
		list, names = append(list, i), append(names, name)
	}
	for n, i := range list {
		path, err := r.MountImage(i)
		if err != nil {
			return &verbError{verb: "image mount", object: names[n], err: err}
		}
		if len(list) == 1 && !c.Bool("all") {
			fmt.Fprintln(stdout, path)
		} else {
			fmt.Fprintf(stdout, "%s %s\n", nameOf(i.ID, all), path)
		}
	}
	return nil
}

// nameOf is an image's first name, or its id.
func nameOf(id v1.Hash, all []*store.Image) string {
	for _, i := range all {
		if tags := repoTags(i); i.ID == id && len(tags) > 0 {
			return tags[0]
		}
	}
	return id.Hex[:12]
}

func unmountCommand() *cli.Command {
	return &cli.Command{
		Name: "unmount", Aliases: []string{"umount"}, Usage: "undo image mount", ArgsUsage: "IMAGE...",
		Flags:  []cli.Flag{&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "all that are mounted"}},
		Action: action("image unmount", unmountImages),
	}
}

func unmountImages(c *cli.Context) error {
	least, most := 1, -1
	if c.Bool("all") {
		least, most = 0, 0
	}
	if err := count(c, least, most, "which image?"); err != nil {
		return err
	}
	r, err := openRunner(c)
	if err != nil {
		return err
	}
	var ids []v1.Hash
	if c.Bool("all") {
		for _, m := range r.MountedImages() {
			ids = append(ids, m.ID)
		}
	}
	for _, name := range c.Args().Slice() {
		id, err := mountedImage(r, name)
		if err != nil {
			return &verbError{verb: "image unmount", object: name, err: err}
		}
		ids = append(ids, id)
	}
	for _, id := range ids {
		if err := r.UnmountImage(id); err != nil {
			return err
		}
		fmt.Fprintln(stdout, id.Hex)
	}
	return nil
}

// mountedImage finds an image that may have been removed since it was mounted.
func mountedImage(r *run.Runner, name string) (v1.Hash, error) {
	i, err := lookImage(r, name)
	if err == nil {
		return i.ID, nil
	}
	if errors.Is(err, fs.ErrNotExist) && len(name) >= 12 {
		for _, m := range r.MountedImages() {
			if strings.HasPrefix(m.ID.Hex, strings.TrimPrefix(name, "sha256:")) {
				return m.ID, nil
			}
		}
	}
	return v1.Hash{}, err
}

func diffCommand() *cli.Command {
	return &cli.Command{
		Name: "diff", Usage: "show what an image changes: of another one, or of its own layers without the last", ArgsUsage: "[FROM] IMAGE",
		UsageText: "skiff image diff myimage\nskiff image diff alpine:3.19 alpine:3.20",
		Flags:     []cli.Flag{&cli.StringFlag{Name: "format", Usage: "\"json\" prints lists of the paths added, changed and deleted"}},
		Action:    action("image diff", diffImages),
	}
}

func diffImages(c *cli.Context) error {
	if err := count(c, 1, 2, "of which image?"); err != nil {
		return err
	}
	if f := c.String("format"); f != "" && f != "json" {
		return fmt.Errorf("format %q: there is json", f)
	}
	r, err := openRunner(c)
	if err != nil {
		return err
	}
	if done, err := within(r); done || err != nil {
		return err
	}
	var images []*store.Image
	for _, name := range c.Args().Slice() {
		i, err := lookImage(r, name)
		if err != nil {
			return &verbError{verb: "image diff", object: name, err: err}
		}
		images = append(images, i)
	}
	var from *store.Image
	if len(images) == 2 {
		from = images[0]
	}
	lists := map[byte][]string{}
	err = run.DiffImages(r.Store, from, images[len(images)-1], func(ch run.Change) error {
		if c.String("format") == "json" {
			lists[ch.Kind] = append(lists[ch.Kind], ch.Path)
			return nil
		}
		_, err := fmt.Fprintf(stdout, "%c %s\n", ch.Kind, printable(ch.Path))
		return err
	})
	if err != nil || c.String("format") == "" {
		return err
	}
	return printJSON(struct {
		Changed []string `json:"changed,omitempty"`
		Added   []string `json:"added,omitempty"`
		Deleted []string `json:"deleted,omitempty"`
	}{lists['C'], lists['A'], lists['D']})
}
