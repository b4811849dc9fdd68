package cli

import (
	"fmt"
	"runtime"
	"slices"
	"strings"

	"skiff/run"
	"skiff/run/doctor"

	"github.com/urfave/cli/v2"
)

func doctorCommand() *cli.Command {
	return &cli.Command{
		Name: "doctor", Usage: "find out what containers get on this host, and what lifts what they do not get",
		UsageText: "skiff doctor\nskiff doctor network ports\nskiff doctor --json",
		ArgsUsage: "[CAPABILITY...]",
		Flags:     []cli.Flag{&cli.BoolFlag{Name: "json", Usage: "print one JSON array"}},
		Action:    action("doctor", examine),
	}
}

// registryFiles is the capability that the command line looks at by itself.
const registryFiles = "registries"

func examine(c *cli.Context) error {
	known := append(doctor.Names(), registryFiles)
	for _, name := range c.Args().Slice() {
		if !slices.Contains(known, name) {
			return fmt.Errorf("%s: no such capability; there are %s", name, strings.Join(known, ", "))
		}
	}
	wanted := func(name string) bool { return c.NArg() == 0 || slices.Contains(c.Args().Slice(), name) }
	host := &doctor.Host{}
	r, err := openRunner(c)
	if err == nil {
		host.Store, host.IDs = r.Store, r.IDs
	} else {
		host.StoreErr, host.IDs = err, run.IDs()
	}
	runtime.LockOSThread()
	found := doctor.Examine(host, wanted)
	if wanted(registryFiles) {
		f := doctor.Finding{Name: registryFiles, Status: doctor.OK, Uses: "no configuration: docker.io, and others by their names"}
		if files := tools.ConfigFiles(); len(files) > 0 {
			f.Uses = strings.Join(files, ", ")
		}
		found = append(found, f)
	}
	if len(found) == 0 {
		return fmt.Errorf("%s: makes no difference to this user", strings.Join(c.Args().Slice(), ", "))
	}
	if c.Bool("json") {
		err = printJSON(found)
	} else {
		err = printFindings(found)
	}
	if err == nil && !doctor.Works(found) {
		return exitStatus(1)
	}
	return err
}

// printFindings prints a line for each, and under it why it is no better and
// what lifts that.
func printFindings(found []doctor.Finding) error {
	for _, f := range found {
		_, err := fmt.Fprintf(stdout, "%-10s  %-7s  %s\n", f.Name, f.Status, printable(f.Uses))
		for _, more := range []struct{ what, text string }{{"", f.Why}, {"lift it: ", f.Cure}} {
			if more.text != "" && err == nil {
				_, err = fmt.Fprintf(stdout, "%21s%s%s\n", "", more.what, printable(more.text))
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}
