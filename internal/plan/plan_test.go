package plan

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The second executor changes the process it runs in, so the tests run it in
// a child of their own: the test binary with this variable set.
const childEnv = "SKIFF_TEST_PERFORM"

func TestMain(m *testing.M) {
	if name := os.Getenv(childEnv); name != "" {
		runtime.LockOSThread()
		p := cases[name]()
		regs, err := p.Perform()
		json.NewEncoder(os.Stdout).Encode(outcomeOf(regs, err))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// An outcome is what both executors must agree on.
type outcome struct {
	Regs  []int
	Index int
	Errno int
	Step  string
}

func outcomeOf(regs []int, err error) outcome {
	o := outcome{Regs: regs, Index: -1}
	if err != nil {
		e := err.(*Error)
		o.Index, o.Step, o.Errno = e.Index, e.Step, int(e.Err.(syscall.Errno))
	}
	return o
}

// cases are plans whose registers do not depend on who performs them.
var cases = map[string]func() *Plan{
	"empty": New,
	"registers carry results": func() *Plan {
		p := New()
		r, n := p.Reg(), p.Reg()
		p.Call("open", unix.SYS_OPENAT, Int(unix.AT_FDCWD), p.Str("/dev/null"), Int(unix.O_RDWR|unix.O_CLOEXEC), Int(0)).Into(r)
		p.Call("write", unix.SYS_WRITE, r.Arg(), p.Str("hello"), Int(5)).Into(n)
		p.Call("close", unix.SYS_CLOSE, r.Arg()).Into(r)
		return p
	},
	"failure": func() *Plan {
		p := New()
		p.Call("first", unix.SYS_UMASK, Int(0o22))
		p.Call("open nothing", unix.SYS_OPENAT, Int(unix.AT_FDCWD), p.Str("/nonexistent"), Int(0), Int(0)).At("/nonexistent")
		p.Call("never", unix.SYS_GETPID).Into(p.Reg())
		return p
	},
	"ignored error": func() *Plan {
		p := New()
		r, yes, no := p.Reg(), p.Reg(), p.Reg()
		p.Call("open", unix.SYS_OPENAT, Int(unix.AT_FDCWD), p.Str("/nonexistent"), Int(0), Int(0)).Into(r).Ignore(unix.EPERM, unix.ENOENT)
		p.Call("left out", unix.SYS_UMASK, Int(0o22)).When(r).Into(no)
		p.Call("set", unix.SYS_UMASK, Int(0o77)).Unless(r).Into(yes)
		p.Call("get", unix.SYS_UMASK, Int(0o22)).Into(yes)
		return p
	},
	"another errno is not ignored": func() *Plan {
		p := New()
		p.Call("open", unix.SYS_OPENAT, Int(unix.AT_FDCWD), p.Str("/nonexistent"), Int(0), Int(0)).Ignore(unix.EPERM, unix.ENOTDIR, unix.EHWPOISON)
		return p
	},
	"high errno ignored": func() *Plan {
		p := New()
		r := p.Reg()
		p.Call("socket", unix.SYS_SOCKET, Int(unix.AF_INET), Int(unix.SOCK_STREAM), Int(unix.IPPROTO_UDP)).Into(r).Ignore(unix.EPROTONOSUPPORT)
		return p
	},
	"ignore all": func() *Plan {
		p := New()
		r := p.Reg()
		p.Call("close", unix.SYS_CLOSE, Int(-1)).Into(r).IgnoreAll()
		return p
	},
	"condition by a good register": func() *Plan {
		p := New()
		zero, out := p.Reg(), p.Reg()
		p.Call("get", unix.SYS_UMASK, Int(0o11)).When(zero)
		p.Call("get", unix.SYS_UMASK, Int(0o22)).When(zero).Into(out)
		p.Call("skip", unix.SYS_UMASK, Int(0o33)).Unless(zero).Into(out)
		return p
	},
	"preset": func() *Plan {
		p := New()
		r, no := p.Preset(-7), p.Preset(5)
		p.Call("left out", unix.SYS_UMASK, Int(0)).When(r).Into(no)
		return p
	},
	"zero": func() *Plan {
		p := New()
		p.Call("set", unix.SYS_UMASK, Int(0o77))
		p.Call("zero", unix.SYS_CLOSE, p.dup()).Zero(unix.EIO)
		p.Call("not zero", unix.SYS_UMASK, Int(0)).Zero(unix.ESTALE)
		return p
	},
	"zero ignored": func() *Plan {
		p := New()
		r := p.Reg()
		p.Call("set", unix.SYS_UMASK, Int(0o77))
		p.Call("not zero", unix.SYS_UMASK, Int(0)).Zero(unix.ESTALE).Ignore(unix.ESTALE).Into(r)
		return p
	},
	"six register arguments": func() *Plan {
		p := New()
		var in [6]Arg
		for i, v := range []int{-1, 0, 0, 0, 0, 0} {
			r := p.Reg()
			if v == -1 { // a negative result from an ignored error
				p.Call("bad", unix.SYS_CLOSE, Int(-1)).Into(r).Ignore(unix.EBADF)
			}
			in[i] = r.Arg()
		}
		p.Call("mmap", unix.SYS_MMAP, in[:]...)
		return p
	},
	"gates": func() *Plan {
		p := New()
		g := p.Gate()
		p.Signal("open", g)
		p.Wait("pass", g)
		return p
	},
}

func (p *Plan) dup() Arg {
	r := p.Reg()
	p.Call("dup", unix.SYS_OPENAT, Int(unix.AT_FDCWD), p.Str("/dev/null"), Int(unix.O_CLOEXEC), Int(0)).Into(r)
	return r.Arg()
}

func TestExecutorsAgree(t *testing.T) {
	for name, build := range cases {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), childEnv+"="+name)
			cmd.Stderr = os.Stderr
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			var want outcome
			if err := json.Unmarshal(out, &want); err != nil {
				t.Fatal(err)
			}
			p := build()
			task, err := p.Start(Clone{})
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(task.Pidfd)
			_, failure := task.Wait()
			got := outcomeOf(task.registers(), failure)
			// Descriptor numbers depend on what the process has open.
			if name == "zero" {
				got.Regs, want.Regs = nil, nil
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("assembler %+v, Go %+v", got, want)
			}
		})
	}
}

func TestExec(t *testing.T) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	p := New()
	p.Call("unshare files", unix.SYS_UNSHARE, Int(unix.CLONE_FILES))
	p.Call("stdout", unix.SYS_DUP3, Int(fds[1]), Int(1), Int(0))
	mask := p.Buffer(8)
	p.Call("signal mask", unix.SYS_RT_SIGPROCMASK, Int(unix.SIG_SETMASK), mask, Int(0), Int(8))
	p.Call("exec", unix.SYS_EXECVEAT, Int(unix.AT_FDCWD), p.Str("/bin/sh"),
		p.Strs([]string{"sh", "-c", "echo $A $0 $1; exit 7", "zero", "one"}), p.Strs([]string{"A=env"}), Int(0))
	task, err := p.Start(Clone{})
	if err != nil {
		t.Fatal(err)
	}
	// Not closed before: until the task has unshared it, the table is one.
	ws, err := task.Wait()
	var buf [64]byte
	n, _ := unix.Read(fds[0], buf[:])
	if got := string(buf[:n]); got != "env zero one\n" {
		t.Errorf("output %q", got)
	}
	if err != nil || ws.ExitStatus() != 7 {
		t.Errorf("status %v, %v", ws.ExitStatus(), err)
	}
}

func TestParentSetsRegisterBehindGate(t *testing.T) {
	p := New()
	ready, proceed := p.Gate(), p.Gate()
	fd, out := p.Reg(), p.Reg()
	p.Call("get", unix.SYS_UMASK, Int(0o22)).Into(out)
	p.Signal("ready", ready)
	p.Wait("proceed", proceed)
	p.Call("exit", unix.SYS_EXIT_GROUP, fd.Arg())
	task, err := p.Start(Clone{})
	if err != nil {
		t.Fatal(err)
	}
	if err := task.Passed(ready); err != nil {
		t.Fatal(err)
	}
	time.Sleep(5 * time.Millisecond)
	task.Set(fd, 42)
	task.Open(proceed)
	ws, err := task.Wait()
	if err != nil || ws.ExitStatus() != 42 {
		t.Errorf("status %v, %v", ws.ExitStatus(), err)
	}
}

// A task goes on with a plan that did not exist when it was made.
func TestThen(t *testing.T) {
	p := New()
	before := p.Reg()
	p.Call("first", unix.SYS_UMASK, Int(0o22)).Into(before)
	q := p.Then()
	task, err := p.Start(Clone{})
	if err != nil {
		t.Fatal(err)
	}
	status, after := q.Reg(), q.Reg()
	q.Call("second", unix.SYS_UMASK, Int(0o27)).Into(after)
	q.Call("exit", unix.SYS_EXIT_GROUP, status.Arg())
	time.Sleep(5 * time.Millisecond)
	next, err := task.Load(q)
	if err != nil {
		t.Fatal(err)
	}
	next.Set(status, 43)
	next.Continue()
	ws, err := next.Wait()
	if err != nil || ws.ExitStatus() != 43 || next.Reg(after) != 0o22 || after == before {
		t.Errorf("status %v, umask %o, %v", ws.ExitStatus(), next.Reg(after), err)
	}
}

// What failed is told by whichever plan it was in.
func TestThenFails(t *testing.T) {
	for _, c := range []struct{ first, second int }{{-1, 0}, {1000, -1}} {
		p := New()
		p.Call("first", unix.SYS_DUP, Int(0)).Into(p.Reg())
		if c.first < 0 {
			p.Call("first", unix.SYS_CLOSE, Int(c.first)).At("/first")
		}
		q := p.Then()
		task, err := p.Start(Clone{})
		if err != nil {
			t.Fatal(err)
		}
		q.Call("second", unix.SYS_CLOSE, Int(c.second)).At("/second")
		next, err := task.Load(q)
		if err != nil {
			t.Fatal(err)
		}
		next.Continue()
		want := "first: /first: bad file descriptor"
		if c.first >= 0 {
			want = "second: /second: bad file descriptor"
		}
		if _, err := next.Wait(); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// A task that dies before its gate must not leave the parent waiting.
func TestPassedReturnsFailure(t *testing.T) {
	p := New()
	g := p.Gate()
	p.Call("bad", unix.SYS_CLOSE, Int(-1)).At("/x")
	p.Signal("never", g)
	task, err := p.Start(Clone{})
	if err != nil {
		t.Fatal(err)
	}
	defer task.Wait()
	if err := task.Passed(g); err == nil || err.Error() != "bad: /x: bad file descriptor" {
		t.Errorf("error %v", err)
	}
}

// Descriptors that a task opens are the parent's too.
func TestSharedDescriptors(t *testing.T) {
	p := New()
	fd, ready := p.Reg(), p.Gate()
	p.Call("open", unix.SYS_OPENAT, Int(unix.AT_FDCWD), p.Str("/dev/zero"), Int(unix.O_CLOEXEC), Int(0)).Into(fd)
	p.Signal("ready", ready)
	task, err := p.Start(Clone{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := task.Wait(); err != nil {
		t.Fatal(err)
	}
	b := []byte{1}
	if n, err := unix.Read(task.Reg(fd), b); n != 1 || err != nil || b[0] != 0 {
		t.Errorf("read %d %v", n, err)
	}
	unix.Close(task.Reg(fd))
}

func TestCloneError(t *testing.T) {
	_, err := New().Start(Clone{Flags: unix.CLONE_THREAD})
	if e, ok := err.(*Error); !ok || e.Index != -1 || e.Err != unix.EINVAL {
		t.Errorf("error %v", err)
	}
}

func TestTraced(t *testing.T) {
	p := New()
	p.Call("one", unix.SYS_GETPID)
	p.Call("two", unix.SYS_CLOSE, Int(-1))
	p.Call("three", unix.SYS_GETPID)
	traced, trace := p.Traced()
	task, err := traced.Start(Clone{})
	if err != nil {
		t.Fatal(err)
	}
	_, failure := task.Wait()
	if failure == nil || failure.(*Error).Step != "two" {
		t.Errorf("failure %v", failure)
	}
	var lines []string
	trace.Each(task, func(line string, took time.Duration) {
		if took <= 0 || took > 10*time.Second {
			t.Errorf("%s took %v", line, took)
		}
		lines = append(lines, line)
	})
	if len(lines) != 1 {
		t.Errorf("lines %q", lines)
	}
}

func ExamplePlan_String() {
	p := New()
	fd := p.Reg()
	p.Call("open etc", unix.SYS_OPENAT, Int(unix.AT_FDCWD), p.Str("/etc"), Int(unix.O_PATH)).Into(fd).Ignore(unix.ENOENT)
	p.Call("enter etc", unix.SYS_FCHDIR, fd.Arg()).When(fd)
	p.Call("exec", unix.SYS_EXECVEAT, Int(unix.AT_FDCWD), p.Str("/bin/sh"), p.Strs([]string{"sh", "-i"}), p.Strs(nil), Int(0))
	fmt.Print(p)
	// Output:
	//   0  open etc                     openat(AT_FDCWD, "/etc", 0x200000) -> r1 ignore ENOENT
	//   1  enter etc                    fchdir(r1) when r1
	//   2  exec                         execveat(AT_FDCWD, "/bin/sh", ["sh" "-i"], [], 0)
}
