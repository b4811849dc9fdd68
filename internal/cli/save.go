package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"skiff/pull"
	"skiff/pull/archive"
	"skiff/pull/store"
	"skiff/run"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

func saveCommand() *cli.Command {
	return &cli.Command{
		Name: "save", Usage: "write images to an archive", ArgsUsage: "IMAGE...",
		UsageText: "skiff save alpine | ssh there skiff load\nskiff save -o images.tar alpine busybox",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "write to `FILE` instead of stdout"},
			&cli.StringFlag{Name: "format", Value: "docker-archive", Usage: "`FORMAT` docker-archive or oci-archive, which are one and the same file here, or the directories oci-dir or docker-dir"},
			&cli.BoolFlag{Name: "multi-image-archive", Aliases: []string{"m"}, Usage: "several images may be written; they always may"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "say nothing; nothing is ever said"},
		},
		Action: func(c *cli.Context) error {
			err := save(c)
			var named *verbError
			if err == nil || errors.As(err, &named) {
				return err
			}
			return &verbError{verb: "save", object: strings.Join(c.Args().Slice(), " "), err: err}
		},
	}
}

func save(c *cli.Context) error {
	if c.NArg() == 0 {
		return errors.New("which image?")
	}
	output, format := c.String("output"), c.String("format")
	switch format {
	case "docker-archive", "oci-archive":
		if output == "" && term.IsTerminal(int(os.Stdout.Fd())) {
			return errors.New("an archive is not for a terminal; use -o FILE, or redirect stdout")
		}
	case "oci-dir", "docker-dir":
		if output == "" {
			return errors.New(format + " is a directory; name it with -o")
		}
	default:
		return fmt.Errorf("format %q is none of docker-archive, oci-archive, oci-dir, docker-dir", format)
	}
	r, err := openRunner(c)
	if err != nil {
		return err
	}
	images, err := savedImages(r, c.Args().Slice())
	if err != nil {
		return err
	}
	if format == "docker-dir" && len(images) > 1 {
		return errors.New("docker-dir holds one image; oci-dir holds several")
	}
	ctx, stop := interruptible(context.Background())
	defer stop()
	reader := run.NewLayerReader(r.Store, r.IDs)
	defer reader.Close()
	write := func(to archive.Sink) error {
		layer := func(d v1.Hash, w io.Writer) error { return reader.Archive(ctx, d, w) }
		var err error
		if format == "docker-dir" {
			err = archive.WriteDir(to, images[0], layer)
		} else {
			err = archive.Write(to, images, layer)
		}
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			to.Close() // it misses something, and would only say so
			return err
		}
		return to.Close()
	}
	switch {
	case strings.HasSuffix(format, "-dir"):
		syscall.Umask(tools.Umask) // the files are the user's and not the store's
		to, err := archive.NewDir(output)
		if err != nil {
			return err
		}
		return write(to)
	case output == "" || output == "-":
		if stdoutClosed() {
			return errors.New("stdout is closed; name a file with -o")
		}
		return await(ctx, func() error { return writeTo(os.Stdout, write) })
	}
	return await(ctx, func() error { return replaceFile(output, func(f *os.File) error { return writeTo(f, write) }) })
}

// stdoutClosed says whether skiff was started without a stdout. Go's runtime has put
// /dev/null there then, for reading and writing (runtime.checkfds); a shell's >/dev/null is for writing.
func stdoutClosed() bool {
	var st unix.Stat_t
	if unix.Fstat(1, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(1, 3) {
		return false
	}
	flags, err := unix.FcntlInt(1, unix.F_GETFL, 0)
	return err == nil && flags&unix.O_ACCMODE == unix.O_RDWR
}

func writeTo(f *os.File, write func(archive.Sink) error) error {
	w := bufio.NewWriterSize(f, 256<<10)
	return errors.Join(write(archive.NewTar(w)), w.Flush())
}

// replaceFile writes a file that takes the place of an older one when it is whole. What
// is no plain file, such as a pipe, is written to as it is.
func replaceFile(path string, write func(*os.File) error) error {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return errors.Join(write(f), f.Close())
	}
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".skiff-*")
	if err != nil {
		return fmt.Errorf("make a file in %s: %w", dir, errors.Unwrap(err))
	}
	err = errors.Join(write(f), f.Chmod(0o666&^os.FileMode(tools.Umask)), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// savedImages looks images up and puts those together that are the same.
func savedImages(r *run.Runner, names []string) ([]archive.Save, error) {
	var images []archive.Save
	at := map[v1.Hash]int{}
	for _, name := range names {
		img, err := lookImage(r, name)
		if err != nil {
			return nil, &verbError{verb: "save", object: name, err: err}
		}
		if _, ok := at[img.ID]; !ok {
			s, err := savedImage(r.Store, img)
			if err != nil {
				return nil, &verbError{verb: "save", object: name, err: err}
			}
			at[img.ID] = len(images)
			images = append(images, s)
		}
		// An image that is asked for by its id goes without a name, as with docker.
		s := &images[at[img.ID]]
		if ref, err := pull.ParseReference(name); err == nil && ref.Tag != "" && (ref.String() == img.Reference || namesake(name, ref) == img.Reference) && !slices.Contains(s.Names, img.Reference) {
			s.Names = append(s.Names, img.Reference)
		}
	}
	return images, nil
}

func savedImage(st *store.Store, img *store.Image) (archive.Save, error) {
	s := archive.Save{DiffIDs: img.DiffIDs, Platform: v1.Platform{OS: img.OS, Architecture: img.Arch, Variant: img.Variant}}
	var err error
	if s.Config, err = st.Blob(img.ID); errors.Is(err, fs.ErrNotExist) {
		return s, errors.New("it has no config to be saved: it is skiff's own")
	} else if err != nil {
		return s, err
	}
	plain := img.Manifest != v1.Hash{}
	for _, d := range img.DiffIDs {
		l, err := st.LayerRecord(d)
		if err != nil {
			return s, err
		}
		s.Sizes = append(s.Sizes, l.Size)
		plain = plain && l.Blob == d
	}
	if plain {
		s.Manifest, err = st.Blob(img.Manifest)
	}
	return s, err
}
