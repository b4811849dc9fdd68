package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"skiff/pull"
	"skiff/pull/manifest"
	"skiff/pull/store"
	"skiff/run"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/urfave/cli/v2"
)

var errSearch = errors.New("registries have no common way to be searched; look on the registry's own pages, such as hub.docker.com")

func manifestCommand() *cli.Command {
	return group("manifest", "what a registry says of an image", &cli.Command{
		Name: "inspect", Usage: "print an image's index or manifest, byte for byte: the one that is here, or else the registry's", ArgsUsage: "IMAGE",
		Flags:  askFlags(),
		Action: action("manifest inspect", manifestInspect),
	})
}

func manifestInspect(c *cli.Context) error {
	if err := count(c, 1, 1, "of which image?"); err != nil {
		return err
	}
	name := c.Args().First()
	r, err := openRunner(c)
	if err != nil {
		return err
	}
	raw, err := localDocument(r, name)
	if errors.Is(err, fs.ErrNotExist) {
		raw, _, err = remoteDocument(c, name)
	}
	if err != nil {
		return &verbError{verb: "manifest inspect", object: name, err: err}
	}
	_, err = fmt.Fprintln(stdout, strings.TrimSuffix(string(raw), "\n"))
	return err
}

// localDocument is what an image's name pointed to when it was pulled.
func localDocument(r *run.Runner, name string) ([]byte, error) {
	img, err := lookImage(r, name)
	if err != nil {
		return nil, err
	}
	digest := img.Digest
	if digest == (v1.Hash{}) {
		digest = img.Manifest
	}
	if digest == (v1.Hash{}) {
		return nil, &store.AbsentError{Name: name}
	}
	return r.Store.Blob(digest)
}

// remoteDocument asks the registry what a name points to.
func remoteDocument(c *cli.Context, name string) (raw []byte, platform string, err error) {
	ref, err := pull.ParseReference(name)
	if err != nil {
		return nil, "", err
	}
	if ref.Host == "" {
		return nil, "", &pull.ReferenceError{Name: name, Why: "no registry has it"}
	}
	ctx, stop := interruptible(context.Background())
	defer stop()
	access, err := accessOf(c, ref.Host)
	if err == nil {
		err = completeLogin(ctx, c, access)
	}
	if err != nil {
		return nil, "", err
	}
	from, err := tools.Open(ctx, ref, *access)
	if err != nil {
		return nil, "", err
	}
	defer from.Close()
	raw, platform, err = pull.Describe(ctx, from, ref)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return raw, platform, err
}

// platformsOf are the manifests of a document by their platform: those of an index,
// or its own, whose platform its config tells.
func platformsOf(raw []byte, digest v1.Hash, own string) (map[string]v1.Hash, error) {
	doc, err := manifest.Parse(raw, "")
	if err != nil {
		return nil, err
	}
	if !doc.IsIndex {
		return map[string]v1.Hash{own: digest}, nil
	}
	list := map[string]v1.Hash{}
	for _, d := range doc.Manifests {
		if d.Platform == nil || d.Platform.OS == "" || d.Platform.OS == "unknown" {
			continue
		}
		if p := d.Platform.String(); list[p] == (v1.Hash{}) {
			list[p] = d.Digest
		}
	}
	return list, nil
}
