package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"skiff/pull/store"
	"skiff/run"
	"skiff/run/state"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"
)

func pruneFlags(what string) []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "all images that no container has, not only those without a name"},
		&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "do not ask"},
		&cli.StringSliceFlag{Name: "filter", Usage: what},
	}
}

func imagePruneCommand() *cli.Command {
	return &cli.Command{
		Name: "prune", Usage: "remove images that nothing needs", ArgsUsage: " ",
		UsageText: "skiff image prune\nskiff image prune -a -f --filter until=720h",
		Flags:     pruneFlags("only images that match `KEY=VALUE`: until or label"),
		Action:    action("image prune", imagePrune),
	}
}

func imagePrune(c *cli.Context) error {
	if err := count(c, 0, 0, ""); err != nil {
		return err
	}
	r, err := openRunner(c)
	if err != nil {
		return err
	}
	match, err := pruneFilter(r, c.StringSlice("filter"))
	if err != nil {
		return err
	}
	warning := "WARNING! This will remove all dangling images."
	if c.Bool("all") {
		warning = "WARNING! This will remove all images without at least one container associated to them."
	}
	if ok, err := confirm(c, warning); err != nil || !ok {
		return err
	}
	defer r.SweepBehind()
	freed, err := pruneImages(r, c.Bool("all"), match)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "Total reclaimed space: %s\n", size(freed))
	return nil
}

// pruneFilter knows what may be said of images that go.
func pruneFilter(r *run.Runner, filters []string) (func(*store.Image) bool, error) {
	for _, f := range filters {
		switch key, _, _ := strings.Cut(f, "="); key {
		case "until", "label", "label!", "dangling":
		default:
			return nil, fmt.Errorf("filter %q: there are until, label! and label", f)
		}
	}
	return imageFilter(r, filters)
}

// pruneImages removes the images that no container has, those without a name alone
// unless all is set, and what is left of others. It returns the bytes of the layers gone.
func pruneImages(r *run.Runner, all bool, match func(*store.Image) bool) (freed int64, err error) {
	images, err := r.Store.OwnImages()
	if err != nil {
		return 0, err
	}
	busy, err := busyImages(r)
	if err != nil {
		return 0, err
	}
	for _, i := range distinct(images) {
		if busy[i.ID.String()] || !all && !i.Nameless() || !match(i) {
			continue
		}
		removed, err := removeImage(r, i)
		var absent *store.AbsentError
		if err != nil && !errors.As(err, &absent) {
			return freed, err
		}
		freed += removed.Bytes
	}
	// No grace: what a pull needs is claimed, and who prunes wants the space now.
	removed, err := r.Store.Collect(context.Background(), r.InUse, 0)
	printDeleted(removed.Layers)
	return freed + removed.Bytes, err
}

// confirm asks as docker does. Nobody can be asked without a terminal.
func confirm(c *cli.Context, warning string) (bool, error) {
	if c.Bool("force") {
		return true, nil
	}
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return false, errors.New("there is no terminal to ask on; -f goes ahead without asking")
	}
	fmt.Fprintf(stdout, "%s\nAre you sure you want to continue? [y/N] ", warning)
	answer, _ := bufio.NewReader(os.Stdin).ReadString('\n')
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "y" || answer == "yes", nil
}

func systemPruneCommand() *cli.Command {
	return &cli.Command{
		Name: "prune", Usage: "remove stopped containers, images that nothing needs, and what killed processes left", ArgsUsage: " ",
		UsageText: "skiff system prune\nskiff system prune -a -f --filter until=720h",
		Flags:     pruneFlags("only containers and images that match `KEY=VALUE`: until or label"),
		Action:    action("system prune", systemPrune),
	}
}

func systemPrune(c *cli.Context) error {
	if err := count(c, 0, 0, ""); err != nil {
		return err
	}
	r, err := openRunner(c)
	if err != nil {
		return err
	}
	match, err := pruneFilter(r, c.StringSlice("filter"))
	if err != nil {
		return err
	}
	matchContainer, err := containerFilter(c.StringSlice("filter"))
	if err != nil {
		return err
	}
	kind := "dangling images"
	if c.Bool("all") {
		kind = "images without at least one container associated to them"
	}
	if ok, err := confirm(c, "WARNING! This will remove:\n  - all stopped containers\n  - all "+kind+"\n  - what is left of removed images\n"); err != nil || !ok {
		return err
	}
	defer r.SweepBehind()
	before, err := r.Store.Usage()
	if err != nil {
		return err
	}
	all, err := r.Containers().List()
	if err != nil {
		return err
	}
	var freed int64
	for _, l := range all {
		if l.Status != state.Stopped || !matchContainer(l) {
			continue
		}
		err := r.Remove(l.ID)
		if errors.Is(err, state.ErrAbsent) || errors.Is(err, state.ErrRunning) {
			continue
		}
		if err != nil {
			return fmt.Errorf("container %s: %w", l.Name, err)
		}
		freed += before.At["containers/"+l.ID]
		fmt.Fprintln(stdout, "Deleted: "+l.ID)
	}
	images, err := pruneImages(r, c.Bool("all"), match)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "Total reclaimed space: %s\n", size(freed+images))
	return nil
}

// containerFilter is pruneFilter for containers.
func containerFilter(filters []string) (func(state.Listed) bool, error) {
	var all []func(state.Listed) bool
	for _, f := range filters {
		key, value, _ := strings.Cut(f, "=")
		switch key {
		case "until":
			t, err := moment(value)
			if err != nil {
				return nil, err
			}
			all = append(all, func(l state.Listed) bool { return l.Created.Before(t) })
		case "label", "label!":
			k, v, exact := strings.Cut(value, "=")
			all = append(all, func(l state.Listed) bool {
				have, ok := l.Labels[k]
				return (ok && (!exact || have == v)) == (key == "label")
			})
		}
	}
	return func(l state.Listed) bool {
		for _, m := range all {
			if !m(l) {
				return false
			}
		}
		return true
	}, nil
}
