package run

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A file with holes of this many bytes in all is written as a sparse one: a lastlog of a user with a
// high id has hundreds of gigabytes, and none that anybody wrote. One with fewer is written as it reads, which also those
// understand that know nothing of sparse files, such as busybox's tar, and which does not depend on where a file system has
// put the holes.
const sparseFrom = 64 << 20

const (
	smallHole    = 1 << 20 // that is not worth a fragment
	maxFragments = 20000   // readers bound the list to a megabyte
)

// A fragment is a part of a file that may hold something.
type fragment struct{ offset, size int64 }

// fragments finds them, in order, by lseek(2). A file system that knows no holes has one.
func fragments(f *os.File, size int64) (list []fragment, held int64) {
	whole := []fragment{{0, size}}
	fd := int(f.Fd())
	defer unix.Seek(fd, 0, io.SeekStart)
	for end := int64(0); end < size; {
		from, err := unix.Seek(fd, end, unix.SEEK_DATA)
		if err == unix.ENXIO || err == nil && from >= size {
			break
		}
		if err != nil {
			return whole, size
		}
		if end, err = unix.Seek(fd, from, unix.SEEK_HOLE); err != nil {
			return whole, size
		}
		end = min(end, size)
		if n := len(list); n > 0 && (from-list[n-1].offset-list[n-1].size < smallHole || n == maxFragments) {
			list[n-1].size = end - list[n-1].offset
		} else {
			list = append(list, fragment{from, end - from})
		}
	}
	for _, p := range list {
		held += p.size
	}
	return list, held
}

// sparse writes a file by its fragments, in GNU's PAX format 1.0: the list of them stands before
// what they hold, and the file's name and size are records of the extended header. Package archive/tar reads it
// and does not write it.
// Source: GNU tar manual, "Storing Sparse Files".
func (x *exporter) sparse(h *tar.Header, f *os.File, parts []fragment, held int64) error {
	if n := len(parts); n == 0 || parts[n-1].offset+parts[n-1].size < h.Size {
		parts = append(parts, fragment{h.Size, 0}) // so that the file is as long
	}
	list := []byte(strconv.Itoa(len(parts)) + "\n")
	for _, p := range parts {
		list = fmt.Appendf(list, "%d\n%d\n", p.offset, p.size)
	}
	list = append(list, make([]byte, -len(list)&(tarBlock-1))...)
	records := map[string]string{
		"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": h.Name, "GNU.sparse.realsize": strconv.FormatInt(h.Size, 10),
		"mtime": paxTime(h.ModTime),
	}
	for k, v := range h.PAXRecords {
		records[k] = v
	}
	dir, base := path.Split(h.Name)
	head := tarHeader{name: path.Join(dir, "GNUSparseFile.0", base), mode: h.Mode, uid: int64(h.Uid), gid: int64(h.Gid), size: int64(len(list)) + held, mtime: h.ModTime.Unix(), kind: tar.TypeReg}
	for name, n := range map[string]int64{"uid": head.uid, "gid": head.gid, "size": head.size} {
		if n > 1<<21-1 && name != "size" || n > 1<<33-1 {
			records[name] = strconv.FormatInt(n, 10)
		}
	}
	text := paxText(records)
	extended := tarHeader{name: path.Join(dir, "PaxHeaders.0", base), size: int64(len(text)), kind: tar.TypeXHeader}
	if err := x.to.Flush(); err != nil { // the padding of the last file
		return err
	}
	b := slices.Concat(extended.block(), text, make([]byte, -len(text)&(tarBlock-1)), head.block(), list)
	if _, err := x.raw.Write(b); err != nil {
		return err
	}
	for _, p := range parts {
		if err := x.content(x.raw, h.Name, f, p.offset, p.offset+p.size); err != nil {
			return err
		}
	}
	_, err := x.raw.Write(make([]byte, -held&(tarBlock-1)))
	return err
}

// askFrom is the size from which a file is asked for its holes, which takes three system calls.
const askFrom = 1 << 20

// zeros are what holes are written from: reading them would take as long as reading data.
var zeros [64 << 10]byte

// extent returns where the file's next data begin, from pos on, and end; the file is read on from there.
// A file system that does not tell has data only.
func extent(f *os.File, pos, size int64) (data, hole int64, err error) {
	data, err = f.Seek(pos, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return size, size, nil
	case errors.Is(err, unix.EINVAL):
		return pos, size, nil
	case err != nil:
		return 0, 0, err
	}
	if hole, err = f.Seek(data, unix.SEEK_HOLE); err != nil {
		hole = size // it was cut short just now
	}
	_, err = f.Seek(data, io.SeekStart)
	return data, hole, err
}

// content writes a part of a file, and zeros for what it has lost. Holes are not read.
func (x *exporter) content(to io.Writer, name string, f *os.File, pos, end int64) (err error) {
	var data, hole int64
	if end-pos < askFrom {
		if hole = end; pos > 0 {
			_, err = f.Seek(pos, io.SeekStart)
		}
	}
	for err == nil && pos < end {
		if x.ctx.Err() != nil {
			return context.Cause(x.ctx)
		}
		if pos >= hole {
			if data, hole, err = extent(f, pos, end); err != nil {
				return &fs.PathError{Op: "seek", Path: "/" + name, Err: errors.Unwrap(err)}
			}
		}
		var n int
		if gap := min(data, end) - pos; gap > 0 {
			n, err = to.Write(zeros[:min(gap, int64(len(zeros)))])
			pos += int64(n)
			continue
		}
		b := x.buf[:min(end-pos, max(hole-pos, 1), int64(len(x.buf)))]
		if n, err = f.Read(b); err == io.EOF {
			clear(b)
			n = len(b)
		} else if err != nil {
			return &fs.PathError{Op: "read", Path: "/" + name, Err: errors.Unwrap(err)}
		}
		_, err = to.Write(b[:n])
		pos += int64(n)
	}
	return err
}

const tarBlock = 512

// A tarHeader is a header of ustar. What does not fit stands in an extended header before it.
// Source: POSIX.1-2017, pax, "ustar Interchange Format".
type tarHeader struct {
	name                        string
	mode, uid, gid, size, mtime int64
	kind                        byte
}

func (h *tarHeader) block() []byte {
	b := make([]byte, tarBlock)
	copy(b[:100], strings.Map(func(r rune) rune {
		if r >= 0x80 {
			return '_'
		}
		return r
	}, h.name))
	octal := func(field []byte, n int64) {
		if n < 0 || n>>(3*(len(field)-1)) != 0 {
			n = 0
		}
		copy(field, fmt.Sprintf("%0*o", len(field)-1, n))
	}
	octal(b[100:108], h.mode)
	octal(b[108:116], h.uid)
	octal(b[116:124], h.gid)
	octal(b[124:136], h.size)
	octal(b[136:148], h.mtime)
	b[156] = h.kind
	copy(b[257:], "ustar\x0000")
	copy(b[148:156], "        ")
	sum := int64(0)
	for _, c := range b {
		sum += int64(c)
	}
	octal(b[148:155], sum) // and a blank
	return b
}

// paxText is an extended header's content; each record begins with its own length.
func paxText(records map[string]string) []byte {
	var b bytes.Buffer
	keys := make([]string, 0, len(records))
	for k := range records {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		rest := " " + k + "=" + records[k] + "\n"
		n := len(rest)
		for n != len(rest)+len(strconv.Itoa(n)) {
			n = len(rest) + len(strconv.Itoa(n))
		}
		b.WriteString(strconv.Itoa(n) + rest)
	}
	return b.Bytes()
}

// paxTime is a time in seconds, with as many decimals as it has.
func paxTime(t time.Time) string {
	sec, nsec, sign := t.Unix(), int64(t.Nanosecond()), ""
	if sec < 0 {
		if sign, sec = "-", -sec; nsec > 0 {
			sec, nsec = sec-1, 1e9-nsec
		}
	}
	if nsec == 0 {
		return sign + strconv.FormatInt(sec, 10)
	}
	return strings.TrimRight(fmt.Sprintf("%s%d.%09d", sign, sec, nsec), "0")
}
