package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"skiff/internal/progress"
	"skiff/layers"
	"skiff/pull"
	"skiff/pull/archive"
	"skiff/pull/store"
	"skiff/run"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"
)

func loadCommand() *cli.Command {
	return &cli.Command{
		Name: "load", Usage: "bring in the images of an archive", ArgsUsage: " ",
		UsageText: "skiff load -i images.tar\ndocker save alpine | skiff load",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "input", Aliases: []string{"i"}, Usage: "read `FILE`, or the OCI layout in a directory, instead of stdin"},
			&cli.StringFlag{Name: "platform", Usage: "of an image for several platforms take `OS/ARCH[/VARIANT]`"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "show no progress"},
		},
		Action: func(c *cli.Context) error {
			if err := load(c); err != nil {
				return &verbError{verb: "load", object: c.String("input"), err: err}
			}
			return nil
		},
	}
}

func load(c *cli.Context) error {
	if c.NArg() > 0 {
		return fmt.Errorf("argument %q: name the file with -i", c.Args().First())
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
	if err := await(ctx, func() error { return in.open(ctx, c.String("input"), r.Store) }); err != nil {
		return err
	}
	path, shown := in.path, c.String("input")
	if shown == "" || shown == "-" {
		shown = "stdin"
	}
	offers, closeAll, err := archive.OpenAll(path, shown)
	if err != nil {
		return err
	}
	defer closeAll()
	p := &pull.Puller{Store: r.Store, Warn: func(text string) { say("%s", text) }}
	if p.Want, err = wanted(c); err != nil {
		return err
	}
	if p.Parallel, err = parallel(); err != nil {
		return err
	}
	unpacker := run.NewUnpacker(r.Store, r.IDs)
	defer unpacker.Close()
	p.Unpacker = unpacker
	p.Account = func(img *store.Image) *store.Account { return run.AccountOf(r.Store, img) }
	if !c.Bool("quiet") {
		p.Display = progress.New(os.Stderr, "load")
		defer p.Display.Close()
	}
	for _, o := range offers {
		if err := loadOne(ctx, p, o); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return err
		}
	}
	return r.Store.Settle(ctx)
}

// loadOne brings in one image under all its names.
func loadOne(ctx context.Context, p *pull.Puller, o archive.Offer) error {
	if len(o.Names) == 0 {
		img, err := p.Load(ctx, o.Source, pull.Reference{})
		if err == nil {
			fmt.Fprintln(stdout, "Loaded image ID: "+img.ID.String())
		}
		return err
	}
	for _, name := range o.Names {
		ref, err := pull.ParseReference(name)
		if err != nil {
			return err
		}
		if ref.Host == "" {
			return &pull.ReferenceError{Name: name, Why: "it is no name for an image"}
		}
		if _, err := p.Load(ctx, o.Source, ref); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		fmt.Fprintln(stdout, "Loaded image: "+ref.Familiar())
	}
	return nil
}

// An input is a file that can be read in several places: the one that was named, or
// a copy of what comes through a pipe or is compressed, without its compression.
type input struct {
	path string

	mu   sync.Mutex
	copy *store.Temp
}

func (in *input) open(ctx context.Context, name string, st *store.Store) error {
	f := os.Stdin
	if name != "" && name != "-" {
		info, err := os.Stat(name)
		if err != nil {
			return err
		}
		if in.path = name; info.IsDir() {
			return nil
		}
		if f, err = os.Open(name); err != nil {
			return err
		}
		defer f.Close()
	} else if term.IsTerminal(int(f.Fd())) {
		return errors.New("stdin is a terminal; name the archive with -i, or redirect stdin")
	}
	r := bufio.NewReaderSize(f, 256<<10)
	head, err := r.Peek(4)
	if err != nil && err != io.EOF {
		return err
	}
	if len(head) == 0 {
		return errors.New("there is nothing in it")
	}
	packed := head[0] == 0x1f && len(head) > 1 && head[1] == 0x8b || string(head) == "\x28\xb5\x2f\xfd"
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() && !packed && in.path != "" {
		return nil
	}
	temp, err := in.temp(st)
	if err != nil {
		return err
	}
	in.path, err = spool(ctx, r, packed, temp.Path()+"/archive")
	return st.Explain(copyTo, temp.Path(), err)
}

func (in *input) temp(st *store.Store) (*store.Temp, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	var err error
	in.copy, err = st.NewTemp("load")
	return in.copy, err
}

// remove removes the copy. An open that was given up may be at it still.
func (in *input) remove() {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.copy != nil {
		in.copy.Remove()
	}
}

// await waits for what may hang in a read or write that nothing ends, as of a
// pipe, and gives it up when ctx ends.
func await(ctx context.Context, do func() error) error {
	done := make(chan error, 1)
	go func() { done <- do() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	select {
	case <-done: // it has cleaned up
	case <-time.After(time.Second / 4):
	}
	return context.Cause(ctx)
}

const copyTo = "copy the archive to"

// spool copies an archive to a file. What it was given, a few compressed bytes
// perhaps, does not take the last of the disk.
func spool(ctx context.Context, in io.Reader, packed bool, path string) (string, error) {
	if packed {
		plain, err := tools.Decompress(in, layers.Detect)
		if err != nil {
			return "", err
		}
		defer plain.Close()
		in = plain
	}
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	in = &cancelled{ctx, in}
	for err == nil {
		if err = run.Room(copyTo, path); err == nil {
			_, err = io.CopyN(out, in, 4<<20)
		}
	}
	if err == io.EOF {
		err = nil
	}
	return path, errors.Join(err, out.Close())
}

// cancelled is a reader that ends with a context; a read in progress is waited for.
type cancelled struct {
	ctx context.Context
	r   io.Reader
}

func (c *cancelled) Read(b []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(b)
}
