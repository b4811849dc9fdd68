package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"skiff/internal/again"
	"skiff/layers"
	"skiff/pull"
	"skiff/pull/store"
	"skiff/run"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/urfave/cli/v2"
)

func fsckCommand() *cli.Command {
	return &cli.Command{
		Name: "fsck", Usage: "verify every layer, image and blob that is here", ArgsUsage: " ",
		UsageText: "skiff fsck\nskiff fsck --repair && skiff pull alpine",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "repair", Usage: "drop what is damaged, so that the next pull brings it back"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print only what is damaged"},
			&cli.BoolFlag{Name: "json", Usage: "print JSON"},
		},
		Action: func(c *cli.Context) error {
			err := fsck(c)
			var status exitStatus
			if err == nil || errors.As(err, &status) {
				return err
			}
			return &verbError{verb: "fsck", err: err}
		},
	}
}

// fsck ends with 1 if something is damaged.
func fsck(c *cli.Context) error {
	if c.NArg() > 0 {
		return fmt.Errorf("argument %q: the whole store is verified", c.Args().First())
	}
	r, err := openRunner(c)
	if err != nil {
		return err
	}
	ctx, stop := interruptible(context.Background())
	defer stop()
	reader := run.NewLayerReader(r.Store, r.IDs)
	defer reader.Close()
	report, err := r.Store.Check(ctx, func(ctx context.Context, d v1.Hash) ([]string, error) { return checkLayer(ctx, reader, d) })
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	if c.Bool("json") {
		err = printJSON(report)
	} else {
		printReport(report, c.Bool("quiet"))
	}
	if len(report.Problems) == 0 || err != nil {
		return err
	}
	if c.Bool("repair") {
		if err := r.Store.Drop(ctx, report.Problems, r.InUse); err != nil {
			return err
		}
	}
	advise(report, c.Bool("repair"))
	return exitStatus(1)
}

// checkLayer says what is wrong with a layer.
func checkLayer(ctx context.Context, reader *run.LayerReader, d v1.Hash) ([]string, error) {
	state, err := reader.Check(ctx, d)
	var none *run.NoArchiveError
	switch {
	case errors.As(err, &none):
		return nil, store.ErrUnproved
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, layers.ErrWorker), again.Later(err):
		return nil, fmt.Errorf("layer %.12s: %w", d.Hex, err) // says nothing of the layer
	case err != nil:
		return []string{err.Error()}, nil
	}
	var why []string
	for _, damage := range state.Damages {
		why = append(why, damage.String())
	}
	if state.More > 0 {
		why = append(why, fmt.Sprintf("and %d more", state.More))
	}
	if why == nil && state.DiffID != d {
		why = []string{"its archive is " + state.DiffID.String()}
	}
	return why, nil
}

func printReport(r *store.Report, quiet bool) {
	for _, p := range r.Problems {
		line := p.What + " " + p.Name
		if len(p.Images) > 0 && p.What != "image" {
			line += " of " + strings.Join(familiar(p.Images), ", ")
		}
		fmt.Fprintln(stdout, printable(line)+":")
		for _, why := range p.Why {
			fmt.Fprintln(stdout, "  "+printable(why))
		}
	}
	if quiet {
		return
	}
	state := "clean"
	if n := len(r.Problems); n > 0 {
		state = fmt.Sprintf("%d damaged", n)
	}
	if n := len(r.Unproved); n > 0 {
		state += fmt.Sprintf(", of %d layers there is no record to verify them by", n)
	}
	fmt.Fprintf(stdout, "%d images, %d layers, %d blobs: %s\n", r.Images, r.Layers, r.Blobs, state)
}

// advise says how to get back what is damaged.
func advise(r *store.Report, repaired bool) {
	seen := map[string]bool{}
	var again []string
	for _, p := range r.Problems {
		for _, ref := range p.Images {
			if !seen[ref] {
				seen[ref] = true
				again = append(again, "`skiff pull "+pull.Familiar(ref)+"`")
			}
		}
	}
	brings := "nothing needs it"
	if len(again) > 0 {
		brings = strings.Join(again[:min(len(again), 5)], ", ") + " brings it back"
	}
	if repaired {
		say("hint: what was damaged is dropped; %s", brings)
	} else {
		say("hint: `skiff fsck --repair` drops what is damaged; then %s", brings)
	}
}

func familiar(refs []string) []string {
	var list []string
	for _, r := range refs {
		list = append(list, pull.Familiar(r))
	}
	return list
}
