// Package need says what a test needs, tries it, and skips with the reason
// when it is not to be had.
//
// The environment variable SKIFF_NEED holds words separated by spaces or
// commas. A need named there fails the test instead of skipping it, so that a
// continuous-integration run cannot turn green by skipping. "all" names every
// need, but for those that are given as "-word".
//
// Limits: for tests only; nothing else may import it.
package need

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// That skips the test when err is not nil, or fails it when SKIFF_NEED names
// word.
func That(t testing.TB, word string, err error) {
	t.Helper()
	if err == nil {
		return
	}
	if Named(word) {
		t.Fatalf("needs %s, which SKIFF_NEED demands: %v", word, err)
	}
	t.Skipf("needs %s: %v", word, err)
}

// Named reports whether SKIFF_NEED demands word.
func Named(word string) bool {
	words := strings.FieldsFunc(os.Getenv("SKIFF_NEED"), func(r rune) bool { return r == ' ' || r == ',' })
	return slices.Contains(words, word) || slices.Contains(words, "all") && !slices.Contains(words, "-"+word)
}

// Root needs effective user id 0 ("root").
func Root(t testing.TB) {
	t.Helper()
	var err error
	if uid := os.Geteuid(); uid != 0 {
		err = fmt.Errorf("effective user id is %d", uid)
	}
	That(t, "root", err)
}

// Userns needs a new user namespace ("userns"), tried with /bin/true.
func Userns(t testing.TB) {
	t.Helper()
	That(t, "userns", try(syscall.CLONE_NEWUSER))
}

// Netns needs a new network namespace inside a new user namespace ("netns").
func Netns(t testing.TB) {
	t.Helper()
	That(t, "netns", try(syscall.CLONE_NEWUSER|syscall.CLONE_NEWNET))
}

// Tool needs a program in PATH; the word is the program's name.
func Tool(t testing.TB, name string) {
	t.Helper()
	_, err := exec.LookPath(name)
	That(t, name, err)
}

// try runs /bin/true in new namespaces.
func try(flags uintptr) error {
	cmd := exec.Command("/bin/true")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  flags,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
	return cmd.Run()
}
