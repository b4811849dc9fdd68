package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"skiff/run"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"
)

func runCommand() *cli.Command {
	return &cli.Command{
		Name:      "run",
		Usage:     "run a command in a new container",
		UsageText: "skiff run -it alpine sh\nskiff run --rm -v .:/src -w /src golang go build\nskiff run --network none alpine true",
		ArgsUsage: "IMAGE [COMMAND [ARG...]]",
		Flags:     runFlags(),
		Action:    runAction,
	}
}

func explainCommand() *cli.Command {
	return &cli.Command{
		Name:  "explain",
		Usage: "print what a run would do, without doing it",
		Subcommands: []*cli.Command{{
			Name: "run", Usage: "explain `skiff run`", ArgsUsage: "IMAGE [COMMAND [ARG...]]",
			Flags:        append(runFlags(), &cli.BoolFlag{Name: "json", Usage: "print JSON"}),
			Action:       explainAction,
			OnUsageError: usageError, UseShortOptionHandling: true,
		}},
	}
}

// runFlags are in the order in which --help shows them.
func runFlags() []cli.Flag {
	return append([]cli.Flag{
		&cli.BoolFlag{Name: "interactive", Aliases: []string{"i"}, Usage: "keep stdin open"},
		&cli.BoolFlag{Name: "tty", Aliases: []string{"t"}, Usage: "give the program a terminal"},
		&cli.BoolFlag{Name: "rm", Usage: "remove the container when it ends"},
		&cli.StringFlag{Name: "name", Usage: "call the container `NAME`"},
		&cli.StringSliceFlag{Name: "env", Aliases: []string{"e"}, Usage: "set `KEY=VALUE`, or pass KEY on from here"},
		&cli.StringSliceFlag{Name: "env-file", Usage: "read variables from `FILE`"},
		&cli.StringFlag{Name: "workdir", Aliases: []string{"w"}, Usage: "start in `DIR` of the container"},
		&cli.StringFlag{Name: "user", Aliases: []string{"u"}, Usage: "run as `USER[:GROUP]`"},
		&cli.StringSliceFlag{Name: "group-add", Usage: "join `GROUP` as well"},
		&cli.StringFlag{Name: "entrypoint", Usage: "run `PROGRAM` instead of the image's entrypoint; a JSON array is accepted"},
		&cli.StringFlag{Name: "hostname", Aliases: []string{"h"}, Usage: "set the host name to `NAME`"},
		&cli.StringSliceFlag{Name: "label", Aliases: []string{"l"}, Usage: "label the container `KEY=VALUE`"},
		&cli.StringSliceFlag{Name: "volume", Aliases: []string{"v"}, Usage: "show a directory of the host: `HOST:CONTAINER[:ro]`"},
		&cli.StringSliceFlag{Name: "mount", Usage: "mount `type=bind,src=…,dst=…` or type=tmpfs,dst=…"},
		&cli.StringSliceFlag{Name: "tmpfs", Usage: "mount a file system in memory at `DIR[:OPTIONS]`"},
		&cli.BoolFlag{Name: "read-only", Usage: "make the root file system read-only"},
		&cli.BoolFlag{Name: "read-only-tmpfs", Value: true, Usage: "with --read-only, keep /run, /tmp and /var/tmp writable"},
		&cli.StringFlag{Name: "network", Aliases: []string{"net"}, EnvVars: []string{"SKIFF_NETWORK"}, Usage: "`MODE` of the network: default (an address of its own), none or host; default:allow_host_loopback=true opens the host's loopback"},
		&cli.StringSliceFlag{Name: "add-host", Usage: "add `NAME:ADDRESS` to /etc/hosts"},
		&cli.StringSliceFlag{Name: "dns", Usage: "use nameserver `ADDRESS`"},
		&cli.StringSliceFlag{Name: "dns-search", Usage: "search names in `DOMAIN`"},
		&cli.StringSliceFlag{Name: "dns-option", Aliases: []string{"dns-opt"}, Usage: "add resolver `OPTION`"},
		&cli.StringSliceFlag{Name: "cap-add", Usage: "grant `CAPABILITY`, or ALL"},
		&cli.StringSliceFlag{Name: "cap-drop", Usage: "take `CAPABILITY` away, or ALL"},
		&cli.StringSliceFlag{Name: "security-opt", Usage: "`OPTION` seccomp=FILE, seccomp=unconfined or no-new-privileges"},
		&cli.BoolFlag{Name: "privileged", Usage: "all capabilities, no filter, nothing masked"},
		&cli.StringFlag{Name: "userns", Usage: "`MODE` of the user namespace: host"},
		&cli.StringFlag{Name: "shm-size", Value: "64m", Usage: "`SIZE` of /dev/shm"},
		&cli.BoolFlag{Name: "init", Usage: "run the program under an init that reaps processes and passes signals on"},
		&cli.StringFlag{Name: "stop-signal", Usage: "the `SIGNAL` that asks the program to end"},
		&cli.StringSliceFlag{Name: "ulimit", Usage: "set a limit `NAME=SOFT[:HARD]`"},
		&cli.StringFlag{Name: "cidfile", Usage: "write the container's id to `FILE`"},
	}, append(publishFlags(), pullFlags()...)...)
}

func runAction(c *cli.Context) error {
	name := c.Args().First()
	err := runImage(c, name)
	var status exitStatus
	if err == nil || errors.As(err, &status) {
		return err
	}
	return &verbError{verb: "run", object: name, err: err}
}

func runImage(c *cli.Context, name string) error {
	o, err := runOptions(c)
	if err != nil {
		return err
	}
	r, err := openRunner(c)
	if err != nil {
		return err
	}
	r.Early = early
	ctx := context.Background()
	for try := 1; ; try++ {
		img, err := ensureImage(ctx, c, r, name)
		if err != nil {
			return err
		}
		status, err := r.Run(ctx, o, img.Image, img.Settle)
		if errors.Is(err, run.ErrLayerGone) && try < 20 {
			time.Sleep(time.Duration(try) * time.Millisecond) // whoever has it in hand gives it back
			continue
		}
		if err != nil {
			return err
		}
		if status != 0 {
			return exitStatus(status)
		}
		return nil
	}
}

func runOptions(c *cli.Context) (*run.Options, error) {
	o := &run.Options{
		Image: c.Args().First(), Name: c.String("name"), CIDFile: c.String("cidfile"), Remove: c.Bool("rm"), Init: c.Bool("init"),
		Interactive: c.Bool("interactive"), Terminal: c.Bool("tty"),
		Workdir: c.String("workdir"), User: c.String("user"), Groups: c.StringSlice("group-add"),
		Hostname: c.String("hostname"), StopSignal: c.String("stop-signal"), Umask: 0o022,
		ReadOnly: c.Bool("read-only"), CapAdd: c.StringSlice("cap-add"), CapDrop: c.StringSlice("cap-drop"),
		Privileged: c.Bool("privileged"),
		Trace:      run.Traced(),
	}
	if o.Terminal {
		o.Console = run.ConsoleSize()
	}
	if c.NArg() > 1 {
		o.Command = c.Args().Tail()
	}
	for _, list := range []struct {
		flag string
		to   *[]string
	}{{"dns", &o.DNS}, {"dns-search", &o.DNSSearch}, {"dns-option", &o.DNSOptions}} {
		if c.IsSet(list.flag) {
			*list.to = c.StringSlice(list.flag)
		}
	}
	for _, parse := range []func(*cli.Context, *run.Options) error{
		parseNames, parseEntrypoint, parseEnv, parseLabels, parseMounts, parseNetwork,
		parsePublish, parseHosts, parseSecurity, parseSizes, parseUlimits,
	} {
		if err := parse(c, o); err != nil {
			return nil, err
		}
	}
	if o.Terminal && o.Interactive && !term.IsTerminal(int(os.Stdin.Fd())) {
		say("stdin is not a terminal")
	}
	return o, nil
}

func explainAction(c *cli.Context) error {
	name := c.Args().First()
	wrap := func(err error) error { return &verbError{verb: "explain run", object: name, err: err} }
	o, err := runOptions(c)
	if err != nil {
		return wrap(err)
	}
	r, err := openRunner(c)
	if err != nil {
		return wrap(err)
	}
	img, err := ensureImage(context.Background(), c, r, name)
	if err != nil {
		return wrap(err)
	}
	spec, plan, err := r.Explain(o, img.Image)
	if err != nil {
		return wrap(err)
	}
	if c.Bool("json") {
		return printJSON(struct {
			Spec *run.Spec
			Plan []string
		}{spec, plan})
	}
	for i, line := range plan {
		fmt.Fprintf(stdout, "%3d  %s\n", i, line)
	}
	return nil
}
