package image

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
)

const blockSize = 512

// An Entry is one member of an archive.
type Entry struct {
	Name  string
	Type  byte // '0' if 0
	Link  string
	Body  string
	Mode  int64 // 0: 0644, directories 0755
	UID   int64
	GID   int64
	MTime int64 // seconds; 0: 1000000000
	Major int64
	Minor int64

	PAX  map[string]string // records of an extended header, as they are
	Size *int64            // what the header claims, if not the length of Body
	Raw  []byte            // written instead of all that
}

// File, Dir and the others are entries of the usual kinds.
func File(name, body string) Entry { return Entry{Name: name, Body: body} }
func Dir(name string) Entry        { return Entry{Name: name, Type: '5'} }
func Symlink(name, to string) Entry {
	return Entry{Name: name, Type: '2', Link: to, Mode: 0o777}
}
func Link(name, to string) Entry { return Entry{Name: name, Type: '1', Link: to} }
func FIFO(name string) Entry     { return Entry{Name: name, Type: '6'} }
func Char(name string, major, minor int64) Entry {
	return Entry{Name: name, Type: '3', Major: major, Minor: minor}
}
func Block(name string, major, minor int64) Entry {
	return Entry{Name: name, Type: '4', Major: major, Minor: minor}
}

// Whiteout removes dir/name (dir may be "") of the layers below.
func Whiteout(dir, name string) Entry { return File(within(dir, ".wh."+name), "") }

// Opaque hides what the layers below have in dir.
func Opaque(dir string) Entry { return File(within(dir, ".wh..wh..opq"), "") }

func within(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// WithMode returns the entry with another mode.
func (e Entry) WithMode(mode int64) Entry { e.Mode = mode; return e }

// WithOwner returns the entry with other owners.
func (e Entry) WithOwner(uid, gid int64) Entry { e.UID, e.GID = uid, gid; return e }

// WithPAX returns the entry with one more record.
func (e Entry) WithPAX(key, value string) Entry {
	e.PAX = maps.Clone(e.PAX)
	if e.PAX == nil {
		e.PAX = map[string]string{}
	}
	e.PAX[key] = value
	return e
}

// WithXattr returns the entry with an extended attribute.
func (e Entry) WithXattr(name, value string) Entry { return e.WithPAX("SCHILY.xattr."+name, value) }

// Claim returns the entry with a size that its body may not have.
func (e Entry) Claim(size int64) Entry { e.Size = &size; return e }

// Raw is an entry of these bytes.
func Raw(b []byte) Entry { return Entry{Raw: b} }

func (e Entry) write(w io.Writer) error {
	_, err := w.Write(e.bytes())
	return err
}

func (e Entry) bytes() []byte {
	if e.Raw != nil {
		return e.Raw
	}
	if e.Type == 0 {
		e.Type = '0'
	}
	if e.Mode == 0 {
		e.Mode = 0o644
		if e.Type == '5' {
			e.Mode = 0o755
		}
	}
	if e.MTime == 0 {
		e.MTime = 1e9
	}
	records := maps.Clone(e.PAX)
	if records == nil {
		records = map[string]string{}
	}
	long := func(key, value string) {
		if _, set := records[key]; len(value) > 100 && !set {
			records[key] = value
		}
	}
	long("path", e.Name)
	long("linkpath", e.Link)
	var b bytes.Buffer
	if len(records) > 0 {
		text := paxText(records)
		b.Write(header("PaxHeaders/x", 'x', int64(len(text)), Entry{}))
		b.Write(padded([]byte(text)))
	}
	size := int64(len(e.Body))
	if e.Size != nil {
		size = *e.Size
	}
	b.Write(header(e.Name, e.Type, size, e))
	b.Write(padded([]byte(e.Body)))
	return b.Bytes()
}

// header is one block: ustar, with numbers in base 256 where octal is too short.
// Source: POSIX.1-2017 pax, "ustar Interchange Format".
func header(name string, typ byte, size int64, e Entry) []byte {
	b := make([]byte, blockSize)
	copy(b[0:100], name)
	number(b[100:108], e.Mode)
	number(b[108:116], e.UID)
	number(b[116:124], e.GID)
	number(b[124:136], size)
	number(b[136:148], e.MTime)
	b[156] = typ
	copy(b[157:257], e.Link)
	copy(b[257:], "ustar\x0000")
	number(b[329:337], e.Major)
	number(b[337:345], e.Minor)
	return Sum(b)
}

// Sum puts the checksum into a header.
func Sum(b []byte) []byte {
	copy(b[148:156], "        ")
	var sum int
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

func number(b []byte, n int64) {
	if s := strconv.FormatInt(n, 8); n >= 0 && len(s) < len(b) {
		copy(b, fmt.Sprintf("%0*o", len(b)-1, n))
		return
	}
	for i := len(b) - 1; i >= 0; i-- {
		b[i] = byte(n)
		n >>= 8
	}
	b[0] |= 0x80
}

// paxText is "LENGTH KEY=VALUE\n" for each record, sorted.
func paxText(records map[string]string) string {
	var b bytes.Buffer
	for _, key := range slices.Sorted(maps.Keys(records)) {
		b.WriteString(PAXRecord(key, records[key]))
	}
	return b.String()
}

// PAXRecord is one record, whose length counts itself.
func PAXRecord(key, value string) string {
	rest := " " + key + "=" + value + "\n"
	n := len(rest)
	for n != len(rest)+len(strconv.Itoa(n)) {
		n = len(rest) + len(strconv.Itoa(n))
	}
	return strconv.Itoa(n) + rest
}

// PAX is an extended header ('x', or 'g' for the global one) with this text.
func PAX(typ byte, text string) Entry {
	return Raw(append(header("PaxHeaders/x", typ, int64(len(text)), Entry{}), padded([]byte(text))...))
}

// GNULong is GNU's way to a long name ('L') or link ('K') of the next entry.
func GNULong(typ byte, name string) Entry {
	b := header("././@LongLink", typ, int64(len(name)+1), Entry{})
	copy(b[257:], "ustar  \x00")
	return Raw(append(Sum(b), padded([]byte(name+"\x00"))...))
}

// OldSparse is GNU's old format: fragments are offset and size, at most four,
// body is what they hold.
func OldSparse(name, body string, size int64, fragments ...[2]int64) Entry {
	b := header(name, 'S', int64(len(body)), Entry{Mode: 0o644, MTime: 1e9})
	copy(b[257:], "ustar  \x00")
	clear(b[329:500])
	for i, f := range fragments {
		number(b[386+24*i:][:12], f[0])
		number(b[398+24*i:][:12], f[1])
	}
	number(b[483:495], size)
	return Raw(append(Sum(b), padded([]byte(body))...))
}

// Sparse is GNU's format in PAX 1.0, whose map precedes the body.
func Sparse(name, body string, size int64, fragments ...[2]int64) Entry {
	text := fmt.Sprintf("%d\n", len(fragments))
	for _, f := range fragments {
		text += fmt.Sprintf("%d\n%d\n", f[0], f[1])
	}
	e := File("GNUSparseFile.0/x", string(padded([]byte(text)))+body)
	return e.WithPAX("GNU.sparse.major", "1").WithPAX("GNU.sparse.minor", "0").
		WithPAX("GNU.sparse.name", name).WithPAX("GNU.sparse.realsize", strconv.FormatInt(size, 10))
}

func padded(b []byte) []byte {
	return append(b, make([]byte, -len(b)&(blockSize-1))...)
}

func itoa(i int) string { return strconv.Itoa(i) }
