package cli

import (
	"errors"

	"skiff/pull"
	"skiff/pull/store"

	"github.com/urfave/cli/v2"
)

func tagCommand() *cli.Command {
	return &cli.Command{
		Name: "tag", Usage: "give an image more names", ArgsUsage: "IMAGE NAME...",
		UsageText: "skiff tag alpine registry.example/base:1",
		Action:    action("tag", tag),
	}
}

func tag(c *cli.Context) error {
	if err := count(c, 2, -1, "which image, and what name?"); err != nil {
		return err
	}
	var names []string
	for _, name := range c.Args().Tail() {
		ref, err := newName(name)
		if err != nil {
			return err
		}
		names = append(names, ref)
	}
	r, err := openRunner(c)
	if err != nil {
		return err
	}
	img, err := lookImage(r, c.Args().First())
	if err != nil {
		return err
	}
	for _, name := range names {
		if name == img.Reference {
			continue
		}
		if err := r.Store.Tag(img, name); err != nil {
			return err
		}
		if img.Nameless() { // its record went with the first name
			if img, err = r.Store.Image(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// newName is the full reference of a name that an image may get.
func newName(name string) (string, error) {
	ref, err := pull.ParseReference(name)
	switch {
	case err != nil:
		return "", err
	case ref.Host == "":
		return "", &pull.ReferenceError{Name: name, Why: "it is no name for an image"}
	case ref.Digest != "":
		return "", &pull.ReferenceError{Name: name, Why: "a digest is given by what an image is, and not by a name"}
	}
	return ref.String(), nil
}

func untagCommand() *cli.Command {
	return &cli.Command{
		Name: "untag", Usage: "take names from an image, which stays", ArgsUsage: "IMAGE [NAME...]",
		UsageText: "skiff untag alpine\nskiff untag alpine registry.example/base:1",
		Action:    action("untag", untag),
	}
}

func untag(c *cli.Context) error {
	if err := count(c, 1, -1, "which image?"); err != nil {
		return err
	}
	r, err := openRunner(c)
	if err != nil {
		return err
	}
	img, err := lookImage(r, c.Args().First())
	if err != nil {
		return err
	}
	all, err := r.Store.Images()
	if err != nil {
		return err
	}
	has := map[string]bool{}
	var names []string
	for _, i := range all {
		if i.ID == img.ID && !i.Nameless() {
			has[i.Reference] = true
			names = append(names, i.Reference)
		}
	}
	if c.NArg() > 1 {
		names = nil
		for _, name := range c.Args().Tail() {
			ref, err := pull.ParseReference(name)
			if err != nil {
				return err
			}
			if !has[ref.String()] {
				return &verbError{verb: "untag", object: c.Args().First(), err: errors.New(ref.Familiar() + " is no name of it")}
			}
			names = append(names, ref.String())
		}
	}
	for _, name := range names {
		var absent *store.AbsentError
		if err := r.Store.Untag(name); err != nil && !errors.As(err, &absent) {
			return err
		}
	}
	return nil
}
