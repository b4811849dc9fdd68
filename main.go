// Skiff runs a container image as one command: no daemon, no helpers, no set-up.
package main

import (
	"os"

	"skiff/internal/cli"
)

func main() { os.Exit(cli.Main(os.Args)) }
