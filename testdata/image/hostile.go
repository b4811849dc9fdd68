package image

import (
	"fmt"
	"io"
	"math"
	"os"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// A Case is one hostile or odd image of the catalogue in SECURITY.md, section
// 3, by that catalogue's number.
type Case struct {
	Number int
	Name   string // a name like a test's
	Layers []Layer
	Config func(*v1.ConfigFile) // nil: nothing special

	// Refused: unpacking the last layer is an error that contains Word (those
	// before it are fine). Otherwise every layer unpacks.
	Refused bool
	Word    string
	Hint    string // what the hint about it contains, if not ""

	// Tree is what the last layer's directory holds then, as List says it; nil
	// where only the invariants count.
	Tree []string

	MaxBytes int64 // the quota to unpack with; 0: none

	// NeedsIDs: the outcome is for an id map of at most 65536 ids. With a single
	// id the layer is unpacked and its owners are squashed.
	NeedsIDs bool

	// Run is what becomes of a container, if the image matters to that.
	Run *Run
}

// A Run is the exact outcome of a container.
type Run struct {
	Own    bool   // it runs the image's own entrypoint, and Probe otherwise
	Probe  string // commands of a shell, busybox's, that tell what it sees
	Status int

	// Says is a regular expression for all that is printed: what follows
	// "skiff: run IMAGE: " if the container never was, and what the probe prints
	// otherwise.
	Says   string
	Single string // the same with a single id, where that differs
}

// Outside is a directory of the host that hostile layers aim at by its absolute
// path. A test may make it, and finds it unchanged.
//
// Each process has its own: tests of several packages run side by side.
var Outside = fmt.Sprintf("/tmp/skiff-hostile-%d", os.Getpid())

var outside = Outside[1:]

// implied are the tree's lines where a link to Outside was followed inside.
var implied = []string{"d 0755 tmp", "d 0755 " + outside}

// Hostile is the catalogue. Cases 32 and 44 need no image of their own; 57 and
// later are no images.
func Hostile() []Case {
	var all []Case
	for _, part := range [][]Case{
		names(), links(), whiteouts(), nodes(), oddNames(), replacements(), broken(), compressed(), owners(), runtimeCases(),
	} {
		all = append(all, part...)
	}
	return all
}

func refused(number int, name, word string, layers ...Layer) Case {
	return Case{Number: number, Name: name, Layers: layers, Refused: true, Word: word}
}

func contained(number int, name string, tree []string, layers ...Layer) Case {
	return Case{Number: number, Name: name, Layers: layers, Tree: tree}
}

// tree is for trees without lines, which nil would not check.
func tree(lines ...string) []string { return append([]string{}, lines...) }

const escapes = "leads outside the layer"

func names() []Case {
	return []Case{
		refused(1, "dotdot", escapes, L(File("../pwned", "x"))),
		refused(1, "dotdot-deep", escapes, L(Dir("a"), File("a/../../../../../../../../tmp/pwned", "x"))),
		refused(1, "dotdot-only", escapes, L(Dir(".."))),
		contained(1, "dotdot-inside", tree(`d 0755 a`, `f 0644 b "x"`), L(Dir("a"), File("a/../b", "x"))),
		contained(2, "absolute", append(implied[:2:2], `f 0644 `+outside+`/x "x"`), L(File(Outside+"/x", "x"))),
		contained(2, "slashes", tree(`d 0755 a`, `f 0644 a/b "x"`), L(Dir("//a//"), File("///a//./b", "x"))),
		contained(3, "symlink-absolute", append([]string{"l link -> " + Outside}, append(implied[:2:2], `f 0644 `+outside+`/x "x"`)...),
			L(Symlink("link", Outside), File("link/x", "x"))),
		contained(4, "symlink-relative", append([]string{"l link -> ../../../../../../../.." + Outside}, append(implied[:2:2], `f 0644 `+outside+`/x "x"`)...),
			L(Symlink("link", "../../../../../../../.."+Outside), File("link/x", "x"))),
		contained(4, "symlink-up", tree(`l up -> ../../..`, `f 0644 x "x"`), L(Symlink("up", "../../.."), File("up/x", "x"))),
		contained(5, "symlink-of-lower-layer", tree(`d 0755 link`, `f 0644 link/x "x"`),
			L(Symlink("link", Outside)), L(File("link/x", "x"))),
		contained(6, "symlink-chain", append([]string{"l a -> b", "l b -> c", "l c -> " + Outside}, append(implied[:2:2], `f 0644 `+outside+`/x "x"`)...),
			L(Symlink("a", "b"), Symlink("b", "c"), Symlink("c", Outside), File("a/x", "x"))),
		contained(6, "symlink-to-dir-symlink-above", tree(`d 0755 d`, `l d/up -> ../..`, `f 0644 x "x"`),
			L(Dir("d"), Symlink("d/up", "../.."), File("d/up/x", "x"))),
	}
}

func links() []Case {
	return []Case{
		refused(7, "hardlink-host", "has not made", L(Link("x", "/etc/passwd"))),
		refused(7, "hardlink-host-marker", "has not made", L(Link("x", Outside+"/secret"))),
		refused(8, "hardlink-dotdot", escapes, L(Link("x", "../../../../etc/passwd"))),
		refused(9, "hardlink-through-symlink", "has not made", L(Symlink("d", "/etc"), Link("x", "d/passwd"))),
		contained(9, "hardlink-through-symlink-inside", tree(`l d -> /real`, `d 0755 real`, `f 0644 real/f "x"`, `f 0644 x "x"`),
			L(Dir("real"), File("real/f", "x"), Symlink("d", "/real"), Link("x", "d/f"))),
		contained(10, "hardlink-to-symlink-overwritten", tree(`f 0644 h "x"`, `l s -> `+Outside+`/secret`),
			L(Symlink("s", Outside+"/secret"), Link("h", "s"), File("h", "x"))),
		contained(10, "hardlink-to-symlink", tree(`l h -> `+Outside+`/secret`, `l s -> `+Outside+`/secret`),
			L(Symlink("s", Outside+"/secret"), Link("h", "s").WithMode(0o777).WithOwner(1, 1))),
		contained(11, "chmod-through-symlink", tree(`d 0700 s`), L(Symlink("s", Outside), Dir("s").WithMode(0o700))),
		contained(11, "chmod-through-hardlink", tree(`l h -> `+Outside, `l s -> `+Outside),
			L(Symlink("s", Outside), Link("h", "s").WithMode(0o777))),
		contained(11, "chmod-dir-swapped-for-symlink", tree(`l d -> `+Outside),
			L(Dir("d").WithMode(0o777), Symlink("d", Outside))),
		contained(12, "symlink-metadata", tree(`l s -> `+Outside),
			L(Symlink("s", Outside).WithMode(0o6777).WithXattr("user.x", "y").WithXattr("security.capability", "z"))),
		refused(36, "hardlink-self", "to itself", L(File("x", "x"), Link("x", "x"))),
		refused(36, "hardlink-self-missing", "has not made", L(Link("x", "x"))),
		refused(36, "hardlink-forward", "has not made", L(Link("x", "y"), File("y", "y"))),
		refused(36, "hardlink-root", "to the root", L(Link("x", "/"))),
		refused(36, "hardlink-dir", "hard link", L(Dir("d"), Link("x", "d"))),
		refused(36, "hardlink-whiteout", "which this layer removes", L(Whiteout("", "w"), Link("x", "w"))),
		refused(34, "symlink-loop", "too many levels of symbolic links", L(Symlink("a", "b"), Symlink("b", "a"), File("a/x", "x"))),
		refused(34, "symlink-self", "too many levels of symbolic links", L(Symlink("a", "a/a"), File("a/x", "x"))),
		refused(35, "root-symlink", escapes, L(Symlink(".", Outside), File("x", "x"))),
		refused(35, "root-symlink-slash", escapes, L(Symlink("/", Outside), File("x", "x"))),
		refused(35, "root-symlink-later-layer", escapes, L(File("x", "x")), L(Symlink("./", Outside), File("x", "x"))),
		refused(35, "root-file", escapes, L(File("./", "x"))),
		contained(35, "root-dir", tree(`f 0644 x "x"`), L(Dir("./").WithMode(0o711), File("./x", "x"))),
	}
}

func whiteouts() []Case {
	return []Case{
		refused(13, "whiteout-dotdot", escapes, L(Dir("d"), File("d/.wh...", ""))),
		refused(14, "whiteout-dot", escapes, L(Dir("d"), File("d/.wh..", ""))),
		refused(15, "whiteout-empty", escapes, L(Dir("d"), File("d/.wh.", ""))),
		contained(16, "whiteout-through-symlink", append([]string{"l link -> " + Outside}, append(implied[:2:2], `w `+outside+`/secret`)...),
			L(Symlink("link", Outside), Whiteout("link", "secret"))),
		contained(17, "opaque-through-symlink", []string{"l link -> " + Outside, "d 0755 tmp", "d 0755 " + outside + " opaque"},
			L(Symlink("link", Outside), Opaque("link"))),
		contained(18, "whiteouts", tree(`d 0755 d`, `w d/b`, `d 0755 e`, `d 0755 e/f opaque`, `w x`),
			L(File("x", "x"), Dir("d"), File("d/b", "")), L(Whiteout("", "x"), Dir("d"), Whiteout("d", "b"), Opaque("e/f"))),
		contained(18, "whiteout-with-content", tree(`f 0644 a "a"`, `w x`), L(File(".wh.x", "some content"), File("a", "a"))),
		contained(18, "opaque-root", tree(`f 0644 a "a"`), L(File("b", "b")), L(Opaque(""), File("a", "a"))),
		contained(19, "opaque-after-siblings", tree(`d 0755 d opaque`, `f 0644 d/a "a"`, `f 0644 d/b "b"`),
			L(Dir("d"), File("d/a", "a"), File("d/b", "b"), Opaque("d"))),
		contained(20, "whiteout-then-file", tree(`f 0644 x "new"`), L(File("x", "old")), L(Whiteout("", "x"), File("x", "new"))),
		contained(20, "file-then-whiteout", tree(`f 0644 x "new"`), L(File("x", "old")), L(File("x", "new"), Whiteout("", "x"))),
		contained(20, "whiteout-then-dir", tree(`d 0755 x opaque`, `f 0644 x/y "y"`), L(Dir("x")), L(Whiteout("", "x"), Dir("x"), File("x/y", "y"))),
		contained(20, "dir-then-whiteout", tree(`d 0755 x opaque`, `f 0644 x/y "y"`), L(Dir("x")), L(Dir("x"), File("x/y", "y"), Whiteout("", "x"))),
		contained(20, "whiteout-then-implied-dir", tree(`d 0755 x opaque`, `f 0644 x/y "y"`), L(Dir("x")), L(Whiteout("", "x"), File("x/y", "y"))),
		contained(20, "whiteout-then-later-layer", tree(`f 0644 x "new"`), L(File("x", "old")), L(Whiteout("", "x")), L(File("x", "new"))),
		contained(20, "whiteout-twice", tree(`w x`), L(Whiteout("", "x"), Whiteout("", "x"))),
		contained(21, "whiteout-as-symlink", tree(`w x`), L(Symlink(".wh.x", Outside))),
		contained(21, "whiteout-as-hardlink", tree(`w x`), L(Link(".wh.x", "../../etc/passwd"))),
		contained(21, "whiteout-as-dir", tree(`w x`), L(Dir(".wh.x"))),
		refused(21, "whiteout-as-parent", "a whiteout that is a directory", L(File(".wh.x/y", "y"))),
	}
}

func nodes() []Case {
	return []Case{
		contained(22, "raw-whiteout", tree(`f 0644 a "a"`), L(Char("x", 0, 0), File("a", "a"))),
		contained(23, "devices", tree(`d 0755 dev`), L(Dir("dev"), Char("dev/mem", 1, 1), Char("dev/null", 1, 3), Block("dev/sda", 8, 0), Block("dev/zero", 0, 0))),
		contained(23, "device-numbers-odd", tree(), L(Char("a", -1, 5), Char("b", 1<<40, 1<<40))),
		contained(24, "overlay-xattrs", tree(`d 0755 d`, `f 0644 f "x"`), L(
			Dir("d").WithXattr("trusted.overlay.opaque", "y").WithXattr("user.overlay.opaque", "y").WithXattr("user.overlay.whiteouts", "y"),
			File("f", "x").WithXattr("user.overlay.redirect", "/etc/shadow").WithXattr("user.overlay.metacopy", "").
				WithXattr("trusted.overlay.metacopy", "x").WithXattr("user.overlay.whiteout", "y").WithXattr("security.selinux", "x").
				WithXattr("system.posix_acl_access", "x"))),
		contained(25, "capability", tree(`f 0755 ping "x"`), L(File("ping", "x").WithMode(0o755).WithXattr("security.capability", CapNetRaw))),
		contained(25, "capability-garbage", tree(`f 0755 ping "x"`), L(File("ping", "x").WithMode(0o755).WithXattr("security.capability", "garbage"))),
		contained(49, "fifo", tree(`p 0600 f`), L(FIFO("f").WithMode(0o600))),
		contained(51, "setuid", tree(`d 1777 d`, `d 2755 g`, `f 4755 su "x"`, `f 6711 x "x"`),
			L(File("su", "x").WithMode(0o4755), File("x", "x").WithMode(0o6711), Dir("d").WithMode(0o1777), Dir("g").WithMode(0o2755))),
	}
}

// CapNetRaw is security.capability, version 2, with cap_net_raw=ep.
// Source: linux/capability.h, struct vfs_cap_data.
const CapNetRaw = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

func oddNames() []Case {
	deep := strings.TrimSuffix(strings.Repeat("d/", 1500), "/")
	return []Case{
		contained(26, "name-255", tree(`f 0644 nnnnnnnnnnnnnnnn…255 "x"`), L(File(strings.Repeat("n", 255), "x"))),
		refused(26, "name-256", "file name too long", L(File(strings.Repeat("n", 256), "x"))),
		refused(26, "path-max", "file name too long", L(File(strings.Repeat(strings.Repeat("n", 200)+"/", 21)+"x", "x"))),
		contained(26, "depth-1500", nil, L(File(deep+"/x", "x"))),
		refused(26, "depth-3000", "file name too long", L(File(deep+"/"+deep+"/x", "x"))),
		refused(26, "depth-3000-by-link", "file name too long", L(Dir(deep), Symlink("l", deep), Dir("l/"+deep))),
		refused(26, "long-link", "file name too long", L(Symlink("l", strings.Repeat("t", 5000)))),
		contained(27, "gnu-long-name", tree(`f 0644 aaaaaaaaaaaaaaaa…150 "x"`), L(GNULong('L', strings.Repeat("a", 150)), File("short", "x"))),
		contained(27, "gnu-long-link", tree(`l s -> tttttttttttttttt…200`), L(GNULong('K', strings.Repeat("t", 200)), Symlink("s", "short"))),
		refused(27, "gnu-long-name-dotdot", escapes, L(GNULong('L', "../x"), File("short", "x"))),
		refused(27, "gnu-long-name-huge", "malformed", L(Raw(header("././@LongLink", 'L', 1<<40, Entry{})))),
		contained(28, "bytes", tree(`f 0644 "\x1b[31mred" "x"`, `f 0644 "a\nb" "x"`, `f 0644 "\xff\xfe" "x"`),
			L(File("a\nb", "x"), File("\xff\xfe", "x"), File("\x1b[31mred", "x"))),
		refused(28, "bytes-in-error", `\x1b[31m\nred\xff`, L(Link("\x1b[31m\nred\xff", "missing"))),
		refused(49, "nul-in-path", "malformed", L(File("x", "x").WithPAX("path", "etc/passwd\x00.txt"))),
		contained(49, "mtimes", tree(`f 0644 future "x"`, `f 0644 huge "x"`, `f 0644 past "x"`, `f 0644 fraction "x"`),
			L(func() []Entry {
				e := func(name string, t int64) Entry { f := File(name, "x"); f.MTime = t; return f }
				return []Entry{e("future", 253402300800), e("huge", math.MaxInt64>>8), e("past", -62135596800),
					File("fraction", "x").WithPAX("mtime", "-1.5")}
			}()...)),
		refused(49, "mtime-garbage", "malformed", L(File("x", "x").WithPAX("mtime", "1e9"))),
		contained(49, "global-pax", tree(`f 0644 x "x"`), L(PAX('g', PAXRecord("comment", "hi")+PAXRecord("path", "../evil")), File("x", "x"))),
		contained(49, "aufs-leftovers", tree(`f 0644 x "x"`), L(Dir(".wh..wh.plnk"), File(".wh..wh.plnk/1.2", "x"), File(".wh..wh.aufs", ""),
			Dir(".wh..wh.orph"), File("x", "x"))),
		{Number: 30, Name: "annotations", Layers: []Layer{L(File("x", "x"))}, Tree: tree(`f 0644 x "x"`), Config: func(c *v1.ConfigFile) {
			c.Config.Labels = map[string]string{"../../etc/passwd": "--privileged", "io.containers.runtime": "/bin/sh", "url": "http://169.254.169.254/"}
			c.Author = "$(reboot)"
		}},
		{Number: 31, Name: "label-1MiB", Layers: []Layer{L(File("x", "x"))}, Tree: tree(`f 0644 x "x"`), Config: func(c *v1.ConfigFile) {
			c.Config.Labels = map[string]string{"big": strings.Repeat("l", 1<<20)}
		}},
	}
}

func replacements() []Case {
	file, dir, link := File("x", "new"), Dir("x"), Symlink("x", Outside)
	old := []Entry{File("x", "old")}
	oldDir := []Entry{Dir("x"), Dir("x/sub").WithMode(0o555), File("x/sub/f", "f")}
	oldLink := []Entry{Symlink("x", Outside)}
	var cases []Case
	for name, c := range map[string]struct {
		old  []Entry
		new  Entry
		tree []string
	}{
		"file-file": {old, file, tree(`f 0644 x "new"`)}, "file-dir": {old, dir, tree(`d 0755 x`)},
		"file-symlink": {old, link, tree(`l x -> ` + Outside)}, "file-fifo": {old, FIFO("x"), tree(`p 0644 x`)},
		"dir-file": {oldDir, file, tree(`f 0644 x "new"`)}, "dir-symlink": {oldDir, link, tree(`l x -> ` + Outside)},
		"dir-fifo":     {oldDir, FIFO("x"), tree(`p 0644 x`)},
		"dir-dir":      {oldDir, dir.WithMode(0o700), tree(`d 0700 x`, `d 0555 x/sub`, `f 0644 x/sub/f "f"`)},
		"symlink-file": {oldLink, file, tree(`f 0644 x "new"`)}, "symlink-dir": {oldLink, dir, tree(`d 0755 x`)},
		"symlink-symlink": {oldLink, Symlink("x", "y"), tree(`l x -> y`)}, "symlink-fifo": {oldLink, FIFO("x"), tree(`p 0644 x`)},
		"fifo-file": {[]Entry{FIFO("x")}, file, tree(`f 0644 x "new"`)},
	} {
		cases = append(cases, contained(33, "replace-"+name, c.tree, L(append(c.old[:len(c.old):len(c.old)], c.new)...)))
	}
	return append(cases,
		contained(29, "duplicates", tree(`f 0600 x "3"`), L(File("x", "1"), File("x", "22"), File("x", "3").WithMode(0o600))),
		contained(33, "replaced-dir-under-cached-path", append(append([]string{}, implied...), `f 0644 `+outside+`/f "2"`, `l x -> `+Outside),
			L(Dir("x"), File("x/f", "1"), Symlink("x", Outside), File("x/f", "2"))),
		contained(33, "replaced-symlink-under-cached-path", tree(`d 0755 a`, `f 0644 a/f "1"`, `d 0755 b`, `f 0644 b/f "2"`, `l x -> b`),
			L(Dir("a"), Dir("b"), Symlink("x", "a"), File("x/f", "1"), Symlink("x", "b"), File("x/f", "2"))),
		refused(33, "file-as-parent", "not a directory", L(File("x", "x"), File("x/y", "y"))),
		contained(33, "hardlink-onto-file", tree(`f 0644 a "a"`, `f 0644 b "a"`), L(File("a", "a"), File("b", "b"), Link("b", "a"))),
		refused(33, "hardlink-onto-own-parent", "hard link", L(Dir("d"), File("d/f", "x"), Link("d", "d/f"))),
	)
}

func owners() []Case {
	unmapped := func(name, id, hint string, e Entry) Case {
		return Case{Number: 48, Name: name, Layers: []Layer{L(e)}, Refused: true, Word: id + " is not among the ids", Hint: hint, NeedsIDs: true}
	}
	const more, broken = "/etc/subuid and /etc/subgid", "the image is broken"
	return []Case{
		unmapped("uid-unmapped", "uid 70000", more, File("x", "x").WithOwner(70000, 0)),
		unmapped("gid-unmapped", "gid 2147483648", more, Dir("x").WithOwner(0, 1<<31)),
		unmapped("uid-minus-one", "uid -1", broken, File("x", "x").WithOwner(-1, 0)),
		unmapped("uid-2^32-1", "uid 4294967295", broken, Symlink("x", "y").WithOwner(1<<32-1, 0)),
		unmapped("uid-overflow", "uid 4294967296", broken, File("x", "x").WithPAX("uid", "4294967296")),
		refused(48, "uid-garbage", "malformed", L(File("x", "x").WithPAX("uid", "99999999999999999999"))),
		{Number: 50, Name: "2000-entries", Layers: []Layer{Many(2000)}},
	}
}

func zeros(w io.Writer, n int64) error {
	block := make([]byte, 64<<10)
	for n > 0 {
		k, err := w.Write(block[:min(n, int64(len(block)))])
		if err != nil {
			return err
		}
		n -= int64(k)
	}
	return nil
}
