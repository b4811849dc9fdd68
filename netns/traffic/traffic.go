// Package traffic tells how much a container's links have carried.
//
// The counters are the kernel's own, of the links in the container's network
// namespace. They cost nothing to keep, are the same whether the relay or root's
// network carries, and whoever may see the process may read them: nothing has to
// be asked of the skiff that runs the container.
//
// Limits: what the relay forwards is counted as it enters and leaves the container, with
// the headers of its link, not as it leaves the host. A link that the container
// makes is listed too.
package traffic

import (
	"fmt"
	"strconv"
	"strings"

	"skiff/internal/smallfile"
)

// A Link is the counters of one link since it was made. In and out are the container's.
type Link struct {
	Name                  string
	BytesIn, BytesOut     uint64
	PacketsIn, PacketsOut uint64
	DroppedIn, DroppedOut uint64
	ErrorsIn, ErrorsOut   uint64
}

// Of reads the counters of the network namespace of a process, all but the loopback's.
func Of(pid int) ([]Link, error) {
	name := "/proc/" + strconv.Itoa(pid) + "/net/dev"
	text, err := smallfile.Read(name)
	if err != nil {
		return nil, err
	}
	links, err := parse(string(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return links, nil
}

// parse reads what proc_pid_net(5) describes: two lines of titles, then for each
// link eight numbers in and eight out.
func parse(text string) (links []Link, err error) {
	n := 0
	for line := range strings.Lines(text) {
		if n++; n <= 2 {
			continue
		}
		name, numbers, ok := strings.Cut(strings.TrimSpace(line), ":")
		f := strings.Fields(numbers)
		if !ok || len(f) < 16 {
			return nil, fmt.Errorf("line %d makes no sense", n)
		}
		if name == "lo" {
			continue
		}
		l := Link{Name: name}
		for i, to := range [...]*uint64{0: &l.BytesIn, 1: &l.PacketsIn, 2: &l.ErrorsIn, 3: &l.DroppedIn,
			8: &l.BytesOut, 9: &l.PacketsOut, 10: &l.ErrorsOut, 11: &l.DroppedOut} {
			if to == nil {
				continue
			}
			if *to, err = strconv.ParseUint(f[i], 10, 64); err != nil {
				return nil, fmt.Errorf("line %d: %w", n, err)
			}
		}
		links = append(links, l)
	}
	return links, nil
}
