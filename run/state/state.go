// Package state keeps what is known of each container in the store: one
// directory with one small JSON file, and no daemon or database.
//
//	containers/<id>/container.json  a Container; replaced by rename
//	containers/<id>/pid             link to the host's number of its init, while it has one
//	containers/<id>/upper, work     the writable layer
//	containers/.names/<name>        link to the id that has the name
//
// The process that runs a container holds flock(2) on its directory for life.
// A container whose lock can be taken runs no more, whatever its file says, so
// that a killed process leaves nothing that must be believed. Who makes a
// container holds a shared lock on containers/ until its record is there: what
// has no record when nobody makes one is garbage.
//
// Limits: it does not know what processes a container has, and removes no
// files that other ids own: Remove hands those to its caller.
package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"skiff/internal/again"

	"golang.org/x/sys/unix"
)

// A Container is one container's record. Times are UTC.
type Container struct {
	ID       string            `json:"id"` // 64 hexadecimal digits
	Name     string            `json:"name"`
	Image    string            `json:"image"`   // the reference as asked for
	ImageID  string            `json:"imageID"` // digest of the image config
	Layers   []string          `json:"layers"`  // DiffIDs in use, base first
	Command  []string          `json:"command"`
	Labels   map[string]string `json:"labels,omitempty"`
	Remove   bool              `json:"remove"` // --rm: gone as soon as it ends
	Created  time.Time         `json:"created"`
	PID      int               `json:"-"` // of init, on the host; 0 if it has none
	Ports    []Port            `json:"ports,omitempty"`
	Exposed  []string          `json:"exposed,omitempty"` // as in the image's config: 80/tcp, 8000-8010/udp
	Cgroup   string            `json:"cgroup,omitempty"`  // its own, from before that is made until it is removed
	Finished time.Time         `json:"finished,omitzero"`
	ExitCode int               `json:"exitCode"`
}

// A Port is a port of the host that leads to one of the container while it runs.
type Port struct {
	HostIP        string `json:"hostIP"`
	HostPort      uint16 `json:"hostPort"`
	ContainerPort uint16 `json:"containerPort"`
	Protocol      string `json:"protocol"` // tcp or udp
}

// Status words are runtime-spec's.
const (
	Running = "running"
	Stopped = "stopped"
)

// A Dir is all containers of one store.
type Dir struct{ path string }

// Open returns the containers below a store's root. Nothing is touched.
func Open(store string) Dir { return Dir{filepath.Join(store, "containers")} }

// ErrAbsent is a container that is not here.
var ErrAbsent = errors.New("no such container")

// ErrNameTaken is a name that another container has.
var ErrNameTaken = errors.New("name is in use")

// ErrRunning is a container that must not run for what was asked.
var ErrRunning = errors.New("container is running")

// A Handle is a container that this process runs or removes: it holds its lock.
type Handle struct {
	Container
	dir  Dir
	lock int
}

// Path is a file or directory of the container.
func (h *Handle) Path(names ...string) string {
	return filepath.Join(append([]string{h.dir.path, h.ID}, names...)...)
}

// Create claims the container's name, makes its directory with upper and work,
// and writes its record.
func (d Dir) Create(c Container, named bool) (*Handle, error) {
	h := &Handle{Container: c, dir: d, lock: -1}
	if named {
		if err := d.claim(c.Name, c.ID); err != nil {
			return nil, err
		}
	}
	if err := h.make(); err != nil {
		h.Discard(os.RemoveAll)
		return nil, err
	}
	return h, nil
}

// Unrecorded is a container of a store that nothing can be written to. Nobody
// else knows of it, and its layers must not be removed by another way into the store.
func (d Dir) Unrecorded(c Container) *Handle { return &Handle{Container: c, dir: d, lock: -1} }

func (h *Handle) make() (err error) {
	making, err := h.dir.open(unix.LOCK_SH)
	if err != nil {
		return err
	}
	defer unix.Close(making)
	if err := again.Mkdirat(making, h.ID, 0o700); err != nil {
		return &fs.PathError{Op: "mkdir", Path: h.Path(), Err: err}
	}
	if h.lock, err = again.Openat(making, h.ID, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return &fs.PathError{Op: "open", Path: h.Path(), Err: err}
	}
	// Somebody who lists containers may just be trying the lock, and leaves it.
	if err := flock(h.lock, unix.LOCK_EX); err != nil {
		return &fs.PathError{Op: "flock", Path: h.Path(), Err: err}
	}
	if err := h.write("container.json"); err != nil {
		return err
	}
	for _, name := range []string{"upper", "work"} {
		// The root directory of the container takes its mode from upper.
		if err := again.Mkdirat(h.lock, name, 0o755); err != nil {
			return &fs.PathError{Op: "mkdir", Path: h.Path(name), Err: err}
		}
	}
	return nil
}

// open opens the directory of all containers, which it makes if there is none,
// and locks it as flock(2) does.
func (d Dir) open(how int) (int, error) {
	fd, err := again.Open(d.path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		if err := os.MkdirAll(d.path, 0o700); err != nil {
			return -1, err
		}
		fd, err = again.Open(d.path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: d.path, Err: err}
	}
	if err := flock(fd, how); err != nil {
		unix.Close(fd)
		return -1, &fs.PathError{Op: "flock", Path: d.path, Err: err}
	}
	return fd, nil
}

// flock is flock(2), and nothing on file systems that have no locks.
func flock(fd, how int) error {
	for {
		switch err := unix.Flock(fd, how); err {
		case unix.EINTR:
		case unix.ENOLCK, unix.EOPNOTSUPP:
			return nil
		default:
			return err
		}
	}
}

func (d Dir) claim(name, id string) error {
	link := filepath.Join(d.path, ".names", name)
	for range 3 {
		err := os.Symlink(id, link)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, fs.ErrNotExist):
			if err := os.MkdirAll(filepath.Dir(link), 0o700); err != nil {
				return err
			}
		case errors.Is(err, fs.ErrExist):
			holder, _ := os.Readlink(link)
			if _, err := os.Lstat(filepath.Join(d.path, holder)); err == nil {
				return fmt.Errorf("%s: %w by container %.12s", name, ErrNameTaken, holder)
			}
			os.Remove(link) // its container is gone
		default:
			return err
		}
	}
	return fmt.Errorf("%s: %w", name, ErrNameTaken)
}

// write writes the record to a file of the container's directory.
func (h *Handle) write(name string) error {
	text := h.appendJSON(nil)
	fd, err := again.Openat(h.lock, name, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return &fs.PathError{Op: "create", Path: h.Path(name), Err: err}
	}
	err = again.Write(fd, text)
	if errClose := unix.Close(fd); err == nil {
		err = errClose
	}
	if err != nil {
		return &fs.PathError{Op: "write", Path: h.Path(name), Err: err}
	}
	return nil
}

// Save replaces the record by what the handle holds now.
func (h *Handle) Save() error {
	if h.lock < 0 {
		return nil
	}
	if err := h.write("container.json.new"); err != nil {
		return err
	}
	if err := again.Renameat(h.lock, "container.json.new", h.lock, "container.json"); err != nil {
		return &fs.PathError{Op: "rename", Path: h.Path("container.json"), Err: err}
	}
	return nil
}

// Started notes the init's process id, by one system call.
func (h *Handle) Started(pid int) error {
	h.PID = pid
	if h.lock < 0 {
		return nil
	}
	if err := again.Symlinkat(strconv.Itoa(pid), h.lock, "pid"); err != nil {
		return &fs.PathError{Op: "symlink", Path: h.Path("pid"), Err: err}
	}
	return nil
}

// Ended forgets the init.
func (h *Handle) Ended() {
	h.PID = 0
	if h.lock < 0 {
		return
	}
	again.Unlinkat(h.lock, "pid", 0)
}

// Discard removes the container: its name, then its directory, by remove if
// there is more in it than skiff made.
func (h *Handle) Discard(remove func(path string) error) error {
	h.unclaim()
	if h.lock < 0 {
		return nil
	}
	defer h.Close()
	if h.removeEmpty() {
		return nil
	}
	return remove(h.Path())
}

// removeEmpty removes the directory by the few calls that suffice when the
// container wrote nothing.
func (h *Handle) removeEmpty() bool {
	if again.Unlinkat(h.lock, "upper", unix.AT_REMOVEDIR) != nil {
		return false
	}
	// What overlay leaves of a volatile mount, in directories of mode 0.
	left := [...]string{"work/work", "work/work/incompat", "work/work/incompat/volatile"}
	if os.Geteuid() != 0 {
		for _, dir := range left {
			again.Fchmodat(h.lock, dir, 0o700, 0)
		}
	}
	again.Unlinkat(h.lock, "work/work/incompat/volatile/dirty", 0)
	for _, dir := range slices.Backward(left[:]) {
		again.Unlinkat(h.lock, dir, unix.AT_REMOVEDIR)
	}
	again.Unlinkat(h.lock, "work", unix.AT_REMOVEDIR)
	again.Unlinkat(h.lock, "pid", 0)
	again.Unlinkat(h.lock, "container.json", 0)
	return unix.Rmdir(h.Path()) == nil
}

func (h *Handle) unclaim() {
	link := filepath.Join(h.dir.path, ".names", h.Name)
	if holder, err := os.Readlink(link); err == nil && holder == h.ID {
		os.Remove(link)
	}
}

// Close gives up the lock and leaves the container as it is.
func (h *Handle) Close() {
	if h.lock >= 0 {
		unix.Close(h.lock)
		h.lock = -1
	}
}

// IDs lists the containers there are, sorted.
func (d Dir) IDs() ([]string, error) {
	entries, err := os.ReadDir(d.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() && len(e.Name()) == 64 {
			ids = append(ids, e.Name())
		}
	}
	return ids, err
}

// List reads every container, newest first, with its status.
func (d Dir) List() ([]Listed, error) {
	ids, err := d.IDs()
	if err != nil {
		return nil, err
	}
	var all []Listed
	for _, id := range ids {
		c, err := d.read(id)
		if err != nil {
			continue // being made or removed just now
		}
		all = append(all, Listed{c, d.status(id)})
	}
	slices.SortFunc(all, func(a, b Listed) int { return b.Created.Compare(a.Created) })
	return all, nil
}

// Listed is a container and its status.
type Listed struct {
	Container
	Status string
}

func (d Dir) read(id string) (Container, error) {
	var c Container
	text, err := os.ReadFile(filepath.Join(d.path, id, "container.json"))
	if err == nil {
		err = json.Unmarshal(text, &c)
	}
	if err == nil && c.ID != id {
		err = fmt.Errorf("record of container %.12s names %.12s", id, c.ID)
	}
	if pid, errLink := os.Readlink(filepath.Join(d.path, id, "pid")); errLink == nil {
		c.PID, _ = strconv.Atoi(pid)
	}
	return c, err
}

// status asks the lock. A store that cannot lock has only running containers.
func (d Dir) status(id string) string {
	fd, err := d.lock(id)
	if err != nil {
		return Running
	}
	unix.Close(fd)
	return Stopped
}

func (d Dir) lock(id string) (int, error) {
	fd, err := again.Open(filepath.Join(d.path, id), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		unix.Close(fd)
		if err == syscall.EWOULDBLOCK {
			err = ErrRunning
		}
		return -1, err
	}
	return fd, nil
}

// Find resolves a name, an id, or the unambiguous start of an id.
func (d Dir) Find(name string) (Listed, error) {
	if id, err := os.Readlink(filepath.Join(d.path, ".names", name)); err == nil && !strings.Contains(name, "/") {
		if c, err := d.read(id); err == nil {
			return Listed{c, d.status(id)}, nil
		}
	}
	ids, err := d.IDs()
	if err != nil {
		return Listed{}, err
	}
	var found []string
	for _, id := range ids {
		if strings.HasPrefix(id, name) && name != "" {
			found = append(found, id)
			continue
		}
		if c, err := d.read(id); err == nil && c.Name == name {
			found = append(found, id)
		}
	}
	switch len(found) {
	case 0:
		return Listed{}, fmt.Errorf("%s: %w", name, ErrAbsent)
	case 1:
		c, err := d.read(found[0])
		return Listed{c, d.status(found[0])}, err
	}
	return Listed{}, fmt.Errorf("%s: %d containers begin with this", name, len(found))
}

// Take takes the lock of a container that does not run, so that it can be
// removed. The error wraps ErrRunning if it does.
func (d Dir) Take(c Container) (*Handle, error) {
	fd, err := d.lock(c.ID)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Name, err)
	}
	return &Handle{Container: c, dir: d, lock: fd}, nil
}

// Dead are the containers that were to be removed at their end, or to leave
// their cgroup, but whose process died before it could, and those that were never finished
// being made. Their caller closes or discards them.
func (d Dir) Dead() ([]*Handle, error) {
	ids, err := d.IDs()
	if err != nil {
		return nil, err
	}
	var dead []*Handle
	for _, id := range ids {
		fd, err := d.lock(id)
		if err != nil {
			continue
		}
		c, err := d.read(id)
		if err == nil && !c.Remove && c.Cgroup == "" || err != nil && d.making() {
			unix.Close(fd)
			continue
		}
		if err != nil {
			c.Remove = true
		}
		c.ID = id
		dead = append(dead, &Handle{Container: c, dir: d, lock: fd})
	}
	return dead, nil
}

// making reports whether somebody is making a container.
func (d Dir) making() bool {
	fd, err := d.open(unix.LOCK_EX | unix.LOCK_NB)
	if err != nil {
		return true
	}
	unix.Close(fd)
	return false
}
