package main

import (
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long containers that are started at once may take.
const patience = 3 * time.Minute

// atOnce starts many containers at once: 100 that end at once, and 100 and n
// that wait until all are there. Slow peers start 30.
func (h *host) atOnce(out io.Writer, n int) {
	for _, a := range h.accounts {
		t := newTable(out, "Started at once, "+a.kind()+", seconds", "", "containers", "failed", "all up", "all gone", "ms each", "left over")
		failed := failures{}
		row := func(c *contender, n int, stay bool) {
			name := c.name + ", true"
			if stay {
				name = c.name + ", running together"
			}
			if c.why == "" {
				c.probe()
			}
			if c.why != "" {
				t.without(c.name, c.why)
				return
			}
			r := c.crowd(n, stay, failed)
			up := "-"
			if stay {
				up = fmt.Sprintf("%.2f", r.up.Seconds())
			}
			t.row(name, fmt.Sprint(n), fmt.Sprint(r.failed), up, fmt.Sprintf("%.2f", r.gone.Seconds()),
				ms(r.gone/time.Duration(n)), r.left)
		}
		row(h.byReference(a, "C, same work", reference), 100, false)
		for _, network := range []string{"none", "default"} {
			c := h.bySkiff(a, "skiff, "+network, skiffNone, h.one, network)
			row(c, 100, false)
			row(c, 100, true)
			row(c, n, true)
		}
		row(h.byPodman(a, "none"), 30, false)
		row(h.byDocker(a, "none"), 30, false)
		t.flush()
		failed.print(out)
	}
}

// A crowd is what became of containers started at once.
type crowd struct {
	failed   int
	up, gone time.Duration // from the first fork until all ran, until all were reaped
	left     string        // what is still there of them
}

// crowd starts n containers as fast as it can fork. If they stay, each says so on
// a pipe that all share, and reads another until that is closed, which is done
// when all run or have failed.
func (c *contender) crowd(n int, stay bool, failed failures) (r crowd) {
	upR, upW, err := os.Pipe()
	if err != nil {
		failed.add(c.name, err)
		return r
	}
	goR, goW, err := os.Pipe()
	if err != nil {
		failed.add(c.name, err)
		return r
	}
	defer upR.Close()
	var ups atomic.Int64
	go func() {
		var b [4096]byte
		for {
			n, err := upR.Read(b[:])
			if err != nil {
				return
			}
			ups.Add(int64(n))
		}
	}()
	program := []string{"/bin/true"}
	if stay {
		program = []string{"/bin/sh", "-c", "printf u; read x; exit 0"}
	}

	interfaces := entries("/sys/class/net")
	running := map[int]func() string{}
	begin := time.Now()
	for range n {
		pid, said, err := c.attended(program...).start(goR, upW)
		if err != nil {
			failed.add(c.name, err)
			r.failed++
			continue
		}
		running[pid] = said
	}
	goR.Close()
	upW.Close()
	reap := func(flags int) bool {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, flags, nil)
		said := running[pid]
		if err != nil || pid <= 0 || said == nil {
			return pid > 0
		}
		delete(running, pid)
		if err := failure(ws, said()); err != nil {
			failed.add(c.name, err)
			r.failed++
		}
		return true
	}
	if stay {
		for int(ups.Load())+r.failed < n && time.Since(begin) < patience {
			if !reap(syscall.WNOHANG) {
				time.Sleep(time.Millisecond)
			}
		}
		r.up = time.Since(begin)
		if late := n - r.failed - int(ups.Load()); late > 0 {
			failed.add(c.name, fmt.Errorf("%d of %d containers did not run after %v", late, n, patience))
			r.failed += late
		}
	}
	goW.Close()
	for killed := false; len(running) > 0; {
		if !reap(syscall.WNOHANG) {
			time.Sleep(time.Millisecond)
		}
		if !killed && time.Since(begin) > 2*patience {
			killed = true
			for pid := range running {
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	}
	r.gone = time.Since(begin)
	r.left = c.leftovers(interfaces)
	// The kernel takes network namespaces apart afterwards, one after the other.
	time.Sleep(time.Duration(n) * 5 * time.Millisecond)
	return r
}

// leftovers counts what the containers left in the store and of network
// interfaces. The kernel takes links away some time after their namespaces.
func (c *contender) leftovers(interfaces int) string {
	files, links := 0, 0
	for range 50 {
		files, links = 0, entries("/sys/class/net")-interfaces
		for _, dir := range c.stored {
			files += entries(dir)
		}
		if files == 0 && links <= 1 { // a bridge may stay
			return "nothing"
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Sprintf("%d files, %d links", files, links)
}

// entries counts the names in a directory, hidden ones aside.
func entries(dir string) int {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0
	}
	f := os.NewFile(uintptr(fd), dir)
	defer f.Close()
	names, _ := f.Readdirnames(-1)
	n := 0
	for _, name := range names {
		if name[0] != '.' {
			n++
		}
	}
	return n
}
