package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"skiff/pull"
	"skiff/pull/store"
	"skiff/run"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/urfave/cli/v2"
)

func rmiCommand() *cli.Command {
	return &cli.Command{
		Name: "rmi", Usage: "remove images", ArgsUsage: "IMAGE...",
		UsageText: "skiff rmi alpine\nskiff rmi $(skiff images -q -f dangling=true)",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "all images"},
			&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "also those that containers use, whose layers stay as long as they do; by an id all its names; be content if there is none"},
			&cli.BoolFlag{Name: "ignore", Aliases: []string{"i"}, Usage: "be content if there is none"},
			&cli.BoolFlag{Name: "no-prune", Usage: "keep parents without a name, of which skiff has none"},
		},
		Action: action("rmi", rmi),
	}
}

// rmi ends with 1 if an image was not here, with 2 if one is in use.
func rmi(c *cli.Context) error {
	if c.Bool("all") {
		if err := count(c, 0, 0, ""); err != nil {
			return err
		}
	} else if err := count(c, 1, -1, "which image?"); err != nil {
		return err
	}
	r, err := openRunner(c)
	if err != nil {
		return err
	}
	names := c.Args().Slice()
	if c.Bool("all") {
		all, err := r.Store.OwnImages()
		if err != nil {
			return err
		}
		for _, i := range all {
			names = append(names, i.Reference)
		}
	}
	defer r.SweepBehind()
	status := 0
	for _, name := range names {
		err := removeNamed(r, name, c.Bool("force"))
		if err == nil {
			continue
		}
		absent := errors.Is(err, fs.ErrNotExist)
		if absent && c.Bool("ignore") {
			continue
		}
		complain(os.Stderr, &verbError{verb: "rmi", object: name, err: err})
		var inUse *run.InUseError
		switch {
		case absent && c.Bool("force"):
		case absent:
			status = max(status, 1)
		case errors.As(err, &inUse):
			status = max(status, 2)
		default:
			status = 125
		}
	}
	if status != 0 {
		return exitStatus(status)
	}
	return nil
}

// A sharedError is an image that was named by its id and has several names.
type sharedError struct {
	id    string
	names []string
}

func (e *sharedError) Error() string {
	return fmt.Sprintf("image %.12s has the names %s", e.id, strings.Join(e.names, ", "))
}

// removeNamed removes what a word means: a name, or an image by its id.
func removeNamed(r *run.Runner, name string, force bool) error {
	found, byID, err := lookImages(r, name)
	if err != nil {
		return err
	}
	if named := repoTags(found...); byID && len(named) > 1 && !force {
		return &sharedError{found[0].ID.Hex, named}
	}
	for _, i := range found {
		if !force {
			if err := r.Unused(i); err != nil {
				return err
			}
		}
		if _, err := removeImage(r, i); err != nil {
			return err
		}
	}
	return nil
}

// removeImage removes one record and prints what went with it, as docker does.
func removeImage(r *run.Runner, i *store.Image) (store.Removed, error) {
	removed, err := r.Store.RemoveImage(context.Background(), i.Reference, r.InUse)
	if err != nil {
		return removed, err
	}
	if !i.Nameless() {
		fmt.Fprintln(stdout, "Untagged: "+pull.Familiar(i.Reference))
	}
	left, err := r.Store.OwnImages()
	if err != nil {
		return removed, err
	}
	for _, other := range left {
		if other.ID == i.ID && !other.Nameless() {
			return removed, nil
		}
	}
	for _, other := range left {
		if other.ID == i.ID { // it was kept without a name too, and goes with its last one
			if removed, err = r.Store.RemoveImage(context.Background(), other.Reference, r.InUse); err != nil {
				return removed, err
			}
		}
	}
	fmt.Fprintln(stdout, "Deleted: "+i.ID.String())
	printDeleted(removed.Layers)
	return removed, nil
}

func printDeleted(layers []v1.Hash) {
	for _, l := range layers {
		fmt.Fprintln(stdout, "Deleted: "+l.String())
	}
}
