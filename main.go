// The runtime would look again and again how many threads may run at once;
// skiff has little for them to do.

//go:debug updatemaxprocs=0

// Skiff runs a container image as one command: no daemon, no helpers, no set-up.
package main

import (
	"context"
	"os"

	"skiff/internal/cli"
	"skiff/internal/late"
	"skiff/layers"
	"skiff/layers/codec"
	"skiff/pull"
	"skiff/pull/registry"
)

// lateInit asks package late for its service: what is imported behind it, and by
// no other package, is initialised where it is first needed, below.
var lateInit = main

func main() {
	layers.WorkerMain(decompressor) // returns at once unless this process is one
	os.Exit(cli.Main(os.Args, openRegistry))
}

func decompressor() layers.Decompressor {
	late.Init()
	return codec.Decompress
}

func openRegistry(ctx context.Context, ref pull.Reference, access pull.Access) (pull.Registry, error) {
	late.Init()
	return registry.Open(ctx, ref, access)
}
