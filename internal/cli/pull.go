package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"skiff/internal/progress"
	"skiff/pull"
	"skiff/pull/manifest"
	"skiff/pull/store"
	"skiff/run"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

// pullFlags are those of every command that may pull.
func pullFlags() []cli.Flag {
	return append([]cli.Flag{
		&cli.StringFlag{Name: "pull", Value: "missing", Usage: "when to pull: `POLICY` missing, always, never or newer"},
		&cli.StringFlag{Name: "platform", Usage: "take the image for `OS/ARCH[/VARIANT]`"},
		&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "show no progress"},
		lockedFlag(),
	}, askFlags()...)
}

func pullCommand() *cli.Command {
	flags := pullFlags()[1:]
	return &cli.Command{
		Name: "pull", Usage: "bring an image here", ArgsUsage: "IMAGE", Flags: flags,
		UsageText: "skiff pull alpine\nskiff pull --platform linux/arm64 alpine:3.20",
		Action: func(c *cli.Context) error {
			name := c.Args().First()
			err := func() error {
				if err := count(c, 1, 1, "which image?"); err != nil {
					return err
				}
				if name == helloReference {
					return errors.New("it is built in; `skiff run builtin:hello` needs no pull")
				}
				r, err := openRunner(c)
				if err != nil {
					return err
				}
				defer r.SweepBeside()()
				img, err := pullImage(context.Background(), c, r, name, pull.Always)
				if err != nil {
					return err
				}
				if path, _ := lockPath(c); path != "" {
					if err := nameLocked(r, name, img.Image); err != nil {
						return err
					}
				}
				if img.Settle != nil { // nil: it was here
					if err := img.Settle(context.Background()); err != nil {
						return err
					}
				}
				fmt.Fprintln(stdout, img.ID)
				return nil
			}()
			if err != nil {
				return &verbError{verb: "pull", object: name, err: err}
			}
			return nil
		},
	}
}

// ensureImage finds an image that is here, makes skiff's own, or pulls.
func ensureImage(ctx context.Context, c *cli.Context, r *run.Runner, name string) (*pull.Pulled, error) {
	if name == "" {
		return nil, errors.New("which image? try `skiff run builtin:hello`")
	}
	if name == helloReference {
		want, err := wanted(c)
		if err != nil {
			return nil, err
		}
		if own := (manifest.Platform{OS: "linux", Arch: runtime.GOARCH}); want.Asked && !want.Accepts(own) {
			return nil, want.Refuse(own)
		}
		img, err := helloImage(ctx, r.Store)
		return &pull.Pulled{Image: img}, err
	}
	policy, err := pull.ParsePolicy(c.String("pull"))
	if err != nil {
		return nil, err
	}
	return pullImage(ctx, c, r, name, policy)
}

// An interrupted error is a signal that ended a pull.
type interrupted struct{ signal syscall.Signal }

func (e *interrupted) Error() string {
	if e.signal == syscall.SIGINT {
		return "interrupted"
	}
	return "ended by a signal: " + e.signal.String()
}

// interruptible ends the context with an interrupted error when a signal says so.
func interruptible(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		select {
		case s := <-caught:
			n, _ := s.(syscall.Signal)
			cancel(&interrupted{n})
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		signal.Stop(caught)
		cancel(nil)
	}
}

// wanted is the platform that the user asked for.
func wanted(c *cli.Context) (want manifest.Want, err error) {
	if platform := c.String("platform"); platform != "" {
		want.Platform, err = manifest.ParsePlatform(platform)
		want.Asked = true
	}
	return want, err
}

// parallel is how many layers may come at once, 0 for the usual number. It refuses
// a limit of descriptors that no pull lives with; of one below ten Go's runtime dies
// without a message of skiff's.
func parallel() (int, error) {
	const few, suffice, plenty = 40, 64, 256
	var limit unix.Rlimit
	switch err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); {
	case err != nil || limit.Cur >= plenty:
		return 0, nil
	case limit.Cur >= few:
		return 2, nil
	}
	return 0, fmt.Errorf("%d descriptors are too few, %d will do: %w", limit.Cur, suffice, unix.EMFILE)
}

// pullImage finds or pulls what a word names, by the lock if there shall be one.
func pullImage(ctx context.Context, c *cli.Context, r *run.Runner, name string, policy pull.Policy) (*pull.Pulled, error) {
	path, err := lockPath(c)
	if err != nil {
		return nil, err
	}
	if path != "" {
		return lockedImage(ctx, c, r, name, path, policy)
	}
	ref, err := pull.ParseReference(name)
	if err != nil {
		return nil, err
	}
	if other := namesake(name, ref); other != "" && policy != pull.Always && r.Store.Named(other) && !r.Store.Named(ref.String()) {
		if ref, err = pull.ParseReference(other); err != nil {
			return nil, err
		}
	}
	return pullReference(ctx, c, r, ref, policy)
}

func pullReference(ctx context.Context, c *cli.Context, r *run.Runner, ref pull.Reference, policy pull.Policy) (img *pull.Pulled, err error) {
	p := &pull.Puller{Store: r.Store, Warn: func(text string) { say("%s", text) }}
	if p.Want, err = wanted(c); err != nil {
		return nil, err
	}
	access, err := accessOf(c, ref.Host)
	if err != nil {
		return nil, err
	}
	absent := true
	if ref.Transport == "" {
		img, err := p.Ensure(ctx, ref, pull.Never)
		if absent = err != nil; !absent && policy == pull.Missing {
			img.Settle = nil // what is here needs nothing of the rest
			return img, nil
		}
	}
	if p.Parallel, err = parallel(); err != nil {
		return nil, err
	}
	early.Abandon() // this takes long
	ctx, stop := interruptible(ctx)
	defer stop()
	if err := completeLogin(ctx, c, access); err != nil {
		return nil, err
	}
	unpacker := run.NewUnpacker(r.Store, r.IDs)
	defer func() {
		if err != nil || img.Settle == nil {
			unpacker.Close()
			return
		}
		// Its process takes milliseconds to end, for which no container need wait.
		settle := img.Settle
		img.Settle = func(ctx context.Context) error { return errors.Join(unpacker.Close(), settle(ctx)) }
	}()
	if absent && policy != pull.Never {
		unpacker.Start()
	}
	p.Unpacker = unpacker
	p.Account = func(img *store.Image) *store.Account { return run.AccountOf(r.Store, img) }
	p.Open = tools.Open
	p.Insecure, p.Reach, p.Tries, p.Even, p.RetryFirst = access.Insecure, access.Reach, access.Patience.Tries, access.Patience.Even, access.Patience.First
	if !c.Bool("quiet") {
		p.Display = progress.New(os.Stderr, ref.Familiar())
		defer p.Display.Close()
	}
	r.Store.Waiting = func(what string) { say("waiting for another skiff: %s", what) }
	img, err = p.Ensure(ctx, ref, policy)
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return img, err
}
