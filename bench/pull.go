package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"
)

// A puller is one row of a table of pulls.
type puller struct {
	name  string
	why   string // why it cannot be measured, or ""
	pull  command
	clean []command // takes away what the pull brought; not timed
	dirs  []string  // likewise, and removed
}

// pulls times pulls of whole images from one registry on loopback. Its share of
// the two processors is in every row.
func (h *host) pulls(out io.Writer, rounds int, only string) error {
	rounds = max(rounds/20, 3)
	images, end, err := startRegistry()
	if err != nil {
		return err
	}
	defer end()
	// What a child has had in memory before it executed counts for its peak: that is
	// this process, which has switched collecting off.
	defer debug.SetGCPercent(debug.SetGCPercent(20))
	for _, l := range images {
		if !strings.HasPrefix(l.Name, only) {
			continue
		}
		for _, a := range h.accounts {
			t := newTable(out, fmt.Sprintf("Pull of %s, %s: %d layers, %d MB packed, %d MB unpacked", l.Name, a.kind(), len(l.Blobs), l.Packed>>20, l.Size>>20),
				"", "n", "median s", "least s", "x skiff", "CPU s", "CPU s/GB", "MB peak")
			list := h.pullers(a, l)
			results, failed := pullInTurns(list, rounds)
			base := median(walls(results[list[0]]))
			for _, p := range list {
				r := results[p]
				if len(r) == 0 {
					t.without(p.name, p.why)
					continue
				}
				cpu := median(cpus(r))
				t.row(p.name, fmt.Sprint(len(r)), seconds(median(walls(r))), seconds(quantile(walls(r), 0, mixDurations)), ratio(median(walls(r)), base),
					seconds(cpu), fmt.Sprintf("%.2f", cpu.Seconds()/(float64(l.Size)/1e9)), fmt.Sprint(medianInt(peaks(r))>>20))
			}
			t.flush()
			failed.print(out)
			if l.Last != "" {
				h.firsts(out, a, l, rounds)
			}
		}
	}
	return nil
}

// firsts times how long after the last byte of an absent image its first process
// begins: the time that the process itself tells.
func (h *host) firsts(out io.Writer, a *account, l served, rounds int) {
	t := newTable(out, fmt.Sprintf("First process of an absent image, %s, %s: after the last byte was sent", l.Name, a.kind()), "", "n", "median ms", "least ms")
	list := h.runners(a, l)
	results, failed := map[*puller][]time.Duration{}, failures{}
	for range rounds {
		for _, i := range rand.Perm(len(list)) {
			p := list[i]
			if p.why != "" {
				continue
			}
			p.reset()
			said, err := p.pull.output()
			p.reset()
			if err == nil {
				var took time.Duration
				if took, err = l.since(said); err == nil {
					results[p] = append(results[p], took)
				}
			}
			if err != nil {
				failed.add(p.name, err)
			}
		}
	}
	for _, p := range list {
		if r := results[p]; len(r) > 0 {
			t.row(p.name, fmt.Sprint(len(r)), ms(median(r)), ms(quantile(r, 0, mixDurations)))
		} else {
			t.without(p.name, p.why)
		}
	}
	t.flush()
	failed.print(out)
}

// since is from the last byte to the seconds since 1970 that the first line tells.
func (l served) since(said string) (time.Duration, error) {
	answer, err := http.Get(l.Last)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	var last int64
	if _, err := fmt.Fscan(answer.Body, &last); err != nil {
		return 0, err
	}
	var seconds, micro int64
	if _, err := fmt.Sscanf(said, "%d.%6d", &seconds, &micro); err != nil {
		return 0, fmt.Errorf("%q: %w", said, err)
	}
	return time.Duration(seconds*1e9 + micro*1e3 - last), nil
}

// runners run the image's busybox; as pullers.
func (h *host) runners(a *account, l served) []*puller {
	var list []*puller
	run := func(argv ...string) []string {
		return append(argv, l.Reference, busybox, "sh", "-c", "echo $EPOCHREALTIME")
	}
	for _, p := range h.pullers(a, l) {
		argv := p.pull.argv
		switch p.name {
		case "skiff pull", "another skiff":
			p.pull.argv = run(argv[0], "run", "--rm", "--quiet", "--network", "none")
		case "podman pull":
			p.pull.argv = run(h.podman(a, "run", "--rm", "--quiet", "--log-driver", "none", "--network", "none", "--tls-verify=false")...)
			p.pull.pureCgroups = true
		case "docker pull":
			p.pull.argv = run(argv[0], "run", "--rm", "--quiet", "--network", "none")
		default:
			continue
		}
		p.name = strings.TrimSuffix(p.name, " pull") + " run"
		list = append(list, p)
	}
	return list
}

// pullInTurns runs each once in every round, in an order drawn anew.
func pullInTurns(list []*puller, rounds int) (map[*puller][]sample, failures) {
	results, failed := map[*puller][]sample{}, failures{}
	for round := range rounds {
		for _, i := range rand.Perm(len(list)) {
			p := list[i]
			if p.why != "" {
				continue
			}
			p.reset()
			s := p.pull.measure()
			p.reset()
			if s.err != nil {
				failed.add(p.name, s.err)
				continue
			}
			s.round = round
			results[p] = append(results[p], s)
		}
	}
	return results, failed
}

func (p *puller) reset() {
	for _, c := range p.clean {
		c.output() // nothing may be there
	}
	for _, d := range p.dirs {
		os.RemoveAll(d)
	}
}

// pullers are those of one account, skiff first. docker and ctr are root's, where
// their daemons run.
func (h *host) pullers(a *account, l served) []*puller {
	ref := l.Reference
	by := func(name, program string, argv ...string) *puller {
		return &puller{name: name, why: installed(program), pull: command{argv: append([]string{program}, argv...), as: a}}
	}
	skiff := by("skiff pull", h.skiff, "pull", "-q", ref)
	skiff.clean = []command{{argv: []string{h.skiff, "rmi", "-f", ref}, as: a}}
	list := []*puller{skiff}
	if h.versus != "" {
		other := by("another skiff", h.versus, "pull", "-q", ref)
		other.clean = skiff.clean
		list = append(list, other)
	}

	podman := by("podman pull", "podman", h.podman(a, "pull", "-q", "--tls-verify=false", ref)[1:]...)
	podman.clean = []command{{argv: h.podman(a, "rmi", "-f", ref), as: a}}
	if podman.why == "" {
		if err := h.preparePodman(a); err != nil {
			podman.why = firstLines(err.Error())
		}
	}
	list = append(list, podman)

	layout := filepath.Join(a.dir, "layout")
	skopeo := by("skopeo copy to a layout (unpacks nothing)", "skopeo", "copy", "-q", "--src-tls-verify=false", "docker://"+ref, "oci:"+layout+":latest")
	skopeo.dirs = []string{layout}
	list = append(list, skopeo)

	if a.self && a.uid == 0 {
		docker := by("docker pull", "docker", "pull", "-q", ref)
		docker.clean = []command{{argv: []string{"docker", "rmi", "-f", ref}, as: a}}
		if docker.why == "" && !listens("/var/run/docker.sock") {
			docker.why = "docker: no daemon runs"
		}
		ctr := by("ctr images pull", "ctr", "-n", "bench", "images", "pull", "--plain-http", ref)
		ctr.clean = []command{{argv: []string{"ctr", "-n", "bench", "images", "rm", "--sync", ref}, as: a}}
		if ctr.why == "" && !listens("/run/containerd/containerd.sock") {
			ctr.why = "ctr: no containerd runs"
		}
		list = append(list, docker, ctr)
	}

	dir, decoder := filepath.Join(a.dir, "pipe"), "igzip"
	if l.Zstd {
		decoder = "zstd"
	}
	script := `urls=$1; mkdir -p "$2"; printf '%s\n' $urls | xargs -P2 -I{} sh -c 'd=$(mktemp -d "$1/XXXXXX") && curl -s "$2" | ` +
		decoder + ` -dc | tar -xf - -C "$d"' - "$2" {}`
	pipe := by("curl | "+decoder+" -d | tar x, two at a time (verifies nothing)", "sh", "-c", script, "-", strings.Join(l.Blobs, " "), dir)
	for _, program := range []string{"curl", decoder, "tar"} {
		if pipe.why == "" {
			pipe.why = installed(program)
		}
	}
	pipe.dirs = []string{dir}
	return append(list, pipe)
}

// listens reports whether a daemon answers at a socket.
func listens(path string) bool {
	c, err := net.Dial("unix", path)
	if err == nil {
		c.Close()
	}
	return err == nil
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f", d.Seconds()) }

func peaks(list []sample) (n []int64) {
	for _, s := range list {
		n = append(n, s.peak)
	}
	return n
}
