package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"skiff/internal/need"
	images "skiff/testdata/image"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Classes of system calls that change a store, as strace(1) names them.
var classes = []string{
	"openat,openat2", "write,pwrite64", "fsync,fdatasync,syncfs", "renameat,renameat2", "mkdirat", "linkat",
	"symlinkat", "fsetxattr", "unlinkat", "ftruncate", "mknodat", "fchmod,fchmodat,fchown,fchownat,utimensat", "flock",
	// nothing fails for want of disk here, but between them much is begun and ended
	"clone,clone3,execve,execveat", "close", "mount,move_mount,pivot_root,setns",
}

// errnos are what a class may fail with: EMFILE is of those that make
// descriptors, and nothing is refused of a file that is open.
func errnos(class string) []string {
	switch {
	case strings.HasPrefix(class, "open"):
		return []string{"ENOSPC", "EIO", "EMFILE", "EACCES", "EINTR"}
	case strings.HasPrefix(class, "clone"), class == "close", strings.HasPrefix(class, "mount"):
		return nil
	case class == "flock":
		return []string{"EINTR", "ENOLCK"}
	case strings.HasPrefix(class, "write"), strings.HasPrefix(class, "fsync"), class == "ftruncate":
		return []string{"ENOSPC", "EDQUOT", "EIO", "EINTR"}
	}
	return []string{"ENOSPC", "EIO", "EACCES", "EINTR"}
}

// A fault happens to the n-th call of a class, counted by strace in each thread
// by itself: a process of several meets it several times.
type fault struct {
	verb, class string
	errno       string // or "KILL"
	n           int
}

func (f fault) String() string {
	return fmt.Sprintf("%s: %s %s:when=%d", f.verb, f.errno, f.class, f.n)
}

// A bench of verbs to disturb, with an image that they work on and one that
// was here before.
type faulty struct {
	*crew
	old, ref, archive string
}

// TestFaults kills skiff at each n-th system call of a class (case 75 of
// SECURITY.md), and lets each n-th fail (case 76), by strace. Whatever happens,
// skiff ends, with success or a message; the same command works after it, an image
// that was here still runs, the store is clean, and nothing is left in tmp. Success means
// that the store is whole at once; a call that was interrupted is made again.
//
// It tries SKIFF_FAULTS of them, taken by chance, instead of 150; "all" takes each.
func TestFaults(t *testing.T) {
	need.That(t, "strace", exec.Command("strace", "-qq", "-o", os.DevNull, "/bin/true").Run())
	if os.Geteuid() != 0 {
		t.Setenv("SKIFF_SINGLE_ID", "1") // newuidmap has no privilege where it is traced
	}
	f := newFaulty(t)
	var all []fault
	for _, verb := range []string{"pull", "run", "load", "rmi", "fsck"} {
		f.prepare(verb)
		for class, n := range f.count(verb) {
			for i := range n {
				all = append(all, fault{verb, class, "KILL", i + 1})
				for _, errno := range errnos(class) {
					all = append(all, fault{verb, class, errno, i + 1})
				}
			}
		}
	}
	slices.SortFunc(all, func(a, b fault) int {
		return cmp.Or(cmp.Compare(a.verb, b.verb), cmp.Compare(a.class, b.class), cmp.Compare(a.errno, b.errno), a.n-b.n)
	})
	if len(all) < 300 {
		t.Fatalf("%d faults in all: strace saw little", len(all))
	}
	todo := all
	if some, err := strconv.Atoi(cmp.Or(os.Getenv("SKIFF_FAULTS"), "150")); err == nil && some < len(all) {
		todo = sample(all, some)
	}
	if pattern := os.Getenv("SKIFF_FAULT"); pattern != "" {
		todo = slices.DeleteFunc(all, func(f fault) bool { return !regexp.MustCompile(pattern).MatchString(f.String()) })
	}
	met := 0
	for _, this := range todo {
		if f.suffer(this) {
			met++
		}
	}
	t.Logf("%d of %d faults tried, %d met", len(todo), len(all), met)
	if met < len(todo)/5 {
		t.Errorf("only %d of %d faults were met", met, len(todo))
	}
}

// sample takes n, as many of each verb, class and error as can be.
func sample(all []fault, n int) []fault {
	groups := map[string][]fault{}
	var keys []string
	for _, f := range all {
		key := f.verb + f.class + f.errno
		if groups[key] == nil {
			keys = append(keys, key)
		}
		groups[key] = append(groups[key], f)
	}
	rand.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	var some []fault
	for len(some) < n {
		for _, key := range keys {
			g := groups[key]
			if len(g) == 0 || len(some) == n {
				continue
			}
			i := rand.IntN(len(g))
			some = append(some, g[i])
			groups[key] = slices.Delete(g, i, i+1)
		}
	}
	return some
}

func newFaulty(t *testing.T) *faulty {
	f := &faulty{crew: newCrew(t), archive: t.TempDir() + "/image.tar"}
	t.Setenv("SKIFF_NETWORK", "none")
	program, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	userland := images.L(
		images.Dir("bin"), images.File("bin/busybox", string(program)).WithMode(0o755), images.Symlink("bin/true", "busybox"),
	)
	many := []images.Entry{images.Dir("d"), images.File("d/big", strings.Repeat("big", 1<<18)).WithXattr("user.x", "y"), images.Symlink("d/l", "big"), images.Link("d/h", "d/big")}
	// cap_net_bind_service, capabilities(7).
	many = append(many, images.File("d/able", "x").WithXattr("security.capability", "\x01\x00\x00\x02\x00\x04"+strings.Repeat("\x00", 14)))
	for i := range 8 {
		many = append(many, images.Dir("d/"+strconv.Itoa(i)), images.File(fmt.Sprintf("d/%d/f", i), "small"))
	}
	host := images.Registry(t)
	f.old, f.ref = host+"/old", host+"/image"
	path := func(c *v1.ConfigFile) { c.Config.Env = []string{"PATH=/bin"} }
	put(t, f.old, path, []images.Layer{userland})
	put(t, f.ref, path, []images.Layer{userland, images.L(many...), images.L(images.Whiteout("d", "0"), images.File("top", "top"))})
	f.works("pull", "-q", f.old)
	f.works("pull", "-q", f.ref)
	f.works("save", "-q", "-o", f.archive, f.ref)
	return f
}

// command is what a verb does.
func (f *faulty) command(verb string) []string {
	switch verb {
	case "pull":
		return []string{"pull", "-q", f.ref}
	case "run":
		return []string{"run", "--rm", "-q", f.ref, "true"}
	case "load":
		return []string{"load", "-q", "-i", f.archive}
	case "rmi":
		return []string{"rmi", f.ref}
	}
	return []string{"fsck"}
}

// prepare puts the store into the state that the verb starts from.
func (f *faulty) prepare(verb string) {
	f.t.Helper()
	if verb == "rmi" || verb == "fsck" {
		f.works("pull", "-q", f.ref)
		return
	}
	f.ends(f.t, []string{"rmi", f.ref})
	f.works("ps") // sweeps
}

// works runs skiff without a fault.
func (f *faulty) works(args ...string) string {
	f.t.Helper()
	status, out := f.ends(f.t, args)
	if status != 0 {
		f.t.Fatalf("skiff %v: status %d\n%s", args, status, out)
	}
	return out
}

// traced runs a verb under strace and returns what strace wrote of it.
func (f *faulty) traced(verb string, options ...string) (out, trace string, err error) {
	f.t.Helper()
	log := filepath.Join(f.t.TempDir(), "strace")
	args := append([]string{"-f", "-y", "-qq", "--seccomp-bpf", "-e", "signal=none", "-o", log}, options...)
	args = append(append(args, "skiff"), f.command(verb)...)
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	var b bytes.Buffer
	cmd := exec.CommandContext(ctx, "strace", args...)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &b, &b, 10*time.Second
	err = cmd.Run()
	if ctx.Err() != nil {
		f.t.Fatalf("strace %v hangs\n%s", args, &b)
	}
	text, _ := os.ReadFile(log)
	os.Remove(log)
	return b.String(), string(text), err
}

// count says how many calls of each class one thread of a verb makes at most.
func (f *faulty) count(verb string) map[string]int {
	f.t.Helper()
	out, trace, err := f.traced(verb, "-e", "trace="+strings.Join(classes, ","))
	if err != nil {
		f.t.Fatalf("%s under strace: %v\n%s", verb, err, out)
	}
	most, threads := map[string]int{}, map[string]int{}
	for _, m := range regexp.MustCompile(`(?m)^(\d+) +([a-z0-9]+)\(`).FindAllStringSubmatch(trace, -1) {
		for _, class := range classes {
			if slices.Contains(strings.Split(class, ","), m[2]) {
				threads[class+m[1]]++
				most[class] = max(most[class], threads[class+m[1]])
			}
		}
	}
	return most
}

// unfair are faults that no disk and no limit makes, or whose message has no way out:
// of pipes, skiff's own output, and the runtime's event descriptor, without which no Go
// program goes on.
var unfair = regexp.MustCompile(`write\((?:[12]<|\d+<(?:anon_inode|pipe|socket):)`)

// injected are the calls of a trace that a fault hit. Of one that another thread's
// stands between, the arguments are in an earlier line.
func injected(trace string) (hit []string) {
	begun := map[string]string{}
	for line := range strings.Lines(trace) {
		task, call, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if strings.HasSuffix(call, " <unfinished ...>") {
			begun[task] = call
		}
		if strings.Contains(call, "INJECTED") || strings.Contains(call, "killed by") {
			if strings.Contains(call, " resumed>") {
				call = begun[task] + call
			}
			hit = append(hit, task+call)
		}
	}
	return hit
}

// suffer lets one fault happen, looks at what is left, and says whether it happened.
func (f *faulty) suffer(this fault) (met bool) {
	f.prepare(this.verb)
	what := "error=" + this.errno
	if this.errno == "KILL" {
		what = "signal=KILL"
	}
	out, trace, err := f.traced(this.verb, "-e", "trace="+this.class, "-e", fmt.Sprintf("inject=%s:%s:when=%d", this.class, what, this.n))
	hit := injected(trace)
	complain := func(format string, args ...any) {
		f.t.Helper()
		f.t.Errorf("%s: %s\nits output:\n%s\nstrace:\n%s", this, fmt.Sprintf(format, args...), abridged(out), abridged(strings.Join(hit, "\n")))
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		f.t.Fatal(err)
	}
	// strace makes a call fail by changing its number to -1, which the worker's
	// filter may see, and kills for.
	fair := !slices.ContainsFunc(hit, unfair.MatchString) && !strings.Contains(out, "killed by bad system call")
	switch {
	case !fair:
	case strings.Contains(out, "goroutine ") || strings.Contains(out, "panic") || strings.Contains(out, "fatal error"):
		complain("a stack trace")
	case this.errno == "KILL":
	case this.errno == "EINTR" && (err != nil || strings.Contains(out, "interrupted system call")):
		complain("the interrupted call was not made again: %v", err)
	case this.verb == "fsck" && strings.Contains(out, "damaged") && !slices.Contains([]string{"EIO", "EACCES"}, this.errno):
		complain("a store that is whole is called damaged: %v", err)
	case err != nil && out == "":
		complain("no message: %v", err)
	}
	if err == nil && fair && this.class == "fsetxattr" && slices.Contains([]string{"EIO", "ENOSPC"}, this.errno) && strings.Contains(strings.Join(hit, ""), "security.capability") {
		complain("success without a file's capabilities")
	}
	if err == nil && fair {
		if status, said := f.ends(f.t, []string{"fsck"}); status != 0 {
			complain("success, but fsck says:\n%s", said)
		}
	}
	if this.verb == "rmi" {
		// It may have been done when it was told that it failed.
		if status, said := f.ends(f.t, f.command("rmi")); status != 0 && !strings.Contains(said, "is not here") {
			complain("then status %d:\n%s", status, said)
		}
	} else if status, said := f.ends(f.t, f.command(this.verb)); status != 0 {
		complain("then status %d:\n%s", status, said)
	}
	if status, said := f.ends(f.t, []string{"run", "--rm", "-q", f.old, "true"}); status != 0 {
		complain("the old image: status %d:\n%s", status, said)
	}
	if status, said := f.ends(f.t, []string{"fsck"}); status != 0 {
		complain("fsck: status %d\n%s", status, said)
	}
	// A file that its writer did not come to rename, or to remove, stays an hour; see store.Sweep.
	stays := this.errno == "KILL" || this.class == "unlinkat"
	for _, name := range left(f.root, func(name string) bool { return stays && strings.HasPrefix(name, "file-") }) {
		complain("left: %s", name)
	}
	for _, room := range []string{"containers", "tmp"} {
		for name := range names(f.root + "/" + room) {
			if name != ".names" {
				os.RemoveAll(f.root + "/" + room + "/" + name)
			}
		}
	}
	return len(hit) > 0
}
