package rootfs

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"skiff/internal/plan"

	"golang.org/x/sys/unix"
)

const (
	sizeofMountAttr = 32 // struct mount_attr, kernel 5.12

	sizeofOpenHow = 24 // struct open_how, kernel 5.6

	nosuid = unix.MS_NOSUID
	nosdx  = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

	// optionPage is what mount(2) takes of options; more goes by fsconfig(2).
	optionPage = 4095

	// inRoot resolves a path as the container would, links included.
	inRoot = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS
	// plain refuses links: what the kernel's file systems are mounted on must
	// be a directory of the image itself.
	plain = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS
)

// Built is what a plan's parent needs to know of it.
type Built struct {
	StoreTree plan.Reg   // set by the parent if Root.IDMapped: the store as a detached, id-mapped tree
	Shared    []plan.Reg // likewise, one per Root.Shared
	Trees     []plan.Reg // one per Root.Mounts; set by the parent where Mount.IDMapped
	Master    plan.Reg   // the terminal's master, a descriptor that the parent shares
	Slave     plan.Reg   // the terminal's slave, to become the task's stdio
}

// A builder writes one root into a plan. The working directory is the stage,
// then the store until the overlay stands, and root from then on.
type builder struct {
	*plan.Plan
	r        *Root
	stageDir plan.Reg
	root     plan.Reg
}

// Build appends to p what makes r, up to and including the change of root. The
// task's working directory is the stage of BuildKernel before, / afterwards.
func Build(p *plan.Plan, r *Root) *Built {
	b := &builder{Plan: p, r: r, stageDir: p.Reg(), root: p.Reg()}
	out := &Built{StoreTree: p.Reg(), Master: p.Reg(), Slave: p.Reg()}

	b.openat("open stage", plan.Int(unix.AT_FDCWD), ".", unix.O_PATH|unix.O_DIRECTORY, 0).Into(b.stageDir)
	b.files()
	if r.Upper == "" {
		b.memory()
	}
	b.sharedStores(out)
	b.enterStore(out)
	b.overlay()
	for _, name := range []string{"proc", "sys", "dev"} {
		b.fromStage(name)
	}
	b.mount("mount shm", "shm", "dev/shm", "tmpfs", nosdx, fmt.Sprintf("mode=1777,size=%d", r.ShmSize))
	if r.Terminal {
		b.terminal(out)
	}
	b.placeFiles()
	for i := range r.Mounts {
		out.Trees = append(out.Trees, b.userMount(&r.Mounts[i]))
	}
	for _, dir := range r.Dirs {
		b.makeDir(dir)
	}
	if r.ReadOnly {
		b.Call("read-only root", unix.SYS_MOUNT_SETATTR, b.root.Arg(), b.Str(""), plan.Int(unix.AT_EMPTY_PATH),
			b.attr(unix.MOUNT_ATTR_RDONLY, 0, 0), plan.Int(sizeofMountAttr))
	}
	b.pivot()
	return out
}

// The writable layer in memory: a tmpfs on the stage, which ".." of the host's
// root leads to. See BuildKernel.
const (
	memoryDir   = "memory"
	memoryUpper = "/../" + memoryDir + "/upper"
	memoryWork  = "/../" + memoryDir + "/work"
)

// memory makes it. The container is the one that counts for its size: half of
// the memory there is, tmpfs(5).
func (b *builder) memory() {
	b.mkdir(memoryDir)
	b.mount("mount upper in memory", "tmpfs", memoryDir, "tmpfs", unix.MS_NODEV, "mode=0700")
	b.mkdir(memoryDir + "/upper")
	b.mkdir(memoryDir + "/work")
}

// sharedDir is where the tree of a shared store is attached on the stage: on the host's
// root there may be no way to it for the container's ids.
func sharedDir(i int) string { return fmt.Sprintf("shared%d", i) }

// sharedStores attaches the trees of the shared stores if they come id-mapped. Else
// their layers have the host's paths.
func (b *builder) sharedStores(out *Built) {
	if !b.r.IDMapped {
		return
	}
	for i, store := range b.r.Shared {
		tree := b.Reg()
		b.mkdir(sharedDir(i))
		b.Call("attach shared store", unix.SYS_MOVE_MOUNT, tree.Arg(), b.Str(""), plan.Int(unix.AT_FDCWD), b.Str(sharedDir(i)), plan.Int(unix.MOVE_MOUNT_F_EMPTY_PATH)).At(store)
		out.Shared = append(out.Shared, tree)
	}
}

// lower is where a layer is to be found from the store.
func (b *builder) lower(dir string) string {
	if !b.r.IDMapped {
		return dir
	}
	for i, store := range b.r.Shared {
		if rest, ok := strings.CutPrefix(dir, store+"/"); ok {
			return "/../" + sharedDir(i) + "/" + rest
		}
	}
	return dir
}

// enterStore makes the store the working directory, through the id-mapped tree
// if there is one: the ids in the store are the container's own.
func (b *builder) enterStore(out *Built) {
	if b.r.IDMapped {
		// Overlay wants its directories attached.
		b.putAside("attach store", out.StoreTree)
		b.Call("enter store", unix.SYS_FCHDIR, out.StoreTree.Arg()).At(b.r.Store)
	} else {
		b.Call("enter store", unix.SYS_CHDIR, b.Str(b.r.Store)).At(b.r.Store)
	}
}

// putAside mounts a tree somewhere on the host's root, where it ends with it.
// Not on / itself: what is mounted there would end up above the old root and hide
// it from the umount of pivot.
func (b *builder) putAside(step string, tree plan.Reg) {
	attached := b.Reg()
	for i, at := range []string{"/etc", "/usr"} {
		op := b.Call(step, unix.SYS_MOVE_MOUNT, tree.Arg(), b.Str(""), plan.Int(unix.AT_FDCWD), b.Str(at), plan.Int(unix.MOVE_MOUNT_F_EMPTY_PATH)).Into(attached).At(at)
		if i == 0 {
			op.Ignore(unix.ENOENT)
		} else {
			op.Unless(attached)
		}
	}
}

// fromStage moves one of the kernel's file systems into the root. It must find a
// directory there, which is made if missing, and no link: CVE-2026-41579,
// CVE-2019-19921.
func (b *builder) fromStage(name string) {
	fd := b.Reg()
	b.mkdir(name)
	b.openat2("open /"+name, b.root, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, plain).Into(fd).At("/" + name)
	b.Call("attach /"+name, unix.SYS_MOVE_MOUNT, b.stageDir.Arg(), b.Str(name), fd.Arg(), b.Str(""), plan.Int(unix.MOVE_MOUNT_T_EMPTY_PATH))
	b.close(fd)
}

// files writes skiff's own files on the stage.
func (b *builder) files() {
	fd := b.Reg()
	for i, f := range b.r.Files {
		b.openat("make "+f.Path, b.stageDir.Arg(), fileName(i), unix.O_CREAT|unix.O_WRONLY, 0o644).Into(fd)
		b.Call("write "+f.Path, unix.SYS_WRITE, fd.Arg(), b.Str(f.Content), plan.Int(len(f.Content)))
		b.close(fd)
	}
}

func fileName(i int) string { return fmt.Sprintf("%s/%d", filesDir, i) }

// overlay mounts the layers on a directory of the store, in this mount
// namespace, and enters it. The option userxattr, kernel 5.11, makes the same
// layers work in a user namespace and out of it.
func (b *builder) overlay() {
	r := b.r
	top := make([]string, 0, len(r.Lower))
	for i := len(r.Lower) - 1; i >= 0; i-- {
		top = append(top, b.lower(r.Lower[i]))
	}
	options := "userxattr"
	if r.Volatile {
		options += ",volatile"
	}
	upper, work := r.Upper, r.Work
	if upper == "" {
		upper, work = memoryUpper, memoryWork
	}
	data := "lowerdir=" + strings.Join(top, ":") + ",upperdir=" + upper + ",workdir=" + work + "," + options
	const at = "tmp"
	if len(data) <= optionPage && !slices.ContainsFunc(top, odd) {
		b.mount("mount overlay", "overlay", at, "overlay", 0, data)
	} else {
		b.longOverlay(top, upper, work, at)
	}
	b.Call("enter root", unix.SYS_CHDIR, b.Str(at))
	b.openat("open root", plan.Int(unix.AT_FDCWD), ".", unix.O_PATH|unix.O_DIRECTORY, 0).Into(b.root)
}

// odd says that a path can't stand in mount(2)'s options as it is.
func odd(dir string) bool { return strings.ContainsAny(dir, `:,\`) }

// longOverlay passes more layers than mount(2) has room for, and any path. Source:
// Documentation/filesystems/overlayfs.rst, "lowerdir+", kernel 6.7.
func (b *builder) longOverlay(top []string, upper, work, at string) {
	fs, tree := b.Reg(), b.Reg()
	const flag = 0 // FSCONFIG_SET_FLAG
	set := func(key, value string) {
		b.Call("set "+key, unix.SYS_FSCONFIG, fs.Arg(), plan.Int(setString), b.Str(key), b.Str(value), plan.Int(0)).At(value)
	}
	b.Call("open overlay", unix.SYS_FSOPEN, b.Str("overlay"), plan.Int(unix.FSOPEN_CLOEXEC)).Into(fs)
	for _, dir := range top {
		set("lowerdir+", dir)
	}
	set("upperdir", upper)
	set("workdir", work)
	b.Call("set userxattr", unix.SYS_FSCONFIG, fs.Arg(), plan.Int(flag), b.Str("userxattr"), plan.Int(0), plan.Int(0))
	if b.r.Volatile {
		b.Call("set volatile", unix.SYS_FSCONFIG, fs.Arg(), plan.Int(flag), b.Str("volatile"), plan.Int(0), plan.Int(0))
	}
	b.Call("mount overlay", unix.SYS_FSCONFIG, fs.Arg(), plan.Int(create), plan.Int(0), plan.Int(0), plan.Int(0))
	b.Call("mount overlay", unix.SYS_FSMOUNT, fs.Arg(), plan.Int(unix.FSMOUNT_CLOEXEC), plan.Int(0)).Into(tree)
	b.Call("attach overlay", unix.SYS_MOVE_MOUNT, tree.Arg(), b.Str(""), plan.Int(unix.AT_FDCWD), b.Str(at), plan.Int(unix.MOVE_MOUNT_F_EMPTY_PATH))
	b.close(fs)
	b.close(tree)
}

// pivot leaves the host's tree. With "." for both, the old root ends up on top
// of the new one and is detached from there. Source: pivot_root(2), NOTES.
func (b *builder) pivot() {
	b.putAside("put stage aside", b.stageDir)
	dot := b.Str(".")
	b.Call("pivot_root", unix.SYS_PIVOT_ROOT, dot, dot)
	b.Call("detach host", unix.SYS_UMOUNT2, dot, plan.Int(unix.MNT_DETACH))
	b.Call("enter /", unix.SYS_CHDIR, b.Str("/"))
	b.close(b.root)
	b.close(b.stageDir)
}

func (b *builder) leave() { b.Call("back to root", unix.SYS_FCHDIR, b.root.Arg()) }

func (b *builder) mkdir(name string) {
	b.Call("make /"+name, unix.SYS_MKDIRAT, plan.Int(unix.AT_FDCWD), b.Str(name), plan.Int(0o755)).Ignore(unix.EEXIST).At("/" + name)
}

func (b *builder) mount(step, source, target, fstype string, flags uintptr, data string) plan.Op {
	arg := func(s string) plan.Arg {
		if s == "" {
			return plan.Int(0)
		}
		return b.Str(s)
	}
	return b.Call(step, unix.SYS_MOUNT, arg(source), b.Str(target), arg(fstype), plan.Int(flags), arg(data))
}

func (b *builder) openat(step string, dir plan.Arg, name string, flags int, mode uint32) plan.Op {
	return b.Call(step, unix.SYS_OPENAT, dir, b.Str(name), plan.Int(flags|unix.O_CLOEXEC), plan.Int(mode))
}

func (b *builder) openat2(step string, dir plan.Reg, name string, flags int, resolve uint64) plan.Op {
	how := make([]byte, sizeofOpenHow)
	put(how[0:], uint64(flags)|unix.O_CLOEXEC)
	put(how[16:], resolve)
	return b.Call(step, unix.SYS_OPENAT2, dir.Arg(), b.Str(name), b.Bytes(how), plan.Int(len(how)))
}

func (b *builder) close(fd plan.Reg) plan.Op { return b.Call("close", unix.SYS_CLOSE, fd.Arg()) }

// attr is struct mount_attr. Source: mount_setattr(2), kernel 5.12.
func (b *builder) attr(set, clear, propagation uint64) plan.Arg {
	a := make([]byte, sizeofMountAttr)
	put(a[0:], set)
	put(a[8:], clear)
	put(a[16:], propagation)
	return b.Bytes(a)
}

// clean is the path below the root, without its leading slash; "" is the root.
func clean(name string) string { return path.Clean("/" + name)[1:] }
