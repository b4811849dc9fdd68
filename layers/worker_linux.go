package layers

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"

	"skiff/internal/again"
	"skiff/internal/idmap"
	"skiff/internal/rmtree"

	"golang.org/x/sys/unix"
)

// workerName is argv[0] of a worker. No verb of skiff's begins like it.
const workerName = "skiff-layers-worker"

// workerSocket is the descriptor that a worker is born with beside the
// standard three.
const workerSocket = 3

// A Decompressor returns the uncompressed layer in r, of which c says how it is
// packed. Errors about the data wrap ErrFormat, those of r itself come as they are.
// Close gives up what the decoder holds; it does not close r.
//
// It runs behind the worker's seccomp filter. codec.Decompress is one.
type Decompressor func(r io.Reader, c Compression) (io.ReadCloser, error)

// WorkerMain is a worker's life, in the process that StartWorker made. In any
// other process it returns at once. main calls it before anything else.
//
// load is called once, while the process is still free to do what it likes.
func WorkerMain(load func() Decompressor) {
	if len(os.Args) == 0 || os.Args[0] != workerName {
		return
	}
	if err := work(workerSocket, load()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// work locks the door and serves requests until the parent closes its end.
func work(sock int, decompress Decompressor) error {
	// A file over RLIMIT_FSIZE shall be EFBIG, not the end of the worker.
	signal.Ignore(unix.SIGXFSZ)
	debug.SetMemoryLimit(workerHeap)
	dirs := share()
	// The last thing that could fail to be loaded is loaded; from here on the
	// process can do nothing but unpack.
	if err := denyAllElse(); err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	buf := make([]byte, maxMessage)
	var s setup
	if _, err := receive(sock, &s, buf); err != nil {
		return fmt.Errorf("setup: %w", err)
	}
	root, err := again.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open root: %w", err)
	}
	w := &confined{sock: sock, root: root, ids: s.IDs, squash: s.Squash, dirs: dirs, decompress: decompress}
	w.answer(answer{})
	for {
		var q request
		fd, err := receive(sock, &q, buf)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		go w.serve(q, fd)
	}
}

// share is how many directories each layer may hold open: as many as are good for it,
// or its part of a low limit of descriptors, which a user's worker cannot raise. Six layers may
// come at once, and each has a few other files open.
func share() int {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil || limit.Cur > workerFiles {
		return maxDirs
	}
	return max(8, min(maxDirs, (int(limit.Cur)-16)/6-6))
}

// confined is a worker seen from inside.
type confined struct {
	sock   int
	root   int
	ids    idmap.Map
	squash bool
	dirs   int // Options.MaxDirs

	decompress Decompressor

	sendMu sync.Mutex
}

func (w *confined) answer(a answer) {
	w.sendMu.Lock()
	defer w.sendMu.Unlock()
	if err := send(w.sock, a, -1); err != nil {
		fmt.Fprintln(os.Stderr, "answer:", err)
		os.Exit(1) // the parent would wait for ever
	}
}

func (w *confined) serve(q request, fd int) {
	a := answer{ID: q.ID}
	var err error
	switch {
	case q.Remove != "":
		err = w.remove(q.Remove)
	case q.Job != nil && fd >= 0:
		blob := os.NewFile(uintptr(fd), "blob")
		var result Result
		if result, err = w.unpack(*q.Job, blob); err == nil {
			a.Result = &result
		}
		// The parent's next write fails, and it stops.
		blob.Close()
	case q.Read != nil && fd >= 0:
		out := os.NewFile(uintptr(fd), "archive")
		err = w.read(*q.Read, func(dir *os.File, split io.Reader) error {
			return Assemble(dir, split, atMost(out, q.Read.Size), nil)
		})
		out.Close()
	case q.Read != nil:
		a.State, err = w.check(*q.Read)
	default:
		err = fmt.Errorf("request %d: %w", q.ID, unix.EINVAL)
	}
	a.Err = export(err)
	w.answer(a)
}

func (w *confined) remove(name string) error {
	parent, base := split(name)
	fd, err := openBeneath(w.root, parent, unix.O_PATH|unix.O_DIRECTORY)
	if err == nil {
		err = rmtree.At(fd, base)
		unix.Close(fd)
	}
	if err != nil {
		return &os.PathError{Op: "remove", Path: name, Err: err}
	}
	return nil
}

func (w *confined) unpack(job Job, blob io.Reader) (Result, error) {
	opt := Options{IDs: w.ids, Squash: w.squash, MaxDirs: w.dirs, MaxBytes: job.MaxBytes, MaxEntries: job.MaxEntries}
	dir, err := w.open(job.Dir, unix.O_DIRECTORY)
	if err != nil {
		return Result{}, err
	}
	defer dir.Close()
	if job.Owners != "" {
		f, err := w.create(job.Owners, unix.O_WRONLY)
		if err != nil {
			return Result{}, err
		}
		defer f.Close()
		opt.Owners = f
	}
	if job.Split != "" {
		f, err := w.create(job.Split, unix.O_RDWR)
		if err != nil {
			return Result{}, err
		}
		defer f.Close()
		opt.Split = f
	}
	tar, err := w.decompress(blob, job.Compression)
	if err != nil {
		return Result{}, err
	}
	defer tar.Close()
	result, err := Apply(dir, tar, opt)
	if err == nil && job.Owners != "" && result.Owners == 0 {
		err = w.remove(job.Owners)
	}
	if err == nil && job.Split != "" && !result.Split {
		err = w.remove(job.Split)
	}
	return result, err
}

// read opens a layer and what it was split into.
func (w *confined) read(r Read, do func(dir *os.File, split io.Reader) error) error {
	dir, err := w.open(r.Dir, unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer dir.Close()
	split, err := w.open(r.Split, 0)
	if err != nil {
		return err
	}
	defer split.Close()
	return do(dir, split)
}

func (w *confined) check(r Read) (*State, error) {
	s := new(State)
	opt := Options{IDs: w.ids, Squash: w.squash, MaxBytes: r.Size}
	err := w.read(r, func(dir *os.File, split io.Reader) (err error) {
		s.DiffID, err = Check(dir, split, opt, s.add)
		return err
	})
	if err != nil {
		return nil, err // a State without its DiffID cannot be sent
	}
	return s, nil
}

func (w *confined) open(name string, flags int) (*os.File, error) {
	fd, err := openBeneath(w.root, name, unix.O_RDONLY|flags)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// create makes a new file below the root.
func (w *confined) create(name string, access int) (*os.File, error) {
	parent, base := split(name)
	dir, err := openBeneath(w.root, parent, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: parent, Err: err}
	}
	defer unix.Close(dir)
	fd, err := again.Openat(dir, base, access|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, &os.PathError{Op: "create", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}
