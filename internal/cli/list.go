package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"skiff/pull"
	"skiff/pull/store"
	"skiff/run"
	"skiff/run/state"

	"github.com/docker/go-units"
	"github.com/urfave/cli/v2"
)

func printJSON(v any) error {
	e := json.NewEncoder(stdout)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// table prints rows in columns three spaces apart, as docker does.
func table(rows [][]string) {
	w := tabwriter.NewWriter(stdout, 0, 4, 3, ' ', 0)
	for _, r := range rows {
		fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	w.Flush()
}

func ago(t time.Time) string {
	if t.IsZero() {
		return "unknown"
	}
	return units.HumanDuration(time.Since(t)) + " ago"
}

func imagesCommand() *cli.Command {
	return &cli.Command{
		Name: "images", Usage: "list the images that are here",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print ids alone"},
			&cli.BoolFlag{Name: "json", Usage: "print JSON"},
		},
		Action: func(c *cli.Context) error {
			r, err := openRunner(c)
			if err != nil {
				return &verbError{verb: "images", err: err}
			}
			images, err := r.Store.Images()
			if err != nil {
				return &verbError{verb: "images", err: err}
			}
			if c.Bool("json") {
				return printJSON(images)
			}
			rows := [][]string{{"REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"}}
			for _, i := range images {
				if c.Bool("quiet") {
					fmt.Fprintln(stdout, i.ID.Hex[:12])
					continue
				}
				name, tag := splitReference(i.Reference)
				rows = append(rows, []string{name, tag, i.ID.Hex[:12], ago(i.Created), units.HumanSize(float64(i.Size))})
			}
			if !c.Bool("quiet") {
				table(rows)
			}
			return nil
		},
	}
}

// lookImage finds an image by reference as typed, or by id.
func lookImage(r *run.Runner, name string) (*store.Image, error) {
	if ref, err := pull.ParseReference(name); err == nil {
		if img, err := r.Store.Image(ref.String()); err == nil || !errors.Is(err, fs.ErrNotExist) {
			return img, err
		}
	}
	return r.Store.ImageByID(name)
}

// splitReference is a reference as docker shows it: without docker.io/library.
func splitReference(ref string) (name, tag string) {
	name, tag = ref, "<none>"
	if at := strings.Index(name, "@"); at >= 0 {
		name = name[:at]
	}
	if colon := strings.LastIndex(name, ":"); colon > strings.LastIndex(name, "/") {
		name, tag = name[:colon], name[colon+1:]
	}
	name = strings.TrimPrefix(strings.TrimPrefix(name, "docker.io/"), "library/")
	return name, tag
}

func rmiCommand() *cli.Command {
	return &cli.Command{
		Name: "rmi", Usage: "remove images", ArgsUsage: "IMAGE...",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "also those that containers use, whose layers stay as long as they do"},
		},
		Action: func(c *cli.Context) error {
			r, err := openRunner(c)
			if err != nil {
				return &verbError{verb: "rmi", err: err}
			}
			if c.NArg() == 0 {
				return &verbError{verb: "rmi", err: errors.New("which image?")}
			}
			status := 0
			for _, name := range c.Args().Slice() {
				img, err := lookImage(r, name)
				if err == nil && !c.Bool("force") {
					err = r.Unused(img)
				}
				if err == nil {
					_, err = r.Store.RemoveImage(context.Background(), img.Reference, r.InUse)
				}
				if err != nil {
					complain(os.Stderr, &verbError{verb: "rmi", object: name, err: err})
					var inUse *run.InUseError
					switch {
					case errors.Is(err, fs.ErrNotExist):
						if !c.Bool("force") {
							status = max(status, 1)
						}
					case errors.As(err, &inUse):
						status = max(status, 2)
					default:
						status = 125
					}
					continue
				}
				fmt.Fprintln(stdout, "Untagged: "+img.Reference)
			}
			if status != 0 {
				return exitStatus(status)
			}
			return nil
		},
	}
}

func psCommand() *cli.Command {
	return &cli.Command{
		Name: "ps", Usage: "list containers",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "stopped ones too"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print ids alone"},
			&cli.BoolFlag{Name: "no-trunc", Usage: "print whole ids and commands"},
			&cli.BoolFlag{Name: "json", Usage: "print JSON"},
		},
		Action: psAction,
	}
}

func psAction(c *cli.Context) error {
	r, err := openRunner(c)
	if err != nil {
		return &verbError{verb: "ps", err: err}
	}
	r.Sweep()
	all, err := r.Containers().List()
	if err != nil {
		return &verbError{verb: "ps", err: err}
	}
	shown := []state.Listed{}
	for _, l := range all {
		if l.Status == state.Running || c.Bool("all") {
			shown = append(shown, l)
		}
	}
	if c.Bool("json") {
		return printJSON(shown)
	}
	rows := [][]string{{"CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "NAMES"}}
	for _, l := range shown {
		id, command := l.ID, strings.Join(l.Command, " ")
		if !c.Bool("no-trunc") {
			id = id[:12]
			if runes := []rune(command); len(runes) > 20 {
				command = string(runes[:19]) + "…"
			}
		}
		if c.Bool("quiet") {
			fmt.Fprintln(stdout, id)
			continue
		}
		rows = append(rows, []string{id, l.Image, printable(fmt.Sprintf("%q", command)), ago(l.Created), statusText(l), l.Name})
	}
	if !c.Bool("quiet") {
		table(rows)
	}
	return nil
}

func statusText(l state.Listed) string {
	if l.Status == state.Running {
		return "Up " + units.HumanDuration(time.Since(l.Created))
	}
	if l.Finished.IsZero() {
		return "Killed"
	}
	return fmt.Sprintf("Exited (%d) %s", l.ExitCode, ago(l.Finished))
}

func rmCommand() *cli.Command {
	return &cli.Command{
		Name: "rm", Usage: "remove containers", ArgsUsage: "CONTAINER...",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "kill those that run; be content if there is none"},
		},
		Action: func(c *cli.Context) error {
			r, err := openRunner(c)
			if err != nil {
				return &verbError{verb: "rm", err: err}
			}
			if c.NArg() == 0 {
				return &verbError{verb: "rm", err: errors.New("which container?")}
			}
			status := 0
			for _, name := range c.Args().Slice() {
				remove := r.Remove
				if c.Bool("force") {
					remove = r.Kill
				}
				err := remove(name)
				if c.Bool("force") && errors.Is(err, state.ErrAbsent) {
					continue
				}
				if err != nil {
					complain(os.Stderr, &verbError{verb: "rm", object: name, err: err})
					switch {
					case errors.Is(err, state.ErrAbsent):
						status = max(status, 1)
					case errors.Is(err, state.ErrRunning):
						status = max(status, 2)
					default:
						status = 125
					}
					continue
				}
				fmt.Fprintln(stdout, name)
			}
			if status != 0 {
				return exitStatus(status)
			}
			return nil
		},
	}
}
