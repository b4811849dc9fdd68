package main

import (
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"skiff/internal/idmap"
	"skiff/pull/store"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// busybox is the userland of the scripts' images: Debian's busybox-static.
const busybox = "/bin/busybox"

// static says why a program cannot run in an empty root.
func static(name string) error {
	f, err := elf.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("%s is dynamically linked; busybox-static is wanted", name)
		}
	}
	return nil
}

// applets are busybox's programs.
var applets = sync.OnceValues(func() ([]string, error) {
	out, err := exec.Command(busybox, "--list").Output()
	return strings.Fields(string(out)), err
})

func reference(name string) string { return "localhost/" + name + ":latest" }

// image NAME [KEY=VALUE...] puts an image in the script's store: busybox and
// one layer for each KEY=VALUE that changes files, applied in order.
//
//	entrypoint= cmd=  words, or a JSON array
//	user= workdir= stopsignal= env=K=V expose=PORT/PROTO
//	file=PATH=TEXT    mode 0755; \n in TEXT is a new line
//	dir=PATH  link=PATH=TARGET  rm=PATH (a whiteout)
//	base=none         without busybox
//	more=N            N more layers
func image(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: image NAME [KEY=VALUE...]")
	}
	ts.Check(build(ts.Getenv("SKIFF_ROOT"), args[0], args[1:]))
}

func build(root, name string, settings []string) error {
	st, err := store.Open(root)
	if err != nil {
		return err
	}
	defer st.Close()
	if ids, _ := idmap.Choose(); ids.Kind == idmap.Single {
		st.IDs = store.Single
	}
	img := &store.Image{
		Reference: reference(name), OS: "linux", Arch: runtime.GOARCH, IDs: st.IDs, Pulled: time.Now(),
		Config: store.Config{Env: []string{"PATH=/bin"}, Cmd: []string{"sh"}},
	}
	steps := []string{}
	base := true
	for _, s := range settings {
		key, value, ok := strings.Cut(s, "=")
		if !ok {
			return fmt.Errorf("image: %s: no KEY=VALUE", s)
		}
		c := &img.Config
		switch key {
		case "entrypoint":
			c.Entrypoint, err = words(value)
		case "cmd":
			c.Cmd, err = words(value)
		case "user":
			c.User = value
		case "workdir":
			c.WorkingDir = value
		case "stopsignal":
			c.StopSignal = value
		case "expose":
			c.ExposedPorts = append(c.ExposedPorts, value)
		case "env":
			c.Env = append(c.Env, value)
		case "base":
			base = value != "none"
		case "more":
			n := 0
			_, err = fmt.Sscan(value, &n)
			for i := range n {
				steps = append(steps, fmt.Sprintf("file=/layer/%d=%d", i, i))
			}
		case "file", "dir", "link", "rm":
			steps = append(steps, s)
		default:
			err = fmt.Errorf("unknown key %q", key)
		}
		if err != nil {
			return fmt.Errorf("image: %s: %w", s, err)
		}
	}
	if base {
		steps = append([]string{"busybox"}, steps...)
	}
	chain := ""
	for _, step := range steps {
		chain = fmt.Sprintf("%x", sha256.Sum256([]byte(step)))
		diffID := v1.Hash{Algorithm: "sha256", Hex: chain}
		img.DiffIDs = append(img.DiffIDs, diffID)
		stage, err := st.StageLayer(context.Background(), diffID)
		if err != nil {
			return err
		}
		if stage == nil {
			continue
		}
		if err := fill(stage.Dir(), step); err != nil {
			stage.Abort()
			return fmt.Errorf("image: %s: %w", step, err)
		}
		if err := stage.Commit(store.LayerRecord{Size: 1, Entries: 1}); err != nil {
			return err
		}
	}
	id := sha256.Sum256(fmt.Appendf(nil, "%s%q", name, settings))
	img.ID = v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%x", id)}
	return st.PutImage(img)
}

func words(s string) ([]string, error) {
	if strings.HasPrefix(s, "[") {
		var list []string
		return list, json.Unmarshal([]byte(s), &list)
	}
	return strings.Fields(s), nil
}

// fill writes the changeset of one step.
func fill(dir, step string) error {
	key, rest, _ := strings.Cut(step, "=")
	path, text, _ := strings.Cut(rest, "=")
	at := dir + filepath.Clean("/"+path)
	if key == "busybox" {
		return userland(dir)
	}
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	switch key {
	case "file":
		return os.WriteFile(at, []byte(strings.ReplaceAll(text, `\n`, "\n")), 0o755)
	case "dir":
		return os.MkdirAll(at, 0o755)
	case "link":
		return os.Symlink(text, at)
	}
	// Source: overlayfs.rst, "whiteouts and opaque directories".
	return unix.Mknod(at, unix.S_IFCHR, 0)
}

func userland(dir string) error {
	list, err := applets()
	if err != nil {
		return err
	}
	for _, d := range []string{"bin", "etc", "root", "tmp"} {
		if err := os.Mkdir(dir+"/"+d, 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(dir+"/tmp", 0o1777); err != nil {
		return err
	}
	if err := copyFile(dir+"/bin/busybox", busybox, 0o755); err != nil {
		return err
	}
	for _, a := range list {
		if a == "busybox" {
			continue
		}
		if err := os.Symlink("busybox", dir+"/bin/"+a); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{
		"passwd": "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n",
		"group":  "root:x:0:\nalice:x:1000:\nstaff:x:50:alice\ngames:x:60:\n",
	} {
		if err := os.WriteFile(dir+"/etc/"+name, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(to, from string, mode os.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if errClose := out.Close(); err == nil {
		err = errClose
	}
	if err == nil {
		err = os.Chmod(to, mode)
	}
	return err
}
