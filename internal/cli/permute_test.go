package cli

import (
	"strings"
	"testing"
)

func TestPermute(t *testing.T) {
	for _, c := range [][2]string{
		{"skiff rmi alpine -f", "skiff rmi -f alpine"},
		{"skiff rmi -f alpine", "skiff rmi -f alpine"},
		{"skiff images alpine --filter dangling=true -q", "skiff images --filter dangling=true -q alpine"},
		{"skiff images alpine -qf dangling=true", "skiff images -qf dangling=true alpine"},
		{"skiff images alpine --filter=dangling=true x", "skiff images --filter=dangling=true alpine x"},
		{"skiff image inspect a -f {{.Id}} b", "skiff image inspect -f {{.Id}} a b"},
		{"skiff pull a --locked b", "skiff pull --locked a b"},
		{"skiff rmi a -- -f", "skiff rmi -- a -f"},
		{"skiff rmi -", "skiff rmi -"},
		{"skiff images a --filter", "skiff images --filter a"},
		{"skiff run alpine ls -l", "skiff run alpine ls -l"},
		{"skiff explain run alpine ls -l", "skiff explain run alpine ls -l"},
		{"skiff search a --limit 3", "skiff search a --limit 3"},
		{"skiff --root /x rmi a -f", "skiff --root /x rmi a -f"},
		{"skiff nosuch a -f", "skiff nosuch a -f"},
		{"skiff", "skiff"},
	} {
		args := strings.Fields(c[0])
		if got := strings.Join(permute(args, commands(args)), " "); got != c[1] {
			t.Errorf("%s: got %s, want %s", c[0], got, c[1])
		}
	}
}
