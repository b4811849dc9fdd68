// The runtime would look again and again how many threads may run at once;
// skiff has little for them to do.

//go:debug updatemaxprocs=0

// Skiff runs a container image as one command: no daemon, no helpers, no set-up.
package main

import (
	"context"
	"io"
	"os"
	"syscall"

	"skiff/layers"
	"skiff/pull"
	"skiff/run"

	// What is imported from here on, and by nothing above, is initialised below,
	// where it is first needed: the order matters.
	"skiff/internal/late"

	"skiff/internal/cli"

	"skiff/layers/codec"

	"skiff/pull/push"

	"skiff/pull/registry"
)

// lateInit asks package late for its service.
//
//lint:ignore U1000 that package reads it
var lateInit = main

func main() {
	if run.Borrowed() {
		os.Stderr.WriteString("skiff: run: /proc/self/exe: is skiff, and no program of the image\n")
		os.Exit(run.StatusNotExecutable)
	}
	layers.WorkerMain(decompressor) // returns at once unless this process is one
	// What is made in a container's root has the modes that it has to have; the
	// store around it is closed to others.
	umask := syscall.Umask(0o022)
	early := run.Anticipate(os.Args)
	late.Through(cli.Main)
	os.Exit(cli.Main(os.Args, cli.Tools{Open: openRegistry, OpenPush: openPush, OpenLogins: openLogins, Decompress: decompress, Compress: compress, Umask: umask, ConfigFiles: configFiles}, early))
}

func decompressor() layers.Decompressor {
	late.Through(codec.Decompress)
	return codec.Decompress
}

func decompress(r io.Reader, c layers.Compression) (io.ReadCloser, error) {
	return decompressor()(r, c)
}

func compress(w io.Writer, c layers.Compression, level int) (io.WriteCloser, error) {
	late.Through(codec.Compress)
	return codec.Compress(w, c, level)
}

func openRegistry(ctx context.Context, ref pull.Reference, access pull.Access) (pull.Registry, error) {
	late.Through(registry.Open)
	return registry.Open(ctx, ref, access)
}

func configFiles() []string {
	late.Through(registry.ConfigFiles)
	return registry.ConfigFiles()
}

func openPush(ctx context.Context, ref pull.Reference, access pull.Access, from []string) (push.Registry, error) {
	late.Through(registry.OpenPush)
	return registry.OpenPush(ctx, ref, access, from)
}

func openLogins(access pull.Access) pull.Logins {
	late.Through(registry.OpenLogins)
	return registry.OpenLogins(access)
}
