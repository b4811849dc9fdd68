package cgroup

import "testing"

func TestOwn(t *testing.T) {
	for _, c := range []struct {
		text, want string
		ok         bool
	}{
		{"0::/\n", "/", true},
		{"0::/user.slice/user-1000.slice/a.scope\n", "/user.slice/user-1000.slice/a.scope", true},
		{"0::/..\n", "", false},
		{"0::/../x\n", "", false},
		{"0::/..x\n", "/..x", true},
		{"1:name=systemd:/a\n0::/a\n", "", false},
		{"0::/a\n1:name=systemd:/a\n", "", false},
		{"", "", false},
	} {
		dir, ok := own(c.text)
		if ok != c.ok || ok && dir != c.want {
			t.Errorf("%q: %q, %v", c.text, dir, ok)
		}
	}
}
