package run

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"skiff/internal/smallfile"
	"skiff/pull/store"
	"skiff/run/state"

	"golang.org/x/sys/unix"
)

// An InUseError is an image that a container needs, or that is mounted.
type InUseError struct {
	Container string
	Mount     string // where; empty beside a Container
}

func (e *InUseError) Error() string {
	if e.Mount != "" {
		return "mounted at " + e.Mount
	}
	return "in use by container " + e.Container
}

// Unused returns an *InUseError if a container, running or stopped, has the
// image, or it is mounted, and no other name would be left to it.
func (r *Runner) Unused(img *store.Image) error {
	images, err := r.Store.Images()
	if err != nil {
		return err
	}
	for _, other := range images {
		if other.ID == img.ID && other.Reference != img.Reference && !other.Nameless() {
			return nil
		}
	}
	all, err := r.Containers().List()
	if err != nil {
		return err
	}
	for _, c := range all {
		if c.ImageID == img.ID.String() {
			return &InUseError{Container: c.Name}
		}
	}
	for _, m := range r.MountedImages() {
		if m.ID == img.ID {
			return &InUseError{Mount: m.Path}
		}
	}
	return nil
}

// killTime is what the process of a killed container has to write down its end.
const killTime = 10 * time.Second

// Kill kills a container if it runs, and removes it. The error wraps
// state.ErrAbsent if there is none.
func (r *Runner) Kill(name string) error {
	c, err := r.Containers().Find(name)
	if err != nil {
		return err
	}
	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		err := r.Remove(c.ID)
		switch {
		case errors.Is(err, state.ErrAbsent):
			return nil // its own process, with --rm
		case !errors.Is(err, state.ErrRunning):
			return err
		case time.Since(began) > killTime:
			return fmt.Errorf("still there after %v: %w", killTime, err)
		}
		// The record has a process only once that is started.
		if c, err := r.Containers().Find(c.ID); err == nil && c.PID != 0 {
			killInit(c.PID)
		}
	}
}

// killInit kills a process if it is the first of a pid namespace below ours: a
// container's, and no stranger that got its number since.
func killInit(pid int) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	text, err := smallfile.Read("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(text)) {
		if ids, ok := strings.CutPrefix(line, "NSpid:"); ok {
			if f := strings.Fields(ids); len(f) > 1 && f[len(f)-1] == "1" {
				unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
			}
		}
	}
}
