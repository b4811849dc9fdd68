package run

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
)

// unmasked are the paths but for those that a pattern names, or is above.
// Source: podman-run(1), "unmask".
func unmasked(paths, patterns []string) []string {
	return slices.DeleteFunc(slices.Clone(paths), func(p string) bool {
		p = strings.TrimSuffix(p, "/")
		return slices.ContainsFunc(patterns, func(pattern string) bool {
			if strings.EqualFold(pattern, "ALL") {
				return true
			}
			pattern = path.Clean(pattern)
			match, _ := path.Match(pattern, p)
			return match || strings.HasPrefix(p, pattern+"/")
		})
	})
}

// masked are paths to hide, with the slash that tells a directory: the host's
// kernel says which they are. One that is nowhere is left out.
func masked(paths []string) []string {
	var list []string
	for _, p := range paths {
		p = path.Clean(p)
		switch st, err := os.Stat(p); {
		case err != nil:
		case st.IsDir():
			list = append(list, p+"/")
		default:
			list = append(list, p)
		}
	}
	return list
}

// checkMasks refuses to hide what is not the kernel's: a path of the image can
// be anything.
func checkMasks(paths []string) error {
	for _, p := range paths {
		if p := path.Clean(p); !strings.HasPrefix(p, "/proc/") && !strings.HasPrefix(p, "/sys/") {
			return fmt.Errorf("mask %s: only what is below /proc or /sys can be hidden", p)
		}
	}
	return nil
}
