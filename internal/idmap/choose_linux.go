package idmap

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"skiff/internal/smallfile"
)

// rootBase is where root's containers live among the host's ids when
// /etc/subuid names no range for root: above systemd's container range and
// below its foreign range. Source: systemd's UIDS-GIDS page.
const (
	rootBase = 1879048192
	fullSize = 65536
)

// ErrNoSubordinate says why a user gets a single id; Choose returns it beside
// a usable map of kind Single.
var ErrNoSubordinate = errors.New("no subordinate ids")

// Choose returns the map for containers of the calling user. The second result
// is not nil where a better rung of the ladder was missed: it wraps
// ErrNoSubordinate, or says why root's container stays in the host's user
// namespace. The map is usable all the same.
func Choose() (Map, error) {
	uid, gid := uint32(os.Geteuid()), uint32(os.Getegid())
	if uid == 0 {
		return chooseRoot()
	}
	single := Map{Kind: Single, UIDs: []Range{{0, uid, 1}}, GIDs: []Range{{0, gid, 1}}}
	name := userName(uid)
	uids, err := subordinate("/etc/subuid", name, uid)
	if err != nil {
		return single, err
	}
	gids, err := subordinate("/etc/subgid", name, uid)
	if err != nil {
		return single, err
	}
	for _, helper := range helpers {
		if _, err := exec.LookPath(helper); err != nil {
			return single, fmt.Errorf("%w: %s: not found in PATH", ErrNoSubordinate, helper)
		}
	}
	return Map{Kind: Subordinate, UIDs: withSelf(uid, uids), GIDs: withSelf(gid, gids)}, nil
}

// OwnID is the map of kind Single, whatever the caller could have.
func OwnID() Map {
	return Map{Kind: Single,
		UIDs: []Range{{0, uint32(os.Geteuid()), 1}},
		GIDs: []Range{{0, uint32(os.Getegid()), 1}}}
}

var helpers = [...]string{"newuidmap", "newgidmap"}

// chooseRoot gives root 65536 ids of its own, if it has that many to give.
func chooseRoot() (Map, error) {
	base := uint32(rootBase)
	uids, errU := subordinate("/etc/subuid", "root", 0)
	gids, errG := subordinate("/etc/subgid", "root", 0)
	if errU == nil && errG == nil && uids[0].Size >= fullSize && gids[0].Size >= fullSize {
		return within(Map{Kind: Root,
			UIDs: []Range{{0, uids[0].Host, fullSize}},
			GIDs: []Range{{0, gids[0].Host, fullSize}}})
	}
	return within(Map{Kind: Root, UIDs: []Range{{0, base, fullSize}}, GIDs: []Range{{0, base, fullSize}}})
}

// within falls back to the host's user namespace where the caller itself lives
// in one that lacks the ids, as root of another container does; and to a single
// id where it has but one, as root of `unshare -r` does.
func within(m Map) (Map, error) {
	own, err := smallfile.Read("/proc/self/uid_map")
	if err != nil {
		return Map{Kind: Host}, err
	}
	all := uint64(0)
	for line := range strings.Lines(string(own)) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		first, _ := strconv.ParseUint(f[0], 10, 64)
		size, _ := strconv.ParseUint(f[2], 10, 64)
		if low := uint64(m.UIDs[0].Host); low >= first && low+fullSize <= first+size {
			return m, nil
		}
		all += size
	}
	if all == 1 {
		return OwnID(), fmt.Errorf("%w: one id is mapped here", ErrNoSubordinate)
	}
	return Map{Kind: Host}, fmt.Errorf("ids %d-%d are not mapped here", m.UIDs[0].Host, m.UIDs[0].Host+fullSize-1)
}

// subordinate reads the ranges of a user from /etc/subuid or /etc/subgid.
// Source: subuid(5). Entries go by name or by number.
func subordinate(file, name string, uid uint32) ([]Range, error) {
	text, err := smallfile.Read(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrNoSubordinate, err)
	}
	number := strconv.FormatUint(uint64(uid), 10)
	var ranges []Range
	for line := range strings.Lines(string(text)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 3 || f[0] == "" || f[0] != name && f[0] != number {
			continue
		}
		first, err1 := strconv.ParseUint(f[1], 10, 32)
		size, err2 := strconv.ParseUint(f[2], 10, 32)
		if err1 != nil || err2 != nil || size == 0 || first+size > 1<<32-1 {
			return nil, fmt.Errorf("%w: %s: bad line %q", ErrNoSubordinate, file, line)
		}
		ranges = append(ranges, Range{Host: uint32(first), Size: uint32(size)})
	}
	if len(ranges) == 0 {
		return nil, fmt.Errorf("%w: %s has no entry for user %s", ErrNoSubordinate, file, name)
	}
	return ranges, nil
}

// withSelf maps 0 to the caller and 1, 2, … to its subordinate ranges.
func withSelf(self uint32, ranges []Range) []Range {
	m := []Range{{0, self, 1}}
	next := uint32(1)
	for _, r := range ranges {
		m = append(m, Range{next, r.Host, r.Size})
		next += r.Size
	}
	return m
}

// userName finds the caller's name in /etc/passwd, or returns the number.
// There is no look-up through NSS: the binary is static.
func userName(uid uint32) string {
	number := strconv.FormatUint(uint64(uid), 10)
	text, _ := smallfile.Read("/etc/passwd")
	for line := range strings.Lines(string(text)) {
		if f := strings.SplitN(line, ":", 4); len(f) == 4 && f[2] == number {
			return f[0]
		}
	}
	return number
}
