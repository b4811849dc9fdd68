package manifest

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
)

// A Platform is what an image runs on, in Go's words as image-spec has them.
type Platform struct {
	OS      string `json:"os"`
	Arch    string `json:"architecture"`
	Variant string `json:"variant,omitempty"`
}

func (p Platform) String() string {
	s := p.OS + "/" + p.Arch
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// ParsePlatform reads os/arch[/variant], arch[/variant] or os, as docker does.
func ParsePlatform(s string) (Platform, error) {
	parts := strings.Split(s, "/")
	for _, p := range parts {
		if p == "" || strings.Trim(p, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") != "" {
			return Platform{}, fmt.Errorf("platform %q is not os/arch or os/arch/variant", clean(s))
		}
	}
	p := Platform{OS: "linux", Arch: runtime.GOARCH}
	switch {
	case len(parts) == 1 && parts[0] == "linux":
		return p.normal(), nil
	case len(parts) == 1:
		p.Arch = parts[0]
	case len(parts) == 2 && parts[0] != "linux" && strings.HasPrefix(parts[1], "v"):
		p.Arch, p.Variant = parts[0], parts[1]
	case len(parts) == 2:
		p.OS, p.Arch = parts[0], parts[1]
	case len(parts) == 3:
		p.OS, p.Arch, p.Variant = parts[0], parts[1], parts[2]
	default:
		return Platform{}, fmt.Errorf("platform %q is not os/arch or os/arch/variant", clean(s))
	}
	return p.normal(), nil
}

// normal gives each platform one spelling: arm64's v8 and amd64's v1 are what they
// have anyway. Source: containerd/platforms, database.go.
func (p Platform) normal() Platform {
	p.OS, p.Arch, p.Variant = strings.ToLower(p.OS), strings.ToLower(p.Arch), strings.ToLower(p.Variant)
	switch p.Arch {
	case "x86_64", "x86-64":
		p.Arch = "amd64"
	case "aarch64":
		p.Arch = "arm64"
	case "i386", "i686":
		p.Arch = "386"
	case "armhf":
		p.Arch, p.Variant = "arm", "v7"
	case "armel":
		p.Arch, p.Variant = "arm", "v6"
	}
	if p.Variant != "" && p.Variant[0] != 'v' && strings.Trim(p.Variant, "0123456789") == "" {
		p.Variant = "v" + p.Variant
	}
	switch {
	case p.Arch == "arm64" && p.Variant == "v8", p.Arch == "amd64" && p.Variant == "v1", p.Arch == "386":
		p.Variant = ""
	case p.Arch == "arm" && p.Variant == "":
		p.Variant = "v7"
	}
	return p
}

// Host is this machine.
var Host = sync.OnceValue(func() Platform {
	p := Platform{OS: "linux", Arch: runtime.GOARCH}
	if p.Arch == "amd64" {
		info, _ := os.ReadFile("/proc/cpuinfo")
		p.Variant = level(info)
	}
	return p.normal()
})

// level is the x86-64 level by the kernel's names of the features, "" for the
// first. Source: x86-64 psABI, "Micro-Architecture Levels"; cpufeatures.h.
func level(cpuinfo []byte) string {
	_, rest, _ := bytes.Cut(cpuinfo, []byte("\nflags"))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	have := map[string]bool{}
	for _, f := range strings.Fields(string(line)) {
		have[f] = true
	}
	best := ""
	for _, l := range []struct{ name, flags string }{
		{"v2", "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"},
		{"v3", "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"},
		{"v4", "avx512f avx512bw avx512cd avx512dq avx512vl"},
	} {
		for _, f := range strings.Fields(l.flags) {
			if !have[f] {
				return best
			}
		}
		best = l.name
	}
	return best
}

// runs lists the platforms that p runs, best first. Another architecture that
// the processor also knows comes last, and only for the host, of which nobody asked more.
// Source: containerd/platforms, compare.go.
func (p Platform) runs(others bool) []Platform {
	down := func(arch string, variants ...string) []Platform {
		var list []Platform
		from := slices.Index(variants, p.Variant)
		if arch != p.Arch {
			from = 0
		}
		if from < 0 {
			return []Platform{p}
		}
		for _, v := range variants[from:] {
			list = append(list, Platform{p.OS, arch, v})
		}
		return list
	}
	switch p.Arch {
	case "amd64":
		list := down("amd64", "v4", "v3", "v2", "")
		if others {
			list = append(list, Platform{p.OS, "386", ""})
		}
		return list
	case "arm64":
		var list []Platform
		if p.Variant != "" {
			list = append(list, p)
		}
		list = append(list, Platform{p.OS, "arm64", ""})
		if others {
			list = append(list, down("arm", "v8", "v7", "v6", "v5")...)
		}
		return list
	case "arm":
		return down("arm", "v8", "v7", "v6", "v5")
	}
	return []Platform{p}
}

// Want is what platform to look for.
type Want struct {
	Platform Platform // the zero value is the host's
	Asked    bool     // somebody asked for it: nothing else will do
}

func (w Want) vector() []Platform {
	p := w.Platform
	if p == (Platform{}) {
		p = Host()
	}
	return p.normal().runs(!w.Asked)
}

// Accepts says whether an image of platform p is what is wanted.
func (w Want) Accepts(p Platform) bool { return slices.Contains(w.vector(), p.normal()) }

// A PlatformError is an image that there is, but not for the platform wanted.
type PlatformError struct {
	Want Platform
	Have []Platform // what there is
}

func (e *PlatformError) Error() string {
	var have []string
	for _, p := range e.Have {
		if s := p.String(); !slices.Contains(have, s) {
			have = append(have, s)
		}
	}
	if len(have) == 0 {
		return fmt.Sprintf("not for %s", e.Want)
	}
	return fmt.Sprintf("not for %s; there is %s", e.Want, strings.Join(have, ", "))
}

// Refuse is the error of an image that Accepts did not.
func (w Want) Refuse(have ...Platform) error {
	p := w.vector()[0]
	if !w.Asked {
		p.Variant = "" // the processor's level is nobody's wish
	}
	return &PlatformError{Want: p, Have: have}
}

// Choose returns the manifests of an index that may be the wanted one, best
// first: those of its platform, then nested indexes, then those that name none. The error
// is a *PlatformError if there is nothing to try.
func (d *Document) Choose(w Want) ([]Descriptor, error) {
	var have []Platform
	var nested, silent []Descriptor
	vector := w.vector()
	ranks := make([][]Descriptor, len(vector))
	for _, m := range d.Manifests {
		index := m.MediaType == OCIIndex || m.MediaType == DockerList
		switch {
		case !index && m.MediaType != OCIManifest && m.MediaType != DockerManifest, m.Artifact != "" && !isConfig(m.Artifact):
		case m.Platform == nil || m.Platform.OS == "" && m.Platform.Arch == "":
			if index {
				nested = append(nested, m)
			} else {
				silent = append(silent, m)
			}
		case m.Platform.OS == "unknown":
			// buildkit's attestations.
		default:
			p := m.Platform.normal()
			have = append(have, p)
			if i := slices.Index(vector, p); i >= 0 {
				ranks[i] = append(ranks[i], m)
			}
		}
	}
	list := slices.Concat(slices.Concat(ranks...), nested, silent)
	if len(list) == 0 {
		return nil, w.Refuse(have...)
	}
	return list, nil
}
