package cli

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"skiff/internal/format"
	"skiff/run/state"

	"github.com/docker/go-units"
	"github.com/urfave/cli/v2"
)

func psCommand() *cli.Command {
	return &cli.Command{
		Name: "ps", Usage: "list containers",
		UsageText: "skiff ps -a\nskiff ps --format '{{.Names}} {{.Status}}'",
		Flags: append(listFlags("ids and commands"),
			&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "stopped ones too"}),
		Action: action("ps", ps),
	}
}

// A containerRow is a container as docker lists it.
type containerRow struct {
	Command    string
	CreatedAt  string
	ID         string `title:"CONTAINER ID"`
	Image      string
	Labels     string
	Names      string
	Ports      string
	RunningFor string `title:"CREATED"`
	State      string
	Status     string

	listed state.Listed
}

// Label is docker's: the value of one label.
func (r containerRow) Label(key string) string { return r.listed.Labels[key] }

// Created is podman's name for RunningFor.
func (r containerRow) Created() string { return r.RunningFor }

// ImageID is podman's.
func (r containerRow) ImageID() string { return r.listed.ImageID }

// Pid is podman's.
func (r containerRow) Pid() int { return r.listed.PID }

// ExitCode is podman's.
func (r containerRow) ExitCode() int { return r.listed.ExitCode }

func ps(c *cli.Context) error {
	if err := count(c, 0, 0, ""); err != nil {
		return err
	}
	r, err := openRunner(c)
	if err != nil {
		return err
	}
	r.Sweep()
	all, err := r.Containers().List()
	if err != nil {
		return err
	}
	shown := []state.Listed{}
	for _, l := range all {
		if l.Status == state.Running || c.Bool("all") {
			shown = append(shown, l)
		}
	}
	if c.Bool("json") {
		return format.Array(stdout, shown)
	}
	rows := []containerRow{}
	for _, l := range shown {
		rows = append(rows, containerRowOf(l, c.Bool("no-trunc")))
	}
	if c.Bool("quiet") && c.String("format") == "" {
		for _, row := range rows {
			fmt.Fprintln(stdout, row.ID)
		}
		return nil
	}
	return printRows(c, `{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}`, rows)
}

func containerRowOf(l state.Listed, whole bool) containerRow {
	id, command := l.ID, strings.Join(l.Command, " ")
	if !whole {
		id = id[:12]
		if runes := []rune(command); len(runes) > 20 {
			command = string(runes[:19]) + "…"
		}
	}
	var pairs []string
	for k, v := range l.Labels {
		pairs = append(pairs, k+"="+v)
	}
	slices.Sort(pairs)
	return containerRow{
		Command: printable(fmt.Sprintf("%q", command)), CreatedAt: at(l.Created), ID: id, Image: l.Image,
		Labels: printable(strings.Join(pairs, ",")), Names: l.Name, Ports: portsColumn(portsOf(l)), RunningFor: ago(l.Created), State: dockerState(l), Status: statusText(l), listed: l,
	}
}

// dockerState is a container's state in docker's words.
func dockerState(l state.Listed) string {
	if l.Status == state.Running {
		return "running"
	}
	return "exited"
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
