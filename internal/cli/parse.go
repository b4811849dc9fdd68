package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"skiff/run"

	"github.com/docker/go-units"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

// A flagError names the flag and what is wrong with its value.
func flagError(flag, value, format string, args ...any) error {
	return fmt.Errorf("--%s %s: %s", flag, strconv.Quote(value), fmt.Sprintf(format, args...))
}

func parseNames(c *cli.Context, o *run.Options) error {
	if c.IsSet("name") && !validName(o.Name) {
		return flagError("name", o.Name, "a name is a letter or digit, then letters, digits, _ . or -")
	}
	if len(o.Hostname) > 64 || strings.ContainsAny(o.Hostname, " \t\n/") {
		return flagError("hostname", o.Hostname, "no host name")
	}
	return nil
}

// validName is docker's [a-zA-Z0-9][a-zA-Z0-9_.-]+, of at most 128 bytes.
func validName(s string) bool {
	if len(s) < 2 || len(s) > 128 {
		return false
	}
	for i, r := range s {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !letter && (i == 0 || r != '_' && r != '.' && r != '-') {
			return false
		}
	}
	return true
}

func parseEntrypoint(c *cli.Context, o *run.Options) error {
	if !c.IsSet("entrypoint") {
		return nil
	}
	text := c.String("entrypoint")
	words := []string{}
	switch {
	case strings.HasPrefix(text, "["):
		if err := json.Unmarshal([]byte(text), &words); err != nil {
			return flagError("entrypoint", text, "no JSON array of strings")
		}
	case text != "":
		words = []string{text}
	}
	o.Entrypoint = &words
	return nil
}

func parseEnv(c *cli.Context, o *run.Options) error {
	for _, file := range c.StringSlice("env-file") {
		text, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("--env-file: %w", err)
		}
		text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")) // a byte order mark
		for line := range strings.Lines(string(text)) {
			line = strings.TrimLeft(strings.TrimRight(line, "\r\n"), " \t")
			if line == "" || line[0] == '#' {
				continue
			}
			if key, _, _ := strings.Cut(line, "="); strings.ContainsAny(key, " \t") {
				return flagError("env-file", file, "%q: a name has no spaces", key)
			}
			if err := addEnv(o, "env-file", line); err != nil {
				return err
			}
		}
	}
	for _, e := range c.StringSlice("env") {
		if err := addEnv(o, "env", e); err != nil {
			return err
		}
	}
	return nil
}

// addEnv takes K=V as it is, K from the caller's environment if it is there,
// and K* as every variable whose name begins so.
func addEnv(o *run.Options, flag, e string) error {
	key, _, hasValue := strings.Cut(e, "=")
	if key == "" || strings.Contains(e, "\x00") {
		return flagError(flag, e, "no name of a variable")
	}
	if hasValue {
		o.Env = append(o.Env, e)
		return nil
	}
	if prefix, ok := strings.CutSuffix(key, "*"); ok {
		for _, kv := range os.Environ() {
			if strings.HasPrefix(kv, prefix) {
				o.Env = append(o.Env, kv)
			}
		}
		return nil
	}
	if v, ok := os.LookupEnv(key); ok {
		o.Env = append(o.Env, key+"="+v)
	}
	return nil
}

func parseLabels(c *cli.Context, o *run.Options) error {
	for _, l := range c.StringSlice("label") {
		k, v, _ := strings.Cut(l, "=")
		if k == "" {
			return flagError("label", l, "a label is KEY=VALUE")
		}
		if o.Labels == nil {
			o.Labels = map[string]string{}
		}
		o.Labels[k] = v
	}
	return nil
}

func parseHosts(c *cli.Context, o *run.Options) error {
	for _, h := range c.StringSlice("add-host") {
		name, address, ok := strings.Cut(h, "=")
		if !ok {
			name, address, ok = strings.Cut(h, ":")
		}
		address = strings.Trim(address, "[]")
		if address == "host-gateway" && o.Network == run.NetworkNone {
			return flagError("add-host", h, "without a network there is no way to the host")
		}
		if _, err := netip.ParseAddr(address); !ok || name == "" || strings.ContainsAny(name, " \t\n") || err != nil && address != "host-gateway" {
			return flagError("add-host", h, "a host is NAME:ADDRESS")
		}
		o.AddHosts = append(o.AddHosts, run.Host{Name: name, Address: address})
	}
	for _, d := range o.DNS {
		if _, err := netip.ParseAddr(d); err != nil {
			return flagError("dns", d, "no address")
		}
	}
	for _, list := range []struct {
		flag   string
		values []string
	}{{"dns-search", o.DNSSearch}, {"dns-option", o.DNSOptions}} {
		for _, s := range list.values {
			if s == "" || strings.ContainsAny(s, " \t\r\n\x00") {
				return flagError(list.flag, s, "one word")
			}
		}
	}
	return nil
}

func parseSecurity(c *cli.Context, o *run.Options) error {
	for _, s := range c.StringSlice("security-opt") {
		key, value, hasValue := strings.Cut(s, "=")
		if !hasValue {
			key, value, hasValue = strings.Cut(s, ":")
		}
		switch {
		case key == "seccomp" && value != "":
			o.Seccomp = value
		case key == "no-new-privileges" && (!hasValue || value == "true"):
			o.NoNewPrivileges = true
		case key == "no-new-privileges" && value == "false":
			o.NoNewPrivileges = false
		case key == "label" && (value == "disable" || strings.HasPrefix(value, "type:")):
			// There is no SELinux label to leave out.
		case key == "apparmor" && value == "unconfined":
			// Nor a profile.
		case key == "systempaths" && value == "unconfined":
			o.Unmask = append(o.Unmask, "ALL")
		case key == "mask" && absolutes(value):
			o.Mask = append(o.Mask, strings.Split(value, ":")...)
		case key == "unmask" && (strings.EqualFold(value, "ALL") || absolutes(value)):
			o.Unmask = append(o.Unmask, strings.Split(value, ":")...)
		default:
			return flagError("security-opt", s, "seccomp=FILE, seccomp=unconfined, no-new-privileges, mask=PATH, unmask=PATH, systempaths=unconfined, apparmor=unconfined or label=disable")
		}
	}
	switch mode := c.String("userns"); mode {
	case "":
	case "host":
		if os.Geteuid() != 0 {
			return flagError("userns", mode, "only root can do without a user namespace")
		}
		o.HostUsers = true
	default:
		return flagError("userns", mode, "host")
	}
	return nil
}

// absolutes reports whether a list of paths, separated by colons, holds
// absolute ones alone.
func absolutes(list string) bool {
	for p := range strings.SplitSeq(list, ":") {
		if !path.IsAbs(p) {
			return false
		}
	}
	return true
}

func parseSizes(c *cli.Context, o *run.Options) error {
	text := c.String("shm-size")
	n, err := units.RAMInBytes(text)
	if err != nil || n < 0 {
		return flagError("shm-size", text, "a size is a number with b, k, m or g; 0 is no limit")
	}
	o.ShmSize = n
	return nil
}

// limits are setrlimit(2)'s, by docker's names.
var limits = [...]struct {
	name     string
	resource int
}{
	{"as", unix.RLIMIT_AS}, {"core", unix.RLIMIT_CORE}, {"cpu", unix.RLIMIT_CPU}, {"data", unix.RLIMIT_DATA},
	{"fsize", unix.RLIMIT_FSIZE}, {"locks", unix.RLIMIT_LOCKS}, {"memlock", unix.RLIMIT_MEMLOCK},
	{"msgqueue", unix.RLIMIT_MSGQUEUE}, {"nice", unix.RLIMIT_NICE}, {"nofile", unix.RLIMIT_NOFILE},
	{"nproc", unix.RLIMIT_NPROC}, {"rss", unix.RLIMIT_RSS}, {"rtprio", unix.RLIMIT_RTPRIO},
	{"rttime", unix.RLIMIT_RTTIME}, {"sigpending", unix.RLIMIT_SIGPENDING}, {"stack", unix.RLIMIT_STACK},
}

func parseUlimits(c *cli.Context, o *run.Options) error {
	for _, u := range c.StringSlice("ulimit") {
		if u == "host" {
			continue // podman's word for the caller's own, which they are
		}
		l, err := parseUlimit(u)
		if err != nil {
			return flagError("ulimit", u, "%v", err)
		}
		// The last of a kind counts: in turn, a lower one would forbid a higher.
		o.Rlimits = slices.DeleteFunc(o.Rlimits, func(old run.Rlimit) bool { return old.Resource == l.Resource })
		o.Rlimits = append(o.Rlimits, l)
	}
	return nil
}

func parseUlimit(u string) (run.Rlimit, error) {
	name, values, ok := strings.Cut(u, "=")
	soft, hard, two := strings.Cut(values, ":")
	if !two {
		hard = soft
	}
	for _, l := range limits {
		if l.name != name || !ok {
			continue
		}
		s, err1 := limitValue(soft)
		h, err2 := limitValue(hard)
		switch {
		case err1 != nil || err2 != nil:
			return run.Rlimit{}, errors.New("a limit is a number, or -1 for none")
		case s > h:
			return run.Rlimit{}, errors.New("the soft limit is above the hard one")
		}
		return run.Rlimit{Name: name, Resource: l.resource, Soft: s, Hard: h}, nil
	}
	return run.Rlimit{}, errors.New("a limit is NAME=SOFT[:HARD]; NAME is one of setrlimit(2)'s, such as nofile")
}

func limitValue(s string) (uint64, error) {
	if s == "-1" || s == "unlimited" {
		return unix.RLIM_INFINITY, nil
	}
	return strconv.ParseUint(s, 10, 63)
}
