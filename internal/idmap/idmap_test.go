package idmap

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"skiff/internal/need"
	"skiff/internal/plan"

	"golang.org/x/sys/unix"
)

func TestMapTranslates(t *testing.T) {
	m := Map{Kind: Subordinate, UIDs: withSelf(1000, []Range{{Host: 100000, Size: 10}, {Host: 300000, Size: 5}})}
	for _, c := range []struct {
		in, out uint32
		ok      bool
	}{{0, 1000, true}, {1, 100000, true}, {10, 100009, true}, {11, 300000, true}, {15, 300004, true}, {16, 0, false}, {1 << 31, 0, false}} {
		if got, ok := m.HostUID(c.in); got != c.out || ok != c.ok {
			t.Errorf("HostUID(%d) = %d, %v; want %d, %v", c.in, got, ok, c.out, c.ok)
		}
	}
	if s := m.String(); s != "0:1000:1,1:100000:10,11:300000:5" {
		t.Errorf("String() = %s", s)
	}
	if got, ok := (Map{}).HostUID(7); got != 7 || !ok {
		t.Errorf("host map: %d %v", got, ok)
	}
}

func TestSubordinateFile(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"by name", "bob:1:1\nann:100000:65536\n", "100000+65536"},
		{"by number", "1000:5:6", "5+6"},
		{"several", "ann:5:6\nann:50:7\n", "5+6 50+7"},
		{"absent", "bob:1:1\n", "no entry for user ann"},
		{"bad number", "ann:x:6\n", "bad line"},
		{"too large", "ann:4294967295:6\n", "bad line"},
		{"empty name", ":1:1\n", "no entry"},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "subuid")
			if err := os.WriteFile(file, []byte(c.text), 0o644); err != nil {
				t.Fatal(err)
			}
			ranges, err := subordinate(file, "ann", 1000)
			if err != nil {
				if !errors.Is(err, ErrNoSubordinate) || !strings.Contains(err.Error(), c.want) {
					t.Errorf("error %v, want %q", err, c.want)
				}
				return
			}
			var got []string
			for _, r := range ranges {
				got = append(got, lines([]Range{{r.Host, r.Size, 0}}, "+", " "))
			}
			if s := strings.ReplaceAll(strings.Join(got, " "), "+0", ""); s != c.want {
				t.Errorf("ranges %s, want %s", s, c.want)
			}
		})
	}
}

// Every kind of map that this user can have is written and seen inside.
func TestWrite(t *testing.T) {
	need.Userns(t)
	best, missed := Choose()
	if missed != nil {
		t.Log(missed)
	}
	for _, m := range []Map{OwnID(), best} {
		t.Run(m.Kind.String(), func(t *testing.T) {
			p := plan.New()
			mapped, uid, fd := p.Gate(), p.Reg(), p.Reg()
			text := p.Buffer(256)
			p.Wait("wait for id map", mapped)
			p.Call("uid", unix.SYS_GETUID).Into(uid)
			p.Call("open", unix.SYS_OPENAT, plan.Int(unix.AT_FDCWD), p.Str("/proc/self/uid_map"), plan.Int(unix.O_CLOEXEC), plan.Int(0)).Into(fd)
			p.Call("read", unix.SYS_READ, fd.Arg(), text, plan.Int(256))
			task, err := p.Start(plan.Clone{Flags: unix.CLONE_NEWUSER})
			if err != nil {
				t.Fatal(err)
			}
			writeErr := Write(task.PID, m)
			task.Open(mapped)
			_, failure := task.Wait()
			if writeErr != nil || failure != nil {
				t.Fatal(writeErr, failure)
			}
			unix.Close(task.Reg(fd))
			got := strings.Join(strings.Fields(string(task.Data(text))), " ")
			if want := lines(m.UIDs, " ", " "); strings.TrimRight(got, "\x00 ") != want {
				t.Errorf("uid_map %q, want %q", got, want)
			}
			if m.Kind != Root && task.Reg(uid) != 0 {
				t.Errorf("uid inside is %d", task.Reg(uid))
			}
		})
	}
}

// A helper that refuses is reported in its own words.
func TestWriteRefused(t *testing.T) {
	need.Userns(t)
	need.Tool(t, "newuidmap")
	if os.Geteuid() == 0 {
		need.That(t, "subuid", errors.New("root may map what it likes"))
	}
	p := plan.New()
	mapped := p.Gate()
	p.Wait("wait", mapped)
	task, err := p.Start(plan.Clone{Flags: unix.CLONE_NEWUSER})
	if err != nil {
		t.Fatal(err)
	}
	err = Write(task.PID, Map{Kind: Subordinate, UIDs: []Range{{0, 0, 1}}, GIDs: []Range{{0, 0, 1}}})
	task.Open(mapped)
	task.Wait()
	var e *Error
	if !errors.As(err, &e) || e.Helper != "newuidmap" || !strings.Contains(e.Output, "not allowed") {
		t.Errorf("error %v", err)
	}
}
