package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"

	"skiff/internal/progress"
	"skiff/pull"
	"skiff/pull/archive"
	"skiff/pull/manifest"
	"skiff/pull/store"
	"skiff/run"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/urfave/cli/v2"
	"golang.org/x/term"
)

func importCommand() *cli.Command {
	return &cli.Command{
		Name: "import", Usage: "make an image of one layer from a tar archive of a root file system", ArgsUsage: "FILE|- [NAME[:TAG]]",
		UsageText: "skiff import -c 'CMD [\"sh\"]' files.tar mine:1\nskiff export box | skiff import - mine",
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "change", Aliases: []string{"c"}, Usage: "write into the config what the Dockerfile's `INSTRUCTION` would: " + strings.Join(changes[:], " ")},
			&cli.StringFlag{Name: "message", Aliases: []string{"m"}, Usage: "the `COMMENT` in the image's history"},
			&cli.StringFlag{Name: "platform", Usage: "what the programs are for, `OS/ARCH[/VARIANT]`, if not this machine"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "show no progress"},
		},
		Action: func(c *cli.Context) error {
			if err := importTree(c); err != nil {
				return &verbError{verb: "import", object: c.Args().First(), err: err}
			}
			return nil
		},
	}
}

func importTree(c *cli.Context) error {
	if err := count(c, 1, 2, "which file? - is stdin"); err != nil {
		return err
	}
	from := c.Args().First()
	var ref pull.Reference
	if c.NArg() == 2 {
		name, err := newName(c.Args().Get(1))
		if err != nil {
			return err
		}
		if ref, err = pull.ParseReference(name); err != nil {
			return err
		}
	}
	if err := importable(from); err != nil {
		return err
	}
	want, err := wanted(c)
	if err != nil {
		return err
	}
	config, err := importedConfig(c, want)
	if err != nil {
		return err
	}
	r, err := openRunner(c)
	if err != nil {
		return err
	}
	if err := r.Store.Writable(); err != nil {
		return err
	}
	defer r.SweepBeside()()
	ctx, stop := interruptible(context.Background())
	defer stop()
	var in input
	defer in.remove()
	if err := await(ctx, func() error { return in.open(ctx, from, r.Store) }); err != nil {
		return err
	}
	source, err := archive.OpenTree(ctx, in.path, config)
	if err != nil {
		return err
	}
	defer source.Close()
	p := &pull.Puller{Store: r.Store, Want: want, Warn: func(text string) { say("%s", text) }}
	if p.Parallel, err = parallel(); err != nil {
		return err
	}
	unpacker := run.NewUnpacker(r.Store, r.IDs)
	defer unpacker.Close()
	p.Unpacker = unpacker
	p.Account = func(img *store.Image) *store.Account { return run.AccountOf(r.Store, img) }
	if !c.Bool("quiet") {
		p.Display = progress.New(os.Stderr, "import")
		defer p.Display.Close()
	}
	pulled, err := p.Load(ctx, source, ref)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	} else if err != nil {
		return err
	}
	if err := r.Store.Settle(ctx); err != nil {
		return err
	}
	_, err = fmt.Fprintln(stdout, pulled.Image.ID)
	return err
}

// importable refuses what is no file, before anything is made.
func importable(from string) error {
	switch {
	case strings.HasPrefix(from, "http://"), strings.HasPrefix(from, "https://"):
		return errors.New("nothing is fetched from a URL; use `curl -fL URL | skiff import -`")
	case from == "-" && term.IsTerminal(int(os.Stdin.Fd())):
		return errors.New("stdin is a terminal; name a file, or redirect stdin")
	}
	if info, err := os.Stat(from); err == nil && info.IsDir() {
		return &fs.PathError{Op: "read", Path: from, Err: syscall.EISDIR}
	}
	return nil
}

// importedConfig is the image's config without its layer.
func importedConfig(c *cli.Context, want manifest.Want) (v1.ConfigFile, error) {
	p := manifest.Host()
	if p.Arch == "amd64" {
		p.Variant = "" // what this processor can do is not what the programs need
	}
	if want.Asked {
		p = want.Platform
	}
	if p.OS != "linux" {
		return v1.ConfigFile{}, want.Refuse(p)
	}
	message := c.String("message")
	if message == "" {
		message = "imported from " + c.Args().First()
	}
	now := v1.Time{Time: time.Now().UTC()}
	config := v1.ConfigFile{
		OS: p.OS, Architecture: p.Arch, Variant: p.Variant, Created: now,
		History: []v1.History{{Created: now, Comment: message}},
	}
	for _, text := range c.StringSlice("change") {
		if err := change(&config.Config, text); err != nil {
			return config, err
		}
	}
	return config, nil
}
