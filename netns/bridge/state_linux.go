package bridge

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"skiff/internal/smallfile"
)

// A state is what was found and decided when the host's packet filters were
// last looked at. It holds while nftables' generation is the same.
type state struct {
	netns          uint64 // inode of the host's network namespace
	gen            uint32 // nftables generation before the look
	subnet         netip.Prefix
	forward, input string // who drops packets for good, or ""
	guarded        bool   // of what containers send to the host, INPUT lets exceptions in only
}

func (s state) current(netns uint64, gen uint32, subnet netip.Prefix) bool {
	return s.subnet.IsValid() && s.netns == netns && s.gen == gen && (!subnet.IsValid() || subnet.Masked() == s.subnet)
}

// stateName is the state's file: one value a line.
const stateName = "host"

// readState reads the state; one that is missing or not understood is the zero
// state, which is never current.
func readState(dir string) state {
	text, err := smallfile.Read(filepath.Join(dir, stateName))
	if err != nil {
		return state{}
	}
	lines := strings.Split(string(text), "\n")
	if len(lines) != 7 || lines[6] != "" {
		return state{}
	}
	var s state
	var errs [4]error
	s.netns, errs[0] = strconv.ParseUint(lines[0], 10, 64)
	gen, err := strconv.ParseUint(lines[1], 10, 32)
	s.gen, errs[1] = uint32(gen), err
	s.subnet, errs[2] = netip.ParsePrefix(lines[2])
	s.forward, s.input = lines[3], lines[4]
	s.guarded, errs[3] = strconv.ParseBool(lines[5])
	if errors.Join(errs[:]...) != nil || !s.subnet.Addr().Is4() {
		return state{}
	}
	return s
}

// writeState replaces the state's file. The caller holds the lock.
func writeState(dir string, s state) error {
	text := fmt.Sprintf("%d\n%d\n%s\n%s\n%s\n%t\n", s.netns, s.gen, s.subnet, line(s.forward), line(s.input), s.guarded)
	temp := filepath.Join(dir, stateName+"~")
	if err := os.WriteFile(temp, []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(temp, filepath.Join(dir, stateName))
}

// line keeps another program's chain name from being more than one line.
func line(s string) string { return strings.ReplaceAll(s, "\n", " ") }

func removeState(dir string) error {
	err := os.Remove(filepath.Join(dir, stateName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
