// The init of `skiff run --init`: process 1 of a container. It starts the
// program, hands it the signals that it gets itself, reaps whatever else ends,
// and ends as the program does: with its status, or 128+n for signal n.
//
//     init PROGRAM [ARG...]
//
// PROGRAM is looked for in PATH, as execvp(3) does. It is a process group of
// its own, in the foreground of the terminal if there is one, so that what is
// typed goes to it alone and not to its parent as well.
//
// No libc: two kilobytes that are copied into a memfd at each start. Built by
// `go generate ./run/init`.
#include <asm/unistd.h>
#include <asm/ioctls.h>
#include <asm/signal.h>
#include <asm/siginfo.h>
#include <linux/errno.h>
#include <linux/wait.h>

typedef unsigned long word;

#if defined(__x86_64__)
static long call(long n, word a, word b, word c, word d)
{
	long r;
	register word r10 __asm__("r10") = d;
	__asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
	return r;
}
__asm__(".globl _start\n_start:\n xor %ebp,%ebp\n mov %rsp,%rdi\n and $-16,%rsp\n call start\n");
#elif defined(__aarch64__)
static long call(long n, word a, word b, word c, word d)
{
	register long x8 __asm__("x8") = n;
	register word x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c, x3 __asm__("x3") = d;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
	return (long)x0;
}
__asm__(".globl _start\n_start:\n mov x29,#0\n mov x0,sp\n and sp,x0,#-16\n bl start\n");
#endif

static word length(const char *s)
{
	word n = 0;
	while (s[n])
		n++;
	return n;
}

static void say(const char *s) { call(__NR_write, 2, (word)s, length(s), 0); }

static _Noreturn void leave(int status)
{
	for (;;)
		call(__NR_exit_group, status, 0, 0, 0);
}

// execute tries the program at each place of PATH. It returns if there is none
// that can be executed: the most telling errno.
static long execute(char **argv, char **envp)
{
	static char path[8192];
	const char *name = argv[0], *list = 0;
	long worst = -ENOENT;
	word size = length(name);
	for (word i = 0; i < size; i++)
		if (name[i] == '/')
			return call(__NR_execve, (word)name, (word)argv, (word)envp, 0);
	for (char **e = envp; *e; e++)
		if ((*e)[0] == 'P' && (*e)[1] == 'A' && (*e)[2] == 'T' && (*e)[3] == 'H' && (*e)[4] == '=')
			list = *e + 5;
	while (list && size) {
		word n = 0;
		while (list[n] && list[n] != ':')
			n++;
		if (n + size + 3 < sizeof path) {
			word at = 0;
			for (; at < n; at++)
				path[at] = list[at];
			if (!n)
				path[at++] = '.';
			path[at++] = '/';
			for (word i = 0; i <= size; i++)
				path[at + i] = name[i];
			long e = call(__NR_execve, (word)path, (word)argv, (word)envp, 0);
			if (e != -ENOENT && e != -ENOTDIR && e != -EACCES)
				return e;
			if (e == -EACCES)
				worst = e;
		}
		list = list[n] ? list + n + 1 : 0;
	}
	return worst;
}

static _Noreturn void child(char **argv, char **envp)
{
	word none = 0, self;
	call(__NR_setpgid, 0, 0, 0, 0);
	self = call(__NR_getpid, 0, 0, 0, 0);
	int group = (int)self;
	// SIGTTOU is blocked here, so this does not stop us.
	call(__NR_ioctl, 0, TIOCSPGRP, (word)&group, 0);
	call(__NR_rt_sigprocmask, SIG_SETMASK, (word)&none, 0, sizeof none);
	long e = execute(argv, envp);
	say("skiff: ");
	say(argv[0]);
	switch (e) {
	case -ENOENT:
	case -ENOTDIR:
		say(": not found\n");
		leave(127);
	case -EACCES:
		say(": permission denied\n");
		break;
	case -ENOEXEC:
		say(": exec format error\n");
		break;
	default:
		say(": cannot be executed\n");
	}
	leave(126);
}

__attribute__((used)) _Noreturn void start(word *stack)
{
	char **argv = (char **)(stack + 1) + 1, **envp = (char **)(stack + 1) + stack[0] + 1;
	word all = ~0ul;
	if (stack[0] < 2)
		leave(127);
	call(__NR_rt_sigprocmask, SIG_SETMASK, (word)&all, 0, sizeof all);
	long pid = call(__NR_clone, SIGCHLD, 0, 0, 0);
	if (pid == 0)
		child(argv, envp);
	if (pid < 0) {
		say("skiff: init: fork: no process to be had\n");
		leave(126);
	}
	// Without this a program that asks at once might find itself in the background.
	call(__NR_setpgid, pid, pid, 0, 0);
	for (;;) {
		long got = call(__NR_rt_sigtimedwait, (word)&all, 0, 0, sizeof all);
		if (got < 0)
			continue;
		if (got != SIGCHLD) {
			if (got != SIGTTIN && got != SIGTTOU)
				call(__NR_kill, pid, got, 0, 0);
			continue;
		}
		for (;;) {
			int status = 0;
			long dead = call(__NR_wait4, -1, (word)&status, WNOHANG, 0);
			if (dead <= 0)
				break;
			if (dead == pid)
				leave(status & 0x7f ? 128 + (status & 0x7f) : status >> 8 & 0xff);
		}
	}
}
