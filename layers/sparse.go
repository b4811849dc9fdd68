package layers

import (
	"strconv"
	"strings"
)

// A fragment is a run of a sparse file that has content.
type fragment struct{ offset, size int64 }

// maxFragments bounds a sparse file's map, which at two digits a fragment would
// otherwise grow 16-fold in memory.
const maxFragments = maxMeta / 8

// openSparse reads the map of a sparse file, if h is one, and leaves in h.size
// the size that it unfolds to.
// Source: GNU tar manual, "Storing Sparse Files": old GNU, PAX 0.0, 0.1, 1.0.
func (t *tarReader) openSparse(h *header, records paxRecords) error {
	var m []fragment
	var err error
	major, minor := records.get("GNU.sparse.major"), records.get("GNU.sparse.minor")
	switch {
	case h.typ == typeGNUSparse:
		m, err = t.oldSparse(h)
	case major == "1" && minor == "0":
		sparseHeader(h, records)
		m, err = t.sparse10()
	case major == "0" && (minor == "0" || minor == "1"), major == "" && minor == "" && records.hasMap():
		sparseHeader(h, records)
		m, err = sparse01(records)
	default:
		return nil
	}
	if err != nil {
		return err
	}
	if h.typ == typeGNUSparse {
		h.typ = typeRegular
	} else if size := firstOf(records.get("GNU.sparse.size"), records.get("GNU.sparse.realsize")); size != "" {
		n, ok := parseDecimal(size)
		if !ok {
			return malformed("bad sparse size of entry %s", quote(h.name))
		}
		h.size = n
	}
	if h.typ != typeRegular && h.typ != typeContiguous {
		return malformed("sparse entry %s of type %q", quote(h.name), h.typ)
	}
	h.sparse, h.isSparse = m, true
	return t.checkSparse(h)
}

// checkSparse wants fragments in order, inside the file, and as much content as
// they ask for.
func (t *tarReader) checkSparse(h *header) error {
	var end, sum int64
	for _, f := range h.sparse {
		if f.offset < end || f.size < 0 || f.offset > h.size || f.size > h.size-f.offset {
			return malformed("bad sparse map of entry %s", quote(h.name))
		}
		end = f.offset + f.size
		sum += f.size
	}
	if h.size < 0 || sum != t.content {
		return malformed("sparse map and content of entry %s differ", quote(h.name))
	}
	return nil
}

func sparseHeader(h *header, records paxRecords) {
	if name := records.get("GNU.sparse.name"); name != "" {
		h.name = name
	}
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// oldSparse reads the map in the header's block and in blocks after it.
func (t *tarReader) oldSparse(h *header) ([]fragment, error) {
	if string(t.block[257:265]) != magicGNU {
		return nil, malformed("sparse entry %s without GNU's magic", quote(h.name))
	}
	size, ok := parseNumber(t.block[483:495])
	if !ok {
		return nil, malformed("bad sparse size of entry %s", quote(h.name))
	}
	h.size = size
	var m []fragment
	table, more := t.block[386:482], t.block[482]
	for blocks := 0; ; blocks++ {
		for len(table) >= 24 && table[0] != 0 {
			offset, ok1 := parseNumber(table[:12])
			size, ok2 := parseNumber(table[12:24])
			if !ok1 || !ok2 {
				return nil, malformed("bad sparse map of entry %s", quote(h.name))
			}
			m = append(m, fragment{offset, size})
			table = table[24:]
		}
		if more == 0 {
			return m, nil
		}
		if blocks == maxMeta/tarBlock || len(m) > maxFragments {
			return nil, malformed("sparse map of entry %s is too long", quote(h.name))
		}
		if err := unexpected(t.s.full(t.block[:])); err != nil {
			return nil, err
		}
		table, more = t.block[:504], t.block[504]
	}
}

// sparse10 reads the map in front of the content: lines of decimal numbers, the
// first their count, filled up to a block.
func (t *tarReader) sparse10() ([]fragment, error) {
	var text []byte
	line := func() (int64, error) {
		for i := 0; ; i++ {
			if i == len(text) {
				if t.content < tarBlock {
					return 0, malformed("sparse map is cut off")
				}
				if err := unexpected(t.s.full(t.block[:])); err != nil {
					return 0, err
				}
				t.content -= tarBlock
				text = append(text, t.block[:]...)
			}
			if text[i] == '\n' {
				n, ok := parseDecimal(string(text[:i]))
				text = text[i+1:]
				if !ok {
					return 0, malformed("bad sparse map")
				}
				return n, nil
			}
			if i == 20 {
				return 0, malformed("bad sparse map")
			}
		}
	}
	count, err := line()
	if err != nil {
		return nil, err
	}
	if count < 0 || count > maxFragments {
		return nil, malformed("sparse map of %d fragments", count)
	}
	var m []fragment // grows with what is really there
	for range count {
		offset, err := line()
		if err != nil {
			return nil, err
		}
		size, err := line()
		if err != nil {
			return nil, err
		}
		m = append(m, fragment{offset, size})
	}
	return m, nil
}

// hasMap finds the records of formats 0.0 and 0.1.
func (p paxRecords) hasMap() bool {
	return p.get("GNU.sparse.map") != "" || p.get("GNU.sparse.offset") != ""
}

// sparse01 reads the map in the extended header: one list (0.1), or a pair of
// records for each fragment (0.0).
func sparse01(records paxRecords) ([]fragment, error) {
	bad := malformed("bad sparse map")
	count, ok := parseDecimal(records.get("GNU.sparse.numblocks"))
	if !ok || count < 0 || count > maxFragments {
		return nil, bad
	}
	var numbers []int64
	add := func(s string) bool {
		n, err := strconv.ParseInt(s, 10, 64)
		numbers = append(numbers, n)
		return err == nil && int64(len(numbers)) <= 2*count
	}
	for _, r := range records {
		odd := len(numbers)%2 == 1
		switch r.name {
		case "GNU.sparse.offset":
			ok = ok && !odd && add(r.value)
		case "GNU.sparse.numbytes":
			ok = ok && odd && add(r.value)
		}
	}
	if list := records.get("GNU.sparse.map"); list != "" && len(numbers) == 0 {
		for s := range strings.SplitSeq(list, ",") {
			if !add(s) {
				return nil, bad
			}
		}
	}
	if !ok || int64(len(numbers)) != 2*count {
		return nil, bad
	}
	m := make([]fragment, count)
	for i := range m {
		m[i] = fragment{numbers[2*i], numbers[2*i+1]}
	}
	return m, nil
}
