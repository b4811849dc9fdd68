// The runtime would look again and again how many threads may run at once;
// skiff has little for them to do.

//go:debug updatemaxprocs=0

// Skiff runs a container image as one command: no daemon, no helpers, no set-up.
package main

import (
	"os"

	"skiff/internal/cli"
	"skiff/layers"
	"skiff/layers/codec"
	"skiff/pull/registry"
)

func main() {
	layers.WorkerMain(codec.Decompress) // returns at once unless this process is one
	os.Exit(cli.Main(os.Args, registry.Open))
}
