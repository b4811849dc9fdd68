package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"skiff/pull/store"

	"github.com/docker/go-units"
	"github.com/urfave/cli/v2"
)

func gcCommand() *cli.Command {
	return &cli.Command{
		Name: "gc", Usage: "keep the store small: remove what nothing needs, and the images used longest ago", ArgsUsage: " ",
		UsageText: "skiff gc\nskiff gc --max-size 20g --older-than 30d",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "max-size", Usage: "remove images until they take no more than `SIZE` of the disk, such as 20g"},
			&cli.StringFlag{Name: "older-than", Usage: "remove images that no run has used for `DURATION`, such as 30d"},
			&cli.BoolFlag{Name: "dry-run", Usage: "only say which images would go"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print nothing"},
		},
		Action: action("gc", gc),
	}
}

// leftTime is how long an interrupted pull's layers wait for its second try.
const leftTime = 24 * time.Hour

// gc asks nobody: it is for timers. What containers use it leaves alone.
func gc(c *cli.Context) error {
	if err := count(c, 0, 0, ""); err != nil {
		return err
	}
	var quota store.Quota
	var err error
	if s := c.String("max-size"); c.IsSet("max-size") {
		if quota.MaxSize, err = units.RAMInBytes(s); err != nil || quota.MaxSize <= 0 {
			return fmt.Errorf("--max-size %q is no size such as 20g", s)
		}
	}
	if c.IsSet("older-than") {
		if quota.MaxIdle, err = span(c.String("older-than")); err != nil || quota.MaxIdle == 0 {
			return fmt.Errorf("--older-than %q is no duration such as 30d or 12h", c.String("older-than"))
		}
	}
	r, err := openRunner(c)
	if err != nil {
		return err
	}
	say := func(format string, args ...any) {
		if !c.Bool("quiet") {
			fmt.Fprintf(stdout, format+"\n", args...)
		}
	}
	r.Say = func(string, ...any) {}
	var freed int64
	if !c.Bool("dry-run") {
		defer r.SweepBehind()
		removed, err := r.Store.Collect(context.Background(), r.InUse, leftTime)
		if err != nil {
			return err
		}
		freed = removed.Bytes
	}
	images, err := r.Store.OwnImages()
	if err != nil {
		return err
	}
	busy, err := busyImages(r)
	if err != nil {
		return err
	}
	usage, err := r.Store.Usage()
	if err != nil {
		return err
	}
	if quota.MaxSize > 0 && usage.OfImages() > quota.MaxSize && !c.Bool("dry-run") {
		// What waits for nothing but a second try goes before any image does.
		removed, err := r.Store.Collect(context.Background(), r.InUse, 0)
		if err != nil {
			return err
		}
		freed += removed.Bytes
		if usage, err = r.Store.Usage(); err != nil {
			return err
		}
	}
	keep := func(i *store.Image) bool { return busy[i.ID.String()] }
	for _, i := range store.Evict(images, r.Store.LastUsed, keep, usage, quota, time.Now()) {
		name, last := i.ID.String(), r.Store.LastUsed(i)
		if tags := repoTags(i); len(tags) > 0 {
			name = tags[0]
		}
		if !c.Bool("dry-run") {
			removed, err := r.Store.RemoveImage(context.Background(), i.Reference, r.InUse)
			var absent *store.AbsentError
			if errors.As(err, &absent) {
				continue
			}
			if err != nil {
				return &verbError{verb: "gc", object: name, err: err}
			}
			freed += removed.Bytes
		}
		word := "Removed"
		if c.Bool("dry-run") {
			word = "Would remove"
		}
		say("%s: %s, used %s", word, name, ago(last))
	}
	if !c.Bool("dry-run") {
		say("Total reclaimed space: %s", size(freed))
	}
	return nil
}
