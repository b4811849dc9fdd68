package bridge

import (
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"skiff/netns/dns"
	"skiff/netns/lease"
)

// TestManyContainers attaches 100 containers from 20 goroutines and has each
// reach the outside at once.
func TestManyContainers(t *testing.T) {
	if !inHost(t) {
		return
	}
	w := newWorld(t)
	pool, err := lease.Open(filepath.Join(w.dir, "leases"))
	w.must(err)
	work := make(chan int)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for i := range work {
				h, err := Prepare(Options{Dir: w.dir})
				if err != nil {
					t.Error(err)
					return
				}
				l, err := pool.Acquire(h.Subnet, h.Gateway, lease.Info{})
				if err != nil {
					t.Error(err)
					return
				}
				s := newSpace(t)
				if _, err := h.Attach(Container{ID: fmt.Sprintf("%011x", i), Addr: l.Addr, NSFD: s.fd, InsideFD: s.route.FD()}); err != nil {
					t.Error(err)
				}
				h.Close()
				w.expect(s, "tcp4", outsideAddr+":80", hostAddr)
				s.end()
				l.Release()
			}
		})
	}
	for i := range 100 {
		work <- i
	}
	close(work)
	wg.Wait()
	w.waitGone()
}

// TestCost prints what a start pays; -v shows it. It fails only if a step takes
// ten times its budget, so that a loaded machine does not matter.
func TestCost(t *testing.T) {
	if !inHost(t) {
		return
	}
	w := newWorld(t)
	pool, err := lease.Open(filepath.Join(w.dir, "leases"))
	w.must(err)
	start := time.Now()
	w.prepare()
	t.Logf("%-22s %v", "first Prepare", time.Since(start))
	steps := map[string][]time.Duration{}
	for i := range 100 {
		s := newSpace(t)
		at := time.Now()
		lap := func(step string) {
			steps[step] = append(steps[step], time.Since(at))
			at = time.Now()
		}
		h, err := Prepare(Options{Dir: w.dir})
		w.must(err)
		lap("Prepare")
		l, err := pool.Acquire(h.Subnet, h.Gateway, lease.Info{ID: "0123456789ab", Name: "n", PID: 1})
		w.must(err)
		lap("Acquire")
		c := Container{ID: fmt.Sprintf("%011x", i), Addr: l.Addr, NSFD: s.fd, InsideFD: s.route.FD()}
		step := "Attach"
		if i%2 == 1 {
			step = "Attach with DNS"
			c.DNS = dns.New(nil, func() dns.Upstreams { return dns.Upstreams{} })
		}
		n, err := h.Attach(c)
		w.must(err)
		lap(step)
		w.must(n.Close())
		w.must(h.Close())
		w.must(l.Release())
		lap("Close")
		s.end()
		time.Sleep(30 * time.Millisecond) // the kernel takes the last one down
	}
	for _, step := range []string{"Prepare", "Acquire", "Attach", "Attach with DNS", "Close"} {
		d := steps[step]
		slices.Sort(d)
		t.Logf("%-22s median %v, p10 %v, p90 %v", step, d[len(d)/2], d[len(d)/10], d[len(d)*9/10])
		if d[len(d)/2] > 25*time.Millisecond {
			t.Errorf("%s takes %v", step, d[len(d)/2])
		}
	}
}
