// Package cli is the command line: it reads arguments, calls package run, and
// alone speaks to the user.
//
// Limits: every decision about containers is made elsewhere; here are words,
// tables and exit statuses.
package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"skiff/layers"
	"skiff/pull"
	"skiff/pull/push"
	"skiff/run"

	"github.com/urfave/cli/v2"
)

// verbs is the table of what skiff does.
var verbs = []struct {
	name    string
	command func() *cli.Command
}{
	{"run", runCommand}, {"explain", explainCommand},
	{"pull", pullCommand}, {"push", pushCommand}, {"login", loginCommand}, {"logout", logoutCommand}, {"search", searchCommand},
	{"images", imagesCommand}, {"image", imageCommand}, {"rmi", rmiCommand}, {"tag", tagCommand}, {"untag", untagCommand},
	{"history", historyCommand}, {"inspect", inspectCommand}, {"manifest", manifestCommand}, {"save", saveCommand}, {"load", loadCommand}, {"export", exportCommand}, {"import", importCommand}, {"lock", lockCommand},
	{"ps", psCommand}, {"port", portCommand}, {"rm", rmCommand},
	{"network", networkCommand}, {"system", systemCommand}, {"gc", gcCommand}, {"fsck", fsckCommand}, {"info", infoCommand}, {"doctor", doctorCommand},
	{"version", versionCommand}, {run.SweepVerb, sweepCommand}, {run.WithinVerb, withinCommand},
}

// commands makes the command that is asked for, or all of them where that is
// not plain from the first word. Each has dozens of flags, which cost a start
// their time.
func commands(args []string) []*cli.Command {
	var list []*cli.Command
	for _, v := range verbs {
		if len(args) > 1 && args[1] == v.name {
			return []*cli.Command{v.command()}
		}
		list = append(list, v.command())
	}
	return list
}

// Tools are handed in, for they cost a start more than all the rest; see package
// registry.
type Tools struct {
	Open       pull.Opener
	OpenPush   push.Opener
	OpenLogins func(pull.Access) pull.Logins
	Decompress layers.Decompressor
	Compress   func(io.Writer, layers.Compression, int) (io.WriteCloser, error)
	Umask      int // as the user has it; the process has 022

	// ConfigFiles are the files about registries that there are.
	ConfigFiles func() []string
}

// What Main is handed.
var (
	tools Tools
	early *run.Early // for run
)

// Main runs one command and returns its exit status. It is handed a container's
// init that was started before the command line was read, or nil.
func Main(args []string, t Tools, anticipated *run.Early) int {
	tools, early = t, anticipated
	defer early.Abandon()
	if len(args) == 2 && args[1] == helloName {
		return hello()
	}
	// -h is docker's --hostname.
	cli.HelpFlag = &cli.BoolFlag{Name: "help", Usage: "show help", DisableDefaultText: true}
	app := &cli.App{
		Name:                      "skiff",
		Usage:                     "run containers without a daemon",
		UsageText:                 "skiff run -it alpine sh\nskiff run --rm -v .:/src golang go test ./...\nskiff run builtin:hello",
		HideVersion:               true,
		Flags:                     []cli.Flag{rootFlag(), &cli.BoolFlag{Name: "version", Aliases: []string{"v"}, Usage: "print the version"}},
		Commands:                  commands(args),
		UseShortOptionHandling:    true,
		DisableSliceFlagSeparator: true,
		ExitErrHandler:            func(*cli.Context, error) {},
		OnUsageError:              usageError,
		CommandNotFound:           nil,
		Action: func(c *cli.Context) error {
			if c.Bool("version") {
				fmt.Fprintln(stdout, "skiff version "+version())
				return nil
			}
			if c.NArg() > 0 {
				return fmt.Errorf("%s: no such command; see `skiff --help`", c.Args().First())
			}
			return cli.ShowAppHelp(c)
		},
	}
	app.Flags = ready(app.Flags)
	for _, c := range app.Commands {
		c.Flags = ready(c.Flags)
		c.OnUsageError = usageError
		c.UseShortOptionHandling = true
	}
	app.Writer = stdout
	err := app.Run(permute(args, app.Commands))
	if err == nil {
		err = stdout.err
	}
	var status exitStatus
	if errors.As(err, &status) {
		return int(status)
	}
	if err != nil {
		complain(os.Stderr, err)
	}
	var ended *interrupted
	if errors.As(err, &ended) {
		return 128 + int(ended.signal)
	}
	return run.StatusOf(err)
}

// An exitStatus is how a command ended that has already said what there was to say.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

func usageError(c *cli.Context, err error, _ bool) error {
	if c.Command.Name == c.App.Name {
		return fmt.Errorf("%w; see `skiff --help`", err)
	}
	return &verbError{verb: c.Command.Name, err: err, usage: true}
}

// sweepCommand is what a command leaves deletions to; see run.SweepBehind.
func sweepCommand() *cli.Command {
	return &cli.Command{
		Name: run.SweepVerb, Usage: "delete what commands have left to be deleted", Hidden: true,
		Action: action(run.SweepVerb, func(c *cli.Context) error {
			if err := count(c, 0, 0, ""); err != nil {
				return err
			}
			r, err := openRunner(c)
			if err != nil {
				return err
			}
			r.Sweep()
			return nil
		}),
	}
}

// withinCommand is what a command reads a user's store with; see run.Within.
func withinCommand() *cli.Command {
	return &cli.Command{
		Name: run.WithinVerb, Usage: "run skiff in the user namespace of its containers", Hidden: true,
		Action: action(run.WithinVerb, func(c *cli.Context) error { return run.EnterWithin(c.Args().Slice()) }),
	}
}

// within runs the same command line once more where all files of the store can be
// read, if that makes a difference; it is done then.
func within(r *run.Runner) (done bool, err error) {
	if !r.WantsWithin() {
		return false, nil
	}
	status, err := r.Within(os.Args[1:], passSignals)
	if err != nil {
		return false, err
	}
	if status != 0 {
		return true, exitStatus(status)
	}
	return true, nil
}

// passSignals leaves the signals that would end this process to another one, which may
// have to clean up: whoever waits for this one shall find that done.
func passSignals(to *os.Process) (stop func()) {
	caught := make(chan os.Signal, 4)
	signal.Notify(caught, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	ended := make(chan struct{})
	go func() {
		for {
			select {
			case s := <-caught:
				to.Signal(s)
			case <-ended:
				return
			}
		}
	}()
	return func() {
		signal.Stop(caught)
		close(ended)
	}
}
