package layers

import (
	"strconv"
	"strings"
)

// paxRecords are the records of one extended header that matter here, in
// order; of several with one key the last one counts.
// Source: POSIX.1-2017 pax, "pax Extended Header"; GNU tar manual, "PAX".
type paxRecords []xattr

const (
	paxXattr  = "SCHILY.xattr."
	paxSparse = "GNU.sparse."
)

// parsePAX splits "LENGTH KEY=VALUE\n" records.
func parsePAX(text []byte) (paxRecords, error) {
	var records paxRecords
	for len(text) > 0 {
		space := strings.IndexByte(string(text[:min(len(text), 10)]), ' ')
		if space < 1 {
			return nil, malformed("bad length in an extended header")
		}
		n, err := strconv.ParseUint(string(text[:space]), 10, 32)
		if err != nil || n > uint64(len(text)) || int(n) < space+2 || text[n-1] != '\n' {
			return nil, malformed("bad length in an extended header")
		}
		record := string(text[space+1 : n-1])
		text = text[n:]
		key, value, ok := strings.Cut(record, "=")
		if !ok || key == "" || strings.IndexByte(key, 0) >= 0 {
			return nil, malformed("bad key in an extended header")
		}
		switch key {
		case "path", "linkpath", "uname", "gname":
			if strings.IndexByte(value, 0) >= 0 {
				return nil, malformed("NUL in %s of an extended header", key)
			}
		}
		switch {
		case key == "path", key == "linkpath", key == "uid", key == "gid", key == "size", key == "mtime",
			strings.HasPrefix(key, paxXattr), strings.HasPrefix(key, paxSparse):
			records = append(records, xattr{key, value})
		}
	}
	return records, nil
}

// get returns the last value of a key, or "".
func (p paxRecords) get(key string) string {
	for i := len(p) - 1; i >= 0; i-- {
		if p[i].name == key {
			return p[i].value
		}
	}
	return ""
}

// merge puts the records into h. An empty value leaves what h has.
func (p paxRecords) merge(h *header) error {
	for _, r := range p {
		if r.value == "" {
			continue
		}
		ok := true
		switch r.name {
		case "path":
			h.name = r.value
		case "linkpath":
			h.link = r.value
		case "uid":
			h.uid, ok = parseDecimal(r.value)
		case "gid":
			h.gid, ok = parseDecimal(r.value)
		case "size":
			h.size, ok = parseDecimal(r.value)
		case "mtime":
			h.mtime, ok = parseTime(r.value)
		default:
			if name, isXattr := strings.CutPrefix(r.name, paxXattr); isXattr {
				h.xattrs = append(h.xattrs, xattr{name, r.value})
			}
		}
		if !ok {
			return malformed("bad %s of entry %s", r.name, quote(h.name))
		}
	}
	return nil
}

func parseDecimal(s string) (int64, bool) {
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

// parseTime reads seconds with a fraction of any length.
func parseTime(s string) (timestamp, bool) {
	whole, fraction, _ := strings.Cut(s, ".")
	sec, err := strconv.ParseInt(whole, 10, 64)
	if err != nil {
		return timestamp{}, false
	}
	for i := range len(fraction) {
		if fraction[i] < '0' || fraction[i] > '9' {
			return timestamp{}, false
		}
	}
	nsec, _ := strconv.ParseInt((fraction + "000000000")[:9], 10, 32)
	if strings.HasPrefix(whole, "-") && nsec > 0 {
		// -1.3 s is 0.7 s after -2 s.
		if sec--; sec > 0 {
			return timestamp{}, false
		}
		nsec = 1e9 - nsec
	}
	return timestamp{sec, int32(nsec)}, true
}
