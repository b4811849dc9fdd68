/*
 * reference - what `skiff run --rm --network none IMAGE PROGRAM` does, in C.
 *
 * The measure of skiff's start: the same system calls, made by a static program
 * that has no runtime to bring up, no command line to understand and no image
 * to look up. What is above its time is skiff's own; what is below it is the
 * kernel's. `skiff explain run` prints the list that this follows, in its order:
 *
 *   1  the container's directory with flock, record, upper and work
 *      (the record is what `ps` reads, the lock tells that it runs)
 *   2  clone3 with new user, pid, mount, network, ipc, uts and cgroup namespaces;
 *      with subordinate ids user and pid first, the rest by unshare(2) while
 *      newuidmap and newgidmap run side by side
 *   3  the id map: one id (single), a range written by ourselves (root), or a
 *      range written by the two helpers (sub)
 *   4  as root: the store as a detached tree, id-mapped, for the container's ids
 *      are not those on disk
 *   5  PR_SET_PDEATHSIG and a look whether the parent still lives, at birth and
 *      after each change of ids, which clears it
 *   6  lo up
 *   7  slave propagation; a tmpfs with hostname, hosts and resolv.conf; overlay,
 *      volatile (--rm) and userxattr (user namespace)
 *   8  proc, sysfs, cgroup2; dev on tmpfs with pts, shm, mqueue, six nodes bound
 *      from the host, five links
 *   9  the three files bound into /etc through descriptors
 *  10  masked and read-only paths of runtime-spec engines
 *  11  pivot_root onto ".", and the old root detached
 *  12  host name, session keyring, session
 *  13  bounding set, seccomp filter (the very bytes that skiff loads), groups,
 *      ids, capabilities, umask
 *  14  descriptors closed, signal mask, working directory, exec
 *  15  meanwhile the record is replaced by one with the pid; wait; upper, work,
 *      record and directory removed
 *
 * Left out, as skiff's own affairs: reading the image's record (the layers are
 * arguments), choosing ids from /etc/subuid (an argument), the sweep of what
 * killed runs left.
 *
 * clone3 is like fork here. CLONE_VM would save the copy of a small program's
 * page tables, some 0.1 ms, at the price of assembler.
 *
 *   reference [-H] [-f FILTER]... -m MAP STORE LAYER... -- PROGRAM [ARG...]
 *
 * MAP is single, root:FIRST or sub:FIRST:SIZE. LAYERs are directories relative
 * to STORE, top first. -H shares the host's network.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/keyctl.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <grp.h>
#include <unistd.h>

#ifndef OPEN_TREE_CLONE
#define OPEN_TREE_CLONE 1
#endif
#define TREE (OPEN_TREE_CLONE | O_CLOEXEC)
#define FROM_EMPTY 4   /* MOVE_MOUNT_F_EMPTY_PATH */
#define TO_EMPTY 64    /* MOVE_MOUNT_T_EMPTY_PATH */
#define ATTR_IDMAP 0x100000
#define ATTR_RDONLY 1
#define NOSDX (MS_NOSUID | MS_NODEV | MS_NOEXEC)

struct attr { uint64_t set, clear, propagation, userns; };

enum map { SINGLE, ROOT, SUB };

static enum map kind;
static unsigned long first, size = 65536;
static int host_network;
static struct sock_fprog filters[2];
static int filter_count;
static char id[65], dir[128], hostname[13];

/* shared is what parent and child tell each other. */
static struct { uint32_t mapped; int tree; } *shared;

static void die(const char *step)
{
	fprintf(stderr, "reference: %s: %s\n", step, strerror(errno));
	_exit(125);
}

#define MUST(call) ({ long r_ = (long)(call); if (r_ < 0) die(#call); r_; })
#define MAY(call, e) ({ long r_ = (long)(call); if (r_ < 0 && errno != (e)) die(#call); r_; })

static void write_file(int at, const char *name, int flags, int mode, const char *text)
{
	int fd = MUST(openat(at, name, O_WRONLY | O_CLOEXEC | flags, mode));
	if (*text)
		MUST(write(fd, text, strlen(text)));
	close(fd);
}

static void tie(int parent)
{
	struct pollfd p = { .fd = parent, .events = POLLIN };
	MUST(prctl(PR_SET_PDEATHSIG, SIGKILL));
	struct timespec now = { 0, 0 };
	if (ppoll(&p, 1, &now, NULL) > 0)
		_exit(125);
}

static void load_filter(const char *file)
{
	int fd = MUST(open(file, O_RDONLY | O_CLOEXEC));
	struct stat st;
	MUST(fstat(fd, &st));
	void *p = malloc(st.st_size);
	if (read(fd, p, st.st_size) != st.st_size)
		die("read filter");
	close(fd);
	filters[filter_count++] = (struct sock_fprog){ st.st_size / 8, p };
}

/* container makes the container's directory and returns it, locked. */
static int container(void)
{
	unsigned char b[32];
	getrandom(b, sizeof b, 0);
	for (int i = 0; i < 32; i++)
		sprintf(id + 2 * i, "%02x", b[i]);
	memcpy(hostname, id, 12);
	snprintf(dir, sizeof dir, "containers/reference-%s", id);
	MUST(mkdir(dir, 0700));
	int fd = MUST(open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	MUST(flock(fd, LOCK_EX | LOCK_NB));
	write_file(fd, "container.json", O_CREAT | O_TRUNC, 0600, "{\"id\":\"\",\"command\":[\"/bin/true\"],\"remove\":true}");
	MUST(mkdirat(fd, "upper", 0755));
	MUST(mkdirat(fd, "work", 0755));
	return fd;
}

static int discard(int fd)
{
	unlinkat(fd, "upper", AT_REMOVEDIR);
	if (kind != ROOT) { /* overlay made them with mode 0 */
		fchmodat(fd, "work/work", 0700, 0);
		fchmodat(fd, "work/work/incompat", 0700, 0);
		fchmodat(fd, "work/work/incompat/volatile", 0700, 0);
	}
	unlinkat(fd, "work/work/incompat/volatile/dirty", 0);
	unlinkat(fd, "work/work/incompat/volatile", AT_REMOVEDIR);
	unlinkat(fd, "work/work/incompat", AT_REMOVEDIR);
	unlinkat(fd, "work/work", AT_REMOVEDIR);
	unlinkat(fd, "work", AT_REMOVEDIR);
	unlinkat(fd, "container.json", 0);
	return rmdir(dir);
}

/* Parent's part. */

static pid_t helper(const char *name, pid_t pid, unsigned self)
{
	char p[16], s[16], f[16], n[16];
	snprintf(p, sizeof p, "%d", pid);
	snprintf(s, sizeof s, "%u", self);
	snprintf(f, sizeof f, "%lu", first);
	snprintf(n, sizeof n, "%lu", size);
	char *argv[] = { (char *)name, p, "0", s, "1", "1", f, n, NULL };
	char *env[] = { "PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL };
	char path[64];
	snprintf(path, sizeof path, "/usr/bin/%s", name);
	if ((errno = posix_spawn(&pid, path, NULL, NULL, argv, env)))
		die(name);
	return pid;
}

static void map_ids(pid_t pid)
{
	char path[64], line[64];
	if (kind == SUB) {
		pid_t u = helper("newuidmap", pid, geteuid()), g = helper("newgidmap", pid, getegid());
		int su, sg;
		MUST(waitpid(u, &su, 0));
		MUST(waitpid(g, &sg, 0));
		if (su || sg)
			die("id map helper");
		return;
	}
	if (kind == SINGLE) {
		snprintf(path, sizeof path, "/proc/%d/setgroups", pid);
		write_file(AT_FDCWD, path, 0, 0, "deny");
	}
	for (int i = 0; i < 2; i++) {
		unsigned own = i ? getegid() : geteuid();
		snprintf(path, sizeof path, "/proc/%d/%s", pid, i ? "gid_map" : "uid_map");
		snprintf(line, sizeof line, "0 %lu %lu", kind == ROOT ? first : own, kind == ROOT ? size : 1);
		write_file(AT_FDCWD, path, 0, 0, line);
	}
}

static void map_store(pid_t pid, const char *store)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/ns/user", pid);
	int userns = MUST(open(path, O_RDONLY | O_CLOEXEC));
	shared->tree = MUST(syscall(SYS_open_tree, AT_FDCWD, store, TREE));
	struct attr a = { .set = ATTR_IDMAP, .userns = userns };
	MUST(syscall(SYS_mount_setattr, shared->tree, "", AT_EMPTY_PATH, &a, sizeof a));
	close(userns);
}

/* Child's part. */

static void loopback(void)
{
	struct ifreq r = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int fd = MUST(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	MUST(ioctl(fd, SIOCSIFFLAGS, &r));
	close(fd);
}

static int beneath(int root, const char *name, int flags)
{
	struct open_how how = { .flags = flags | O_PATH | O_CLOEXEC,
		.resolve = flags & O_NOFOLLOW ? RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS : RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS };
	return MUST(syscall(SYS_openat2, root, name, &how, sizeof how));
}

static void enter(int root, const char *name)
{
	MAY(mkdir(name, 0755), EEXIST);
	int fd = beneath(root, name, O_DIRECTORY | O_NOFOLLOW);
	MUST(fchdir(fd));
	close(fd);
}

static void kernel_file_systems(int root)
{
	enter(root, "proc");
	MUST(mount("proc", ".", "proc", NOSDX, NULL));
	MUST(fchdir(root));
	enter(root, "sys");
	if (host_network) {
		MUST(mount("/sys", ".", NULL, MS_BIND | MS_REC, NULL));
		MUST(fchdir(root));
		int sys = MUST(open("sys", O_PATH | O_CLOEXEC));
		struct attr a = { .set = ATTR_RDONLY };
		MAY(syscall(SYS_mount_setattr, sys, "", AT_EMPTY_PATH | AT_RECURSIVE, &a, sizeof a), EPERM);
		close(sys);
		return;
	}
	MUST(mount("sysfs", ".", "sysfs", NOSDX | MS_RDONLY, NULL));
	MUST(fchdir(root));
	mount("cgroup", "sys/fs/cgroup", "cgroup2", NOSDX | MS_RDONLY, NULL);
}

static void dev(int root)
{
	static const char *nodes[] = { "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty" };
	static const char *links[][2] = { { "/proc/self/fd", "dev/fd" }, { "/proc/self/fd/0", "dev/stdin" },
		{ "/proc/self/fd/1", "dev/stdout" }, { "/proc/self/fd/2", "dev/stderr" }, { "pts/ptmx", "dev/ptmx" } };
	enter(root, "dev");
	MUST(mount("tmpfs", ".", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=0755,size=65536k"));
	MUST(fchdir(root));
	MUST(mkdir("dev/pts", 0755));
	MUST(mkdir("dev/shm", 0755));
	MUST(mkdir("dev/mqueue", 0755));
	MUST(mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620"));
	MUST(mount("shm", "dev/shm", "tmpfs", NOSDX, "mode=1777,size=67108864"));
	MAY(mount("mqueue", "dev/mqueue", "mqueue", NOSDX, NULL), ENODEV);
	for (int i = 0; i < 6; i++) {
		MUST(mknod(nodes[i] + 1, S_IFREG | 0666, 0));
		MUST(mount(nodes[i], nodes[i] + 1, NULL, MS_BIND, NULL));
	}
	for (int i = 0; i < 5; i++)
		MUST(symlink(links[i][0], links[i][1]));
}

static void mask(int root, int store)
{
	static const char *dirs[] = { "proc/acpi", "proc/asound", "proc/scsi", "sys/devices/virtual/powercap",
		"sys/firmware", "sys/fs/selinux", "sys/kernel/debug", "sys/kernel/security", "sys/kernel/tracing" };
	static const char *files[] = { "proc/interrupts", "proc/kallsyms", "proc/kcore", "proc/keys", "proc/config.gz",
		"proc/kpagecount", "proc/kpageflags", "proc/kpagecgroup", "proc/latency_stats", "proc/sched_debug",
		"proc/timer_list", "proc/timer_stats" };
	static const char *readonly[] = { "proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger" };
	for (unsigned i = 0; i < sizeof dirs / sizeof *dirs; i++) {
		int at = MAY(openat(root, dirs[i], O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), ENOENT);
		if (at < 0)
			continue;
		int tree = MUST(syscall(SYS_open_tree, store, "networks", TREE));
		MUST(syscall(SYS_move_mount, tree, "", at, "", FROM_EMPTY | TO_EMPTY));
		close(tree);
		close(at);
	}
	for (unsigned i = 0; i < sizeof files / sizeof *files; i++)
		MAY(mount("dev/null", files[i], NULL, MS_BIND, NULL), ENOENT);
	for (unsigned i = 0; i < sizeof readonly / sizeof *readonly; i++)
		if (MAY(mount(readonly[i], readonly[i], NULL, MS_BIND | MS_REC, NULL), ENOENT) == 0)
			MUST(mount(NULL, readonly[i], NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | NOSDX, NULL));
}

static void make_root(const char *store_path, char **layers)
{
	static const char *etc[] = { "etc/hostname", "etc/hosts", "etc/resolv.conf" };
	char text[3][160] = { "", "", "" }, options[4096], name[32];
	MUST(mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL));
	if (kind == ROOT) {
		MUST(syscall(SYS_move_mount, shared->tree, "", AT_FDCWD, "/etc", FROM_EMPTY));
		MUST(fchdir(shared->tree));
	} else {
		MUST(chdir(store_path));
	}
	int store = MUST(open(".", O_PATH | O_DIRECTORY | O_CLOEXEC));

	MUST(mount("tmpfs", "networks", "tmpfs", NOSDX | MS_RDONLY, "size=0k,mode=0755,nr_inodes=2"));
	MUST(mount("tmpfs", "volumes", "tmpfs", NOSDX, "mode=0755,size=1m"));
	snprintf(text[0], sizeof *text, "%s\n", hostname);
	snprintf(text[1], sizeof *text, "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t%s\n", hostname);
	for (int i = 0; i < 3; i++) {
		snprintf(name, sizeof name, "volumes/%d", i);
		write_file(AT_FDCWD, name, O_CREAT, 0644, text[i]);
	}

	int n = snprintf(options, sizeof options, "lowerdir=");
	for (int i = 0; layers[i] && n < (int)sizeof options; i++)
		n += snprintf(options + n, sizeof options - n, "%s%s", i ? ":" : "", layers[i]);
	if (n < (int)sizeof options)
		n += snprintf(options + n, sizeof options - n, ",upperdir=%s/upper,workdir=%s/work,userxattr,volatile", dir, dir);
	if (n >= (int)sizeof options)
		errno = ENAMETOOLONG, die("overlay options");
	MUST(mount("overlay", "tmp", "overlay", 0, options));
	MUST(chdir("tmp"));
	int root = MUST(open(".", O_PATH | O_DIRECTORY | O_CLOEXEC));

	kernel_file_systems(root);
	dev(root);
	for (int i = 0; i < 3; i++) {
		int at = beneath(root, etc[i], 0);
		snprintf(name, sizeof name, "volumes/%d", i);
		int tree = MUST(syscall(SYS_open_tree, store, name, TREE));
		MUST(syscall(SYS_move_mount, tree, "", at, "", FROM_EMPTY | TO_EMPTY));
		close(tree);
		close(at);
	}
	mask(root, store);
	MUST(syscall(SYS_pivot_root, ".", "."));
	MUST(umount2(".", MNT_DETACH));
	MUST(chdir("/"));
	close(root);
	close(store);
}

/* keep is podman's default set: eleven capabilities. */
static const uint64_t keep = 1ULL << CAP_CHOWN | 1ULL << CAP_DAC_OVERRIDE | 1ULL << CAP_FOWNER | 1ULL << CAP_FSETID |
	1ULL << CAP_KILL | 1ULL << CAP_NET_BIND_SERVICE | 1ULL << CAP_SETFCAP | 1ULL << CAP_SETGID |
	1ULL << CAP_SETPCAP | 1ULL << CAP_SETUID | 1ULL << CAP_SYS_CHROOT;

static void privileges(void)
{
	for (int c = 0; c <= 40; c++)
		if (!(keep >> c & 1))
			MAY(prctl(PR_CAPBSET_DROP, c), EINVAL);
	for (int i = 0; i < filter_count; i++)
		MUST(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filters[i]));
	if (kind != SINGLE) {
		gid_t zero = 0;
		MUST(setgroups(1, &zero));
		MUST(setresgid(0, 0, 0));
		MUST(setresuid(0, 0, 0));
	}
	struct __user_cap_header_struct h = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct d[2] = {
		{ .effective = (uint32_t)keep, .permitted = (uint32_t)keep },
		{ .effective = keep >> 32, .permitted = keep >> 32 } };
	MUST(syscall(SYS_capset, &h, d));
	umask(022);
}

static void child(int parent, unsigned long late, const char *store, char **layers, char **argv)
{
	char host[32];
	tie(parent);
	if (kind == SUB)
		MUST(unshare(late));
	while (!__atomic_load_n(&shared->mapped, __ATOMIC_ACQUIRE))
		syscall(SYS_futex, &shared->mapped, FUTEX_WAIT, 0, NULL, NULL, 0);
	if (kind == ROOT) {
		MUST(setgroups(0, NULL));
		MUST(setresgid(0, 0, 0));
		MUST(setresuid(0, 0, 0));
		tie(parent);
	}
	if (!host_network)
		loopback();
	make_root(store, layers);
	MUST(sethostname(hostname, 12));
	syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL);
	MUST(setsid());
	privileges();
	tie(parent);
	MUST(syscall(SYS_close_range, 3, ~0U, 2 /* CLOSE_RANGE_UNSHARE */));
	MUST(chdir("/"));
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	snprintf(host, sizeof host, "HOSTNAME=%s", hostname);
	char *env[] = { "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", host,
		"container=reference", "HOME=/root", NULL };
	execve(argv[0], argv, env);
	die(argv[0]);
}

int main(int argc, char **argv)
{
	int o;
	while ((o = getopt(argc, argv, "+Hf:m:")) != -1) {
		if (o == 'H')
			host_network = 1;
		else if (o == 'f' && filter_count < 2)
			load_filter(optarg);
		else if (o == 'm' && sscanf(optarg, "sub:%lu:%lu", &first, &size) == 2)
			kind = SUB;
		else if (o == 'm' && sscanf(optarg, "root:%lu", &first) == 1)
			kind = ROOT;
		else if (o != 'm' || strcmp(optarg, "single"))
			return 125;
	}
	char *store = argv[optind], **layers = argv + optind + 1, **program = layers;
	while (*program && strcmp(*program, "--"))
		program++;
	*program++ = NULL;

	MUST(chdir(store));
	for (char **l = layers; *l; l++)
		MUST(access(*l, F_OK));
	int fd = container();
	int self = MUST(syscall(SYS_pidfd_open, getpid(), 0));
	shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	unsigned long late = CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP | (host_network ? 0 : CLONE_NEWNET);
	struct clone_args args = { .exit_signal = SIGCHLD, .flags = CLONE_FILES | CLONE_NEWPID | CLONE_NEWUSER };
	if (kind != SUB)
		args.flags |= late;
	pid_t pid = MUST(syscall(SYS_clone3, &args, sizeof args));
	if (pid == 0)
		child(self, late, store, layers, program);

	map_ids(pid);
	if (kind == ROOT)
		map_store(pid, store);
	__atomic_store_n(&shared->mapped, 1, __ATOMIC_RELEASE);
	syscall(SYS_futex, &shared->mapped, FUTEX_WAKE, 1, NULL, NULL, 0);

	write_file(fd, "container.json.new", O_CREAT | O_TRUNC, 0600, "{\"id\":\"\",\"command\":[\"/bin/true\"],\"remove\":true,\"pid\":1}");
	MUST(renameat(fd, "container.json.new", fd, "container.json"));
	int status;
	MUST(waitpid(pid, &status, 0));
	MUST(discard(fd));
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
