// Bench measures skiff against its peers and against the same work in C.
//
//	go run ./bench [FLAG...] [start|many|memory|net|pull|init|syscalls]...
//
// Without a name it does all. docs/benchmarks.md tells what each compares and
// why that is fair.
//
// net carries traffic in network namespaces of its own only.
//
// Limits: Linux, with go, and the static busybox in /bin. It needs no network.
// Peers that are not there are named in the tables, not left out. It starts no
// daemon. As root, default networks switch on forwarding between interfaces, as
// any container engine does.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"skiff/layers"
	"skiff/layers/codec"
)

var all = []string{"start", "many", "memory", "net", "pull", "init", "syscalls"}

func main() {
	layers.WorkerMain(func() layers.Decompressor { return codec.Decompress }) // skiff's code executes itself, under another name
	trafficMain()
	pullServerMain()
	dir := flag.String("dir", "", "keep stores in a new directory of `DIR`; a tmpfs by default")
	users := flag.String("users", os.Getenv("SKIFF_TEST_USER"), "as root, also run rows as these `USERS`, separated by commas")
	self := flag.Bool("self", true, "run rows as the caller, besides those of -users")
	skiff := flag.String("skiff", "", "measure this `PROGRAM`; built from the source by default")
	versus := flag.String("versus", "", "start, pull: compare with another skiff, `PROGRAM`")
	rounds := flag.Int("rounds", 100, "`N` runs of each contender; net: a tenth of it; pull: a twentieth")
	only := flag.String("image", "", "pull: only the images whose `NAME` begins so: big, 60,000 files, one layer")
	many := flag.Int("many", 1000, "`N` containers at once in the larger test")
	budget := flag.Bool("budget", false, "init: fail above the budget")
	flag.Parse()
	verbs := flag.Args()
	if len(verbs) == 0 {
		verbs = all
	}
	if err := run(*dir, *skiff, *versus, strings.FieldsFunc(*users, func(r rune) bool { return r == ',' || r == ' ' }), *self, verbs, *rounds, *only, *many, *budget); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

func run(dir, skiff, versus string, users []string, self bool, verbs []string, rounds int, only string, many int, budget bool) error {
	for _, v := range verbs {
		if !slices.Contains(all, v) {
			return fmt.Errorf("%s: not one of %s", v, strings.Join(all, ", "))
		}
	}
	onlyInit := slices.Equal(verbs, []string{"init"})
	if os.Geteuid() != 0 || onlyInit {
		users = nil
	}
	h, err := newHost(dir, skiff, versus, users)
	if err != nil {
		return err
	}
	defer h.remove()
	// What is running when ^C comes sees it as well, and ends.
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-interrupted
		h.remove()
		os.Exit(130)
	}()
	out := os.Stdout
	fmt.Fprintln(out, describe(h))

	if !onlyInit {
		if err := h.makeImages(); err != nil {
			return err
		}
		h.compileReference()
		if os.Geteuid() == 0 && len(users) == 0 {
			fmt.Fprintln(out, "rootless rows: none, for no user is named; -users NAME,NAME does")
		}
	}
	if !self && len(h.accounts) > 1 {
		h.accounts = h.accounts[1:]
	}
	debug.SetGCPercent(-1) // nothing of ours runs beside what is measured
	var failed error
	for _, v := range verbs {
		switch v {
		case "start":
			h.start(out, rounds)
		case "many":
			h.atOnce(out, many)
		case "memory":
			h.memory(out)
		case "net":
			h.net(out, rounds)
		case "pull":
			failed = errors.Join(failed, h.pulls(out, rounds, only))
		case "init":
			failed = errors.Join(failed, h.initCost(out, budget))
		case "syscalls":
			h.syscalls(out)
		}
		debug.FreeOSMemory()
	}
	return failed
}
