package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"skiff/internal/progress"
	"skiff/layers"
	"skiff/pull"
	"skiff/pull/push"
	"skiff/pull/store"
	"skiff/run"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/urfave/cli/v2"
)

func pushCommand() *cli.Command {
	return &cli.Command{
		Name: "push", Usage: "send an image to a registry", ArgsUsage: "IMAGE [DESTINATION]",
		UsageText: "skiff push registry.example/me/app:1\nskiff push app registry.example/me/app:1",
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "all-tags", Aliases: []string{"a"}, Usage: "send every tag of the repository IMAGE that is here"},
			&cli.StringFlag{Name: "compression-format", Usage: "send all layers compressed with `FORMAT` gzip or zstd, also those that are there otherwise"},
			&cli.StringFlag{Name: "compression-level", Usage: "compress what has to be sent at `LEVEL` 1 to 9 with gzip, 1 to 20 with zstd"},
			&cli.StringFlag{Name: "digestfile", Usage: "write the manifest's digest to `FILE`"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "show no progress, and print the name alone"},
		}, registryFlags()...),
		Action: func(c *cli.Context) error {
			if err := pushAll(c); err != nil {
				return &verbError{verb: "push", object: strings.Join(c.Args().Slice(), " "), err: err}
			}
			return nil
		},
	}
}

// A sending is an image and where it goes.
type sending struct {
	img *store.Image
	to  pull.Reference
}

func pushAll(c *cli.Context) error {
	switch {
	case c.NArg() == 0:
		return errors.New("which image?")
	case c.NArg() > 2, c.NArg() == 2 && c.Bool("all-tags"):
		return errors.New("too many arguments")
	}
	how, err := packing(c)
	if err != nil {
		return err
	}
	r, err := openRunner(c)
	if err != nil {
		return err
	}
	todo, err := sendings(c, r)
	if err != nil {
		return err
	}
	ctx, stop := interruptible(context.Background())
	defer stop()
	reader := run.NewLayerReader(r.Store, r.IDs)
	defer reader.Close()
	p := &push.Pusher{
		Store:    r.Store,
		Archive:  func(ctx context.Context, d v1.Hash, w io.Writer) error { return reader.Archive(ctx, d, w) },
		Compress: how.compress,
		Format:   how.format,
		Again:    how.level != 0,
		Patience: pull.Patience,
	}
	for _, s := range todo {
		if err := pushOne(ctx, c, p, s); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return err
		}
	}
	return nil
}

// A packed is how layers are to be compressed.
type packed struct {
	format string // "": gzip, where they are not there in any other
	level  int
}

// packing reads podman's flags.
func packing(c *cli.Context) (p packed, err error) {
	most := 9
	switch p.format = c.String("compression-format"); p.format {
	case "", "gzip":
	case "zstd":
		most = 20
	case "zstd:chunked":
		return p, errors.New("zstd:chunked is not made here; --compression-format zstd is")
	default:
		return p, fmt.Errorf("--compression-format %q is none of gzip, zstd", p.format)
	}
	if level := c.String("compression-level"); c.IsSet("compression-level") {
		if p.level, err = strconv.Atoi(level); err != nil || p.level < 1 || p.level > most {
			return p, fmt.Errorf("--compression-level %q is none of 1 to %d", level, most)
		}
	}
	return p, nil
}

func (p packed) compress(w io.Writer) (io.WriteCloser, error) {
	if p.format == "zstd" {
		return tools.Compress(w, layers.Zstd, p.level)
	}
	return tools.Compress(w, layers.Gzip, p.level)
}

// sendings finds out what goes where.
func sendings(c *cli.Context, r *run.Runner) ([]sending, error) {
	name := c.Args().First()
	if c.Bool("all-tags") {
		ref, err := pull.ParseReference(name)
		if err != nil {
			return nil, err
		}
		images, err := r.Store.Images()
		if err != nil {
			return nil, err
		}
		var all []sending
		for _, img := range images {
			to, err := pull.ParseReference(img.Reference)
			if err == nil && to.Host == ref.Host && to.Path == ref.Path && to.Tag != "" {
				all = append(all, sending{img, to})
			}
		}
		if len(all) == 0 {
			return nil, &store.AbsentError{Name: pull.Familiar(ref.Host + "/" + ref.Path)}
		}
		return all, nil
	}
	img, err := lookImage(r, name)
	if err != nil {
		return nil, err
	}
	dest := name
	if c.NArg() == 2 {
		dest = strings.TrimPrefix(c.Args().Get(1), "docker://")
	}
	to, err := pull.ParseReference(dest)
	if err != nil {
		return nil, err
	}
	if to.Host == "" {
		return nil, errors.New("an image is pushed to a name: give a DESTINATION")
	}
	if to.Digest != "" {
		return nil, errors.New("a digest is what a push makes; push to a tag")
	}
	return []sending{{img, to}}, nil
}

func pushOne(ctx context.Context, c *cli.Context, p *push.Pusher, s sending) error {
	access, err := accessOf(c, s.to.Host)
	if err != nil {
		return err
	}
	if err := completeLogin(ctx, c, access); err != nil {
		return err
	}
	to, err := tools.OpenPush(ctx, s.to, *access, push.Sources(p.Store, s.img, s.to.Host))
	if err != nil {
		return err
	}
	defer to.Close()
	if !c.Bool("quiet") {
		p.Display = progress.New(os.Stderr, s.to.Familiar())
		defer p.Display.Close()
	}
	pushed, err := p.Push(ctx, to, s.img, s.to)
	if err != nil {
		return err
	}
	p.Display.Close()
	if file := c.String("digestfile"); file != "" {
		if err := os.WriteFile(file, []byte(pushed.Digest.String()), 0o644); err != nil {
			return err
		}
	}
	if c.Bool("quiet") {
		fmt.Fprintln(stdout, s.to.Familiar())
		return nil
	}
	fmt.Fprintf(stdout, "%s: digest: %s size: %d\n", s.to.Tag, pushed.Digest, pushed.Size)
	return nil
}
