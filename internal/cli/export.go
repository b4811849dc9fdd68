package cli

import (
	"bufio"
	"context"
	"errors"
	"os"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"
)

func exportCommand() *cli.Command {
	return &cli.Command{
		Name: "export", Usage: "write a container's files as one tar archive", ArgsUsage: "CONTAINER",
		UsageText: "skiff export -o files.tar box\nskiff export box | tar t",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "write to `FILE` instead of stdout"},
		},
		Action: func(c *cli.Context) error {
			err := export(c)
			var status exitStatus
			if err == nil || errors.As(err, &status) {
				return err
			}
			return &verbError{verb: "export", object: c.Args().First(), err: err}
		},
	}
}

func export(c *cli.Context) error {
	if err := count(c, 1, 1, "which container?"); err != nil {
		return err
	}
	output := c.String("output")
	toStdout := output == "" || output == "-"
	if toStdout && term.IsTerminal(int(os.Stdout.Fd())) {
		return errors.New("an archive is not for a terminal; use -o FILE, or redirect stdout")
	}
	if toStdout && stdoutClosed() {
		return errors.New("stdout is closed; name a file with -o")
	}
	r, err := openRunner(c)
	if err != nil {
		return err
	}
	// A name that is not there must not cost an older file its place.
	if _, err := r.Containers().Find(c.Args().First()); err != nil {
		return err
	}
	if done, err := within(r); done || err != nil {
		return err
	}
	ctx, stop := interruptible(context.Background())
	defer stop()
	write := func(f *os.File) error {
		w := bufio.NewWriterSize(f, 256<<10)
		if err := r.Export(ctx, c.Args().First(), w); err != nil {
			return err
		}
		return w.Flush()
	}
	if toStdout {
		return await(ctx, func() error { return write(os.Stdout) })
	}
	return await(ctx, func() error { return replaceFile(output, write) })
}
