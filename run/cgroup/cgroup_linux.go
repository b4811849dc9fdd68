package cgroup

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"skiff/internal/smallfile"

	"golang.org/x/sys/unix"
)

// mountPoint is where hosts of version 2 alone have the hierarchy. Hosts of
// both have a tmpfs there.
const mountPoint = "/sys/fs/cgroup"

// Path is the directory that Make would make for a container of this id, or ""
// if it would make none. Nothing is touched.
func Path(id string) string {
	dir := callers()
	if dir == "" {
		return ""
	}
	return filepath.Join(dir, prefix+id)
}

// prefix is that of the name of a container's group.
const prefix = "skiff-"

// callers is the directory of the caller's group, or "" if it can make none in it.
func callers() string {
	var fs unix.Statfs_t
	if unix.Statfs(mountPoint, &fs) != nil || fs.Type != unix.CGROUP2_SUPER_MAGIC {
		return ""
	}
	text, err := smallfile.Read("/proc/self/cgroup")
	if err != nil {
		return ""
	}
	dir, ok := own(string(text))
	if dir = filepath.Join(mountPoint, dir); !ok || unix.Access(dir, unix.W_OK) != nil {
		return ""
	}
	return dir
}

// strayAge is how old an empty group is that was left by a skiff that died
// before it wrote down that it had made one. Any start takes less.
const strayAge = time.Minute

// Sweep removes such groups below the caller's. Only empty ones go.
func Sweep() {
	dir := callers()
	if dir == "" {
		return
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		id, ok := strings.CutPrefix(e.Name(), prefix)
		if !e.IsDir() || !ok || len(id) != 64 || strings.Trim(id, "0123456789abcdef") != "" {
			continue // not of a container
		}
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > strayAge {
			unix.Rmdir(filepath.Join(dir, e.Name())) // EBUSY: it is a container's
		}
	}
}

// own is the caller's group, from /proc/PID/cgroup. It is not to be had if it
// lies outside the caller's cgroup namespace. Source: cgroups(7).
func own(text string) (dir string, ok bool) {
	dir, ok = strings.CutPrefix(strings.TrimSuffix(text, "\n"), "0::/")
	return "/" + dir, ok && !strings.Contains(dir, "\n") && dir != ".." && !strings.HasPrefix(dir, "../")
}

// Make makes the group, with at most pids tasks where they can be counted, and
// returns a descriptor for clone3(2) to start a process in it. An error means
// that the host does not allow it.
func Make(path string, pids int) (fd int, err error) {
	if err := unix.Mkdir(path, 0o755); err != nil {
		return -1, &os.PathError{Op: "mkdir", Path: path, Err: err}
	}
	fd, err = unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		unix.Rmdir(path)
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	write(filepath.Join(path, "pids.max"), strconv.Itoa(pids)) // ENOENT: not here
	return fd, nil
}

func write(path, text string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(text))
	return err
}

// removeTime is how long Remove waits for what it killed.
const removeTime = time.Second

// Remove kills what is left in the group and removes it, with the groups that
// were made in it. One that is gone is removed.
func Remove(path string) error {
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		err := unix.Rmdir(path)
		if err == nil || err == unix.ENOENT {
			return nil
		}
		if err != unix.EBUSY && err != unix.ENOTEMPTY || time.Since(began) > removeTime {
			return &os.PathError{Op: "rmdir", Path: path, Err: err}
		}
		write(filepath.Join(path, "cgroup.kill"), "1") // kernel 5.14
		entries, err := os.ReadDir(path)
		for _, e := range entries {
			if e.IsDir() {
				Remove(filepath.Join(path, e.Name()))
			}
		}
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
	}
}

// Refused reports whether an errno of clone3(2) is about the group that it was
// to start a process in. Source: clone(2), "CLONE_INTO_CGROUP".
func Refused(err error) bool {
	for _, e := range []unix.Errno{unix.EACCES, unix.EBUSY, unix.EOPNOTSUPP, unix.ENODEV, unix.EBADF} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
