package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"skiff/internal/idmap"
	"skiff/layers"
	"skiff/pull/store"
	"skiff/run"

	"github.com/urfave/cli/v2"
)

func rootFlag() cli.Flag {
	return &cli.StringFlag{Name: "root", Usage: "keep images and containers in `DIR`", EnvVars: []string{"SKIFF_ROOT"}}
}

// openRunner opens the user's store.
func openRunner(c *cli.Context) (*run.Runner, error) {
	root, err := storeRoot(c.String("root"))
	if err != nil {
		return nil, err
	}
	st, err := store.Open(root)
	if err != nil {
		return nil, err
	}
	ids := run.IDs()
	if ids.Kind == idmap.Single {
		st.IDs = store.Single
	}
	st.Remove = func(path string) error { return layers.Remove(path, ids) }
	if list := os.Getenv("SKIFF_STORES"); list != "" {
		for _, path := range filepath.SplitList(list) {
			shared, err := store.OpenShared(path, st.IDs)
			if err != nil {
				say("SKIFF_STORES: %v; it is not looked in", err)
				continue
			}
			st.Shared = append(st.Shared, shared)
		}
	}
	return &run.Runner{Store: st, IDs: ids, Say: say, Stderr: os.Stderr}, nil
}

func say(format string, args ...any) {
	fmt.Fprintln(os.Stderr, "skiff: "+printable(fmt.Sprintf(format, args...)))
}

// storeRoot is the store's place. Source: XDG Base Directory Specification.
func storeRoot(asked string) (string, error) {
	if asked != "" {
		return filepath.Abs(asked)
	}
	if os.Geteuid() == 0 {
		return "/var/lib/skiff", nil
	}
	if data := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(data) {
		return filepath.Join(data, "skiff"), nil
	}
	home := os.Getenv("HOME")
	if !filepath.IsAbs(home) {
		return "", errors.New("no place for the store: HOME and XDG_DATA_HOME are not set; use --root or SKIFF_ROOT")
	}
	return filepath.Join(home, ".local", "share", "skiff"), nil
}
