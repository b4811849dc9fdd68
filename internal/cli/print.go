package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"skiff/internal/format"

	"github.com/docker/go-units"
	"github.com/urfave/cli/v2"
)

func printJSON(v any) error {
	e := json.NewEncoder(stdout)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

func ago(t time.Time) string {
	if t.IsZero() {
		return "unknown"
	}
	return units.HumanDuration(time.Since(t)) + " ago"
}

// at is a time as docker's tables have it.
func at(t time.Time) string {
	if t.IsZero() {
		return "unknown"
	}
	return t.Local().Format("2006-01-02 15:04:05 -0700 MST")
}

func size(n int64) string { return units.HumanSizeWithPrecision(float64(n), 3) }

func formatFlag() cli.Flag {
	return &cli.StringFlag{Name: "format", Usage: "print each as the Go `TEMPLATE` says, \"table TEMPLATE\" with a heading, or \"json\" as lines of JSON"}
}

// listFlags are those of every table.
func listFlags(what string) []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print ids alone"},
		&cli.BoolFlag{Name: "no-trunc", Usage: "print " + what + " whole"},
		formatFlag(),
		&cli.BoolFlag{Name: "noheading", Aliases: []string{"n"}, Usage: "print no heading"},
		&cli.BoolFlag{Name: "json", Usage: "print one JSON array"},
	}
}

// printRows prints rows by the flags of listFlags: --json is an array, as podman has it, and
// --format json lines, as docker does.
func printRows[T any](c *cli.Context, columns string, rows []T) error {
	if c.Bool("json") {
		return format.Array(stdout, rows)
	}
	f, err := format.Parse(c.String("format"), columns)
	if err != nil {
		return err
	}
	return format.Rows(f, stdout, !c.Bool("noheading"), rows)
}

// count refuses a command with fewer or more arguments; most < 0 is any number.
// question is what to say when there are too few.
func count(c *cli.Context, least, most int, question string) error {
	switch n := c.NArg(); {
	case n < least:
		return errors.New(question)
	case most == 0 && n > 0:
		return fmt.Errorf("argument %q: it takes none", c.Args().First())
	case most >= 0 && n > most:
		return fmt.Errorf("argument %q is one too many", c.Args().Get(most))
	}
	return nil
}

// action names the verb in whatever error a command ends with.
func action(verb string, do func(*cli.Context) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		err := do(c)
		var status exitStatus
		var named *verbError
		if err == nil || errors.As(err, &status) || errors.As(err, &named) {
			return err
		}
		return &verbError{verb: verb, err: err}
	}
}

// group is a command of subcommands.
func group(name, usage string, commands ...*cli.Command) *cli.Command {
	for _, sub := range commands {
		sub.Flags = ready(sub.Flags)
		sub.OnUsageError, sub.UseShortOptionHandling = usageError, true
	}
	return &cli.Command{
		Name: name, Usage: usage, Subcommands: commands,
		Action: func(c *cli.Context) error {
			if c.NArg() > 0 {
				return fmt.Errorf("%s %s: no such command; see `skiff %s --help`", name, c.Args().First(), name)
			}
			return cli.ShowSubcommandHelp(c)
		},
	}
}

// renamed is a command under another name, as `image ls` is `images`.
func renamed(c *cli.Command, name string, aliases ...string) *cli.Command {
	c.Name, c.Aliases = name, aliases
	return c
}
