package cli

import (
	"encoding/csv"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"skiff/rootfs"
	"skiff/run"

	"github.com/docker/go-units"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

func parseMounts(c *cli.Context, o *run.Options) error {
	for _, v := range c.StringSlice("volume") {
		m, err := parseVolume(v)
		if err != nil {
			return flagError("volume", v, "%v", err)
		}
		o.Mounts = append(o.Mounts, m)
	}
	for _, v := range c.StringSlice("mount") {
		m, err := parseMount(v)
		if err != nil {
			return flagError("mount", v, "%v", err)
		}
		o.Mounts = append(o.Mounts, m)
	}
	for _, v := range c.StringSlice("tmpfs") {
		m, err := parseTmpfs(v)
		if err != nil {
			return flagError("tmpfs", v, "%v", err)
		}
		o.Mounts = append(o.Mounts, m)
	}
	seen := map[string]bool{}
	for _, m := range o.Mounts {
		if seen[m.Destination] {
			return fmt.Errorf("two mounts at %s", m.Destination)
		}
		seen[m.Destination] = true
	}
	if o.ReadOnly && c.Bool("read-only-tmpfs") {
		for _, dir := range []string{"/run", "/tmp", "/var/tmp"} {
			if !seen[dir] {
				m, _ := parseTmpfs(dir)
				o.Mounts = append(o.Mounts, m)
			}
		}
	}
	return nil
}

// parseVolume reads HOST:CONTAINER[:OPTIONS]. A host path that is not absolute
// must begin with a dot, as a name would be a volume's.
func parseVolume(v string) (rootfs.Mount, error) {
	parts := strings.Split(v, ":")
	m := rootfs.Mount{Type: "bind"}
	if len(parts) < 2 || len(parts) > 3 {
		return m, fmt.Errorf("a bind is HOST:CONTAINER[:OPTIONS]")
	}
	if !strings.HasPrefix(parts[0], "/") && !strings.HasPrefix(parts[0], ".") {
		return m, fmt.Errorf("%s is neither an absolute path nor begins with a dot", strconv.Quote(parts[0]))
	}
	if err := ends(&m, parts[0], parts[1]); err != nil {
		return m, err
	}
	if len(parts) == 3 {
		for option := range strings.SplitSeq(parts[2], ",") {
			if err := bindOption(&m, option); err != nil {
				return m, err
			}
		}
	}
	return m, nil
}

// ends sets source and destination.
func ends(m *rootfs.Mount, source, destination string) (err error) {
	if m.Source, err = filepath.Abs(source); err != nil {
		return err
	}
	if !path.IsAbs(destination) {
		return fmt.Errorf("%s: the path in the container must be absolute", strconv.Quote(destination))
	}
	m.Destination = path.Clean(destination)
	return nil
}

func bindOption(m *rootfs.Mount, option string) error {
	switch option {
	case "rw", "", "z", "Z", "rbind", "cached", "delegated", "consistent":
	case "ro":
		m.ReadOnly = true
	case "bind":
		m.Flat = true
	case "nosuid":
		m.Flags |= unix.MS_NOSUID
	case "nodev":
		m.Flags |= unix.MS_NODEV
	case "noexec":
		m.Flags |= unix.MS_NOEXEC
	case "private", "rprivate":
		m.Propagation = unix.MS_PRIVATE
	case "slave", "rslave":
		m.Propagation = unix.MS_SLAVE
	case "shared", "rshared":
		m.Propagation = unix.MS_SHARED
	default:
		return fmt.Errorf("unknown option %s", strconv.Quote(option))
	}
	return nil
}

// parseMount reads docker's --mount: comma-separated KEY=VALUE.
func parseMount(v string) (rootfs.Mount, error) {
	m := rootfs.Mount{}
	var source, destination string
	var create bool
	data := []string{}
	// A field that holds a comma is in quotes, as docker has it.
	fields, err := csv.NewReader(strings.NewReader(v)).Read()
	if err != nil {
		return m, errors.New("no comma-separated KEY=VALUE")
	}
	var bindOnly, tmpfsOnly string
	for _, field := range fields {
		key, value, hasValue := strings.Cut(field, "=")
		on := true
		switch key {
		case "readonly", "ro", "bind-nonrecursive", "bind-create-src":
			if hasValue {
				if on, err = strconv.ParseBool(value); err != nil {
					return m, fmt.Errorf("%s: %s is neither true nor false", key, strconv.Quote(value))
				}
			}
		}
		if strings.HasPrefix(key, "bind-") {
			bindOnly = key
		} else if strings.HasPrefix(key, "tmpfs-") {
			tmpfsOnly = key
		}
		switch key {
		case "type":
			m.Type = value
		case "source", "src":
			source = value
		case "destination", "dst", "target":
			destination = value
		case "readonly", "ro":
			m.ReadOnly = on
		case "bind-propagation":
			if bindOption(&m, value); m.Propagation == 0 {
				return m, fmt.Errorf("bind-propagation: %s is none of private, slave, shared, rprivate, rslave, rshared", strconv.Quote(value))
			}
		case "consistency", "relabel":
			// Docker's for other systems, podman's for SELinux: nothing to do.
		case "notmpcopyup":
			// What a tmpfs here does anyway.
		case "bind-nonrecursive":
			m.Flat = on
		case "bind-recursive":
			m.Flat = value == "disabled"
		case "bind-create-src":
			create = on
		case "tmpfs-size":
			n, err := units.RAMInBytes(value)
			if err != nil || n < 0 {
				return m, fmt.Errorf("tmpfs-size: %s is no size", strconv.Quote(value))
			}
			data = append(data, "size="+strconv.FormatInt(n, 10))
		case "tmpfs-mode":
			if _, err := strconv.ParseUint(value, 8, 12); err != nil {
				return m, fmt.Errorf("tmpfs-mode: %s is no octal mode", strconv.Quote(value))
			}
			data = append(data, "mode="+value)
		default:
			return m, fmt.Errorf("unknown key %s", strconv.Quote(key))
		}
	}
	switch {
	case m.Type != "bind" && bindOnly != "":
		return m, fmt.Errorf("%s is for type=bind", bindOnly)
	case m.Type != "tmpfs" && tmpfsOnly != "":
		return m, fmt.Errorf("%s is for type=tmpfs", tmpfsOnly)
	}
	switch m.Type {
	case "bind":
		if source == "" {
			return m, fmt.Errorf("a bind needs src")
		}
		if err := ends(&m, source, destination); err != nil {
			return m, err
		}
		if create {
			return m, os.MkdirAll(m.Source, 0o755)
		}
		return m, nil
	case "tmpfs":
		m.Flags, m.Data = unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, strings.Join(data, ",")
		if source != "" {
			return m, fmt.Errorf("a tmpfs has no src")
		}
		return m, ends(&m, "/", destination)
	}
	return m, fmt.Errorf("type %s: bind or tmpfs", strconv.Quote(m.Type))
}

// tmpfsValue reports whether the kernel takes a value of tmpfs(5). Where it does
// not, it says EINVAL and no more.
func tmpfsValue(key, value string) bool {
	base, bits := 10, 32
	switch key {
	case "huge":
		return true
	case "mode":
		base, bits = 8, 12
	case "size", "nr_blocks", "nr_inodes":
		// A number with K, M or G, of bytes, blocks or files, or a part of the memory.
		if n := len(value) - 1; strings.ContainsRune("kKmMgG", rune(value[n])) || key == "size" && value[n] == '%' {
			value = value[:n]
		}
		bits = 63
	}
	_, err := strconv.ParseUint(value, base, bits)
	return err == nil
}

// parseTmpfs reads DIR[:OPTIONS]; the options are mount(8)'s and tmpfs(5)'s.
func parseTmpfs(v string) (rootfs.Mount, error) {
	dir, options, _ := strings.Cut(v, ":")
	m := rootfs.Mount{Type: "tmpfs", Flags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC}
	data, mode := []string{}, false
	for option := range strings.SplitSeq(options, ",") {
		key, value, _ := strings.Cut(option, "=")
		switch key {
		case "", "rw":
		case "ro":
			m.ReadOnly = true
		case "exec":
			m.Flags &^= unix.MS_NOEXEC
		case "suid":
			m.Flags &^= unix.MS_NOSUID
		case "dev":
			m.Flags &^= unix.MS_NODEV
		case "noexec", "nosuid", "nodev", "notmpcopyup", "defaults", "async", "relatime":
		case "noatime":
			m.Flags |= unix.MS_NOATIME
		case "nodiratime":
			m.Flags |= unix.MS_NODIRATIME
		case "strictatime":
			m.Flags |= unix.MS_STRICTATIME
		case "sync":
			m.Flags |= unix.MS_SYNCHRONOUS
		case "dirsync":
			m.Flags |= unix.MS_DIRSYNC
		case "size", "nr_inodes", "mode", "uid", "gid", "nr_blocks", "huge":
			if value == "" {
				return m, fmt.Errorf("%s needs a value", key)
			}
			if !tmpfsValue(key, value) {
				return m, fmt.Errorf("%s: %s is none", key, strconv.Quote(value))
			}
			mode = mode || key == "mode"
			data = append(data, option)
		default:
			return m, fmt.Errorf("unknown option %s", strconv.Quote(option))
		}
	}
	if !mode {
		data = append(data, "mode=1777")
	}
	m.Data = strings.Join(data, ",")
	return m, ends(&m, "/", dir)
}
