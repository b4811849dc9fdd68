package layers

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"iter"
	"strconv"
)

// An Owner is what an entry of a layer is in truth, where the layer on disk
// can't say so. Of several records with one path the last one counts.
//
// On disk a record is "UID GID MODE TYPE MAJOR:MINOR PATH\0", numbers decimal but
// for the octal mode; TYPE is c or b for a device, that was not made, and "-"
// for anything else. A path without links in it, below the layer's root.
type Owner struct {
	Path         string
	UID, GID     int64
	Mode         uint32
	Type         byte // 'c', 'b' or '-'
	Major, Minor int64
}

// record writes an Owner for h.
func (u *unpacker) record(h *header, path string) error {
	if u.owners == nil {
		return nil
	}
	u.result.Owners++
	b := u.owners.AvailableBuffer()
	b = strconv.AppendInt(b, h.uid, 10)
	b = strconv.AppendInt(append(b, ' '), h.gid, 10)
	b = strconv.AppendUint(append(b, ' '), uint64(h.mode), 8)
	kind, major, minor := byte('-'), int64(0), int64(0)
	switch h.typ {
	case typeChar:
		kind, major, minor = 'c', h.major, h.minor
	case typeBlock:
		kind, major, minor = 'b', h.major, h.minor
	}
	b = append(b, ' ', kind, ' ')
	b = strconv.AppendInt(b, major, 10)
	b = strconv.AppendInt(append(b, ':'), minor, 10)
	b = append(b, ' ')
	b = append(b, path...)
	_, err := u.owners.Write(append(b, 0))
	return err
}

// ReadOwners yields what Apply wrote to Options.Owners.
func ReadOwners(r io.Reader) iter.Seq2[Owner, error] {
	return func(yield func(Owner, error) bool) {
		br := bufio.NewReader(r)
		for {
			text, err := br.ReadBytes(0)
			if err == io.EOF && len(text) == 0 {
				return
			}
			o, ok := parseOwner(bytes.TrimSuffix(text, []byte{0}))
			if err == nil && !ok {
				err = fmt.Errorf("bad owner record %q", text)
			}
			if !yield(o, unexpected(err)) || err != nil {
				return
			}
		}
	}
}

func parseOwner(b []byte) (o Owner, ok bool) {
	f := bytes.SplitN(b, []byte(" "), 6)
	if len(f) != 6 || len(f[3]) != 1 {
		return o, false
	}
	uid, err1 := strconv.ParseInt(string(f[0]), 10, 64)
	gid, err2 := strconv.ParseInt(string(f[1]), 10, 64)
	mode, err3 := strconv.ParseUint(string(f[2]), 8, 32)
	major, minor, colon := bytes.Cut(f[4], []byte(":"))
	ma, err4 := strconv.ParseInt(string(major), 10, 64)
	mi, err5 := strconv.ParseInt(string(minor), 10, 64)
	ok = colon && err1 == nil && err2 == nil && err3 == nil && err4 == nil && err5 == nil
	return Owner{string(f[5]), uid, gid, uint32(mode), f[3][0], ma, mi}, ok
}
