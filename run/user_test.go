package run

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"skiff/internal/idmap"
	"skiff/pull/store"

	"golang.org/x/sys/unix"
)

func accounts(passwd, group string) fileReader {
	return func(name string, _ int64) ([]byte, error) {
		switch name {
		case "etc/passwd":
			return []byte(passwd), nil
		case "etc/group":
			return []byte(group), nil
		}
		return nil, unix.ENOENT
	}
}

const (
	testPasswd = "root:x:0:0::/root:/bin/sh\nalice:x:1000:1001::/home/alice:/bin/sh\n77:x:5:5::/:/bin/sh\n"
	testGroup  = "root:x:0:\nstaff:x:50:alice\ngames:x:60:bob\n"
)

func TestLookUser(t *testing.T) {
	full := idmap.Map{Kind: idmap.Root, UIDs: []idmap.Range{{Container: 0, Host: 100000, Size: 65536}}, GIDs: []idmap.Range{{Container: 0, Host: 100000, Size: 65536}}}
	for _, c := range []struct {
		who   string
		added []string
		uid   uint32
		gid   uint32
		group []uint32
		home  string
		bad   bool
	}{
		{who: "", group: []uint32{0}, home: "/root"},
		{who: "alice", uid: 1000, gid: 1001, group: []uint32{50, 1001}, home: "/home/alice"},
		{who: "1000", uid: 1000, gid: 1001, group: []uint32{50, 1001}, home: "/home/alice"},
		{who: "alice:games", uid: 1000, gid: 60, group: []uint32{60}, home: "/home/alice"},
		{who: "77", uid: 77, group: []uint32{0}, home: "/"},
		{who: "0", added: []string{"games", "9"}, group: []uint32{0, 9, 60}, home: "/root"},
		{who: "nosuch", bad: true}, {who: "0:nosuch", bad: true}, {who: "0", added: []string{"nosuch"}, bad: true},
		{who: "4294967296", bad: true}, {who: "0:2147483648", bad: true}, {who: "70000", bad: true},
		{who: "18446744073709551616", bad: true}, {who: "-1", bad: true},
	} {
		u, home, err := lookUser(&Options{User: c.who, Groups: c.added}, &store.Image{}, full, accounts(testPasswd, testGroup))
		if c.bad {
			var e *UserError
			if !errors.As(err, &e) {
				t.Errorf("%q %q: %+v, error %v, want a UserError", c.who, c.added, u, err)
			}
			continue
		}
		if err != nil || u.UID != c.uid || u.GID != c.gid || !slices.Equal(u.Groups, c.group) || home != c.home {
			t.Errorf("%q %q: %+v, %q, error %v; want %+v", c.who, c.added, u, home, err, c)
		}
	}
}

// Ids in the image's files that are no ids are refused, and never become others
// by being cut to 32 bits: 4294967296 is not root, and -1 not "as before".
func TestAccountsOutOfRange(t *testing.T) {
	const passwd = "over:x:4294967296:0::/:\nminus:x:-1:0::/:\nlong:x:99999999999999999999:0::/:\nhigh:x:2147483648:0::/:\n" +
		"group:x:5:4294967296::/:\nminusgroup:x:5:-1::/:\nfine:x:7:8::/:\n"
	const group = "over:x:4294967296:fine\nminus:x:-1:fine\nfine:x:9:fine\n"
	for _, who := range []string{"over", "minus", "long", "high", "group", "minusgroup", "fine:over", "fine:minus"} {
		var e *UserError
		if u, _, err := lookUser(&Options{User: who}, &store.Image{}, idmap.Map{}, accounts(passwd, group)); !errors.As(err, &e) || e.Reason != "id out of range" {
			t.Errorf("%s: %+v, error %v", who, u, err)
		}
	}
	// A group that nobody asked for is left out.
	u, _, err := lookUser(&Options{User: "fine"}, &store.Image{}, idmap.Map{}, accounts(passwd, group))
	if err != nil || u.UID != 7 || !slices.Equal(u.Groups, []uint32{8, 9}) {
		t.Errorf("fine: %+v, error %v", u, err)
	}
}

// The record's account spares the files, unless another one is asked for.
func TestRecordedAccount(t *testing.T) {
	img := &store.Image{Account: &store.Account{UID: 7, GIDs: []uint32{9, 8}, Home: "/x"}}
	u, home, err := lookUser(&Options{}, img, idmap.Map{}, func(string, int64) ([]byte, error) {
		t.Error("reads a file")
		return nil, unix.ENOENT
	})
	if err != nil || u.UID != 7 || u.GID != 9 || home != "/x" || !slices.Equal(u.Groups, []uint32{8, 9}) {
		t.Errorf("%+v, %q, error %v", u, home, err)
	}
	u, home, err = lookUser(&Options{User: "alice"}, img, idmap.Map{}, accounts(testPasswd, testGroup))
	if err != nil || u.UID != 1000 || home != "/home/alice" {
		t.Errorf("asked for alice: %+v, %q, error %v", u, home, err)
	}
}

// Whatever an image's files hold, a number stays that number and the primary
// group is among the groups.
func FuzzLookUser(f *testing.F) {
	f.Add("1000", testPasswd, testGroup)
	f.Add("alice", "alice:x:-1:99999999999:::\n:::::::\n", "a:x:0:alice,,\n")
	f.Fuzz(func(t *testing.T, who, passwd, group string) {
		u, _, err := lookUser(&Options{User: who}, &store.Image{}, idmap.Map{}, accounts(passwd, group))
		if err != nil {
			return
		}
		if name, _, _ := strings.Cut(who, ":"); digits(name) {
			if n, ok := number(name); !ok || uint32(n) != u.UID {
				t.Errorf("%q became %d", who, u.UID)
			}
		}
		if !slices.Contains(u.Groups, u.GID) {
			t.Errorf("group %d is not among %d", u.GID, u.Groups)
		}
	})
}

func TestParseSignal(t *testing.T) {
	for name, want := range map[string]int{"TERM": 15, "SIGTERM": 15, "sigkill": 9, "9": 9, "RTMIN+3": 37, "SIGRTMIN": 34, "RTMAX-1": 63, "64": 64,
		"0": 0, "65": 0, "-1": 0, "": 0, "NOSUCH": 0, "RTMIN-1": 0, "RTMAX+1": 0} {
		got, err := ParseSignal(name)
		if got != want || (err == nil) != (want != 0) {
			t.Errorf("%q: %d, error %v; want %d", name, got, err, want)
		}
	}
}

func TestCandidates(t *testing.T) {
	for _, c := range []struct {
		name, path string
		want       []string
	}{
		{"ls", "/a:/b/", []string{"/a/ls", "/b/ls"}}, {"/x/ls", "/a", []string{"/x/ls"}},
		{"./ls", "/a", []string{"./ls"}}, {"ls", ":/a", []string{"./ls", "/a/ls"}},
		{"ls", "/a::/b/::/a:/b", []string{"/a/ls", "./ls", "/b/ls"}},
	} {
		got := candidates(&Spec{Args: []string{c.name}, Env: []string{"PATH=" + c.path}})
		if !slices.Equal(got, c.want) {
			t.Errorf("%s in %s: %q, want %q", c.name, c.path, got, c.want)
		}
	}
}
