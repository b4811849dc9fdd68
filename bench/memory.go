package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// memory measures what a running container costs beside its own program.
func (h *host) memory(out io.Writer) {
	// A monitor that detaches itself becomes ours, so that it is found.
	unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	defer unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	for _, a := range h.accounts {
		t := newTable(out, "Memory beside a running container's program, "+a.kind()+", KiB", "", "processes", "threads", "private dirty", "private clean", "PSS", "RSS")
		for _, c := range []*contender{
			h.bySkiff(a, "skiff, network none", skiffNone, h.one, "none"),
			h.bySkiff(a, "skiff, default network", skiffDefault, h.one, "default"),
			h.bySkiff(a, "skiff, host network", skiffHost, h.one, "host"),
			h.byReference(a, "C, same work", reference),
			h.byBwrap(a),
			h.byPodman(a, "none"),
			h.byPodman(a, "default"),
		} {
			if c.why == "" {
				c.probe()
			}
			if c.why != "" {
				t.without(c.name, c.why)
				continue
			}
			m, err := c.idle()
			if err != nil {
				t.without(c.name, firstLines(err.Error()))
				continue
			}
			t.row(c.name, fmt.Sprint(m.processes), fmt.Sprint(m.threads), fmt.Sprint(m.dirty), fmt.Sprint(m.clean), fmt.Sprint(m.pss), fmt.Sprint(m.rss))
		}
		t.flush()
	}
}

// usage is of several processes together, in KiB.
type usage struct {
	processes, threads     int
	dirty, clean, pss, rss int
}

// idle runs a container whose shell waits, lets it settle, and adds up its
// helpers: every process below the benchmarks except busybox.
func (c *contender) idle() (u usage, err error) {
	upR, upW, err := os.Pipe()
	if err != nil {
		return u, err
	}
	defer upR.Close()
	goR, goW, err := os.Pipe()
	if err != nil {
		return u, err
	}
	before := descendants(os.Getpid()) // another engine's pause process
	pid, said, err := c.attended("/bin/sh", "-c", "printf u; read x; exit 0").start(goR, upW)
	upW.Close()
	goR.Close()
	if err != nil {
		goW.Close()
		return u, err
	}
	var b [1]byte
	n, _ := upR.Read(b[:])
	if n == 1 {
		time.Sleep(500 * time.Millisecond)
		for _, p := range descendants(os.Getpid()) {
			// A zombie, or what runs in the container, has no part in it.
			exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p))
			if err != nil || filepath.Base(exe) == "busybox" || slices.Contains(before, p) {
				continue
			}
			u.add(p)
		}
	}
	goW.Close()
	var ws syscall.WaitStatus
	syscall.Wait4(pid, &ws, 0, nil)
	for wpid := 1; wpid > 0; { // adopted ones
		wpid, _ = syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
	}
	err = failure(ws, said())
	if err == nil && u.rss == 0 {
		err = fmt.Errorf("no process to look at")
	}
	return u, err
}

// add adds a process. Source: proc_pid_smaps(5), smaps_rollup.
func (u *usage) add(pid int) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return
	}
	u.processes++
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	u.threads += len(tasks)
	for line := range bytes.Lines(text) {
		f := strings.Fields(string(line))
		if len(f) != 3 {
			continue
		}
		n, _ := strconv.Atoi(f[1])
		switch f[0] {
		case "Private_Dirty:":
			u.dirty += n
		case "Private_Clean:":
			u.clean += n
		case "Pss:":
			u.pss += n
		case "Rss:":
			u.rss += n
		}
	}
}

// descendants are the processes below one.
func descendants(root int) (list []int) {
	children := map[int][]int{}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		f, err := os.Open(d + "/status")
		if err != nil {
			continue
		}
		for s := bufio.NewScanner(f); s.Scan(); {
			if parent, ok := strings.CutPrefix(s.Text(), "PPid:"); ok {
				ppid, _ := strconv.Atoi(strings.TrimSpace(parent))
				pid, _ := strconv.Atoi(filepath.Base(d))
				children[ppid] = append(children[ppid], pid)
				break
			}
		}
		f.Close()
	}
	for next := children[root]; len(next) > 0; {
		list = append(list, next...)
		var below []int
		for _, p := range next {
			below = append(below, children[p]...)
		}
		next = below
	}
	return list
}
