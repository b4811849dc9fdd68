package layers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"skiff/internal/idmap"
	"skiff/internal/plan"

	"golang.org/x/sys/unix"
)

// A Worker is a confined process that unpacks layers below one directory,
// several at a time, and deletes what is there.
//
// It has the directory as its root and sees no other file; no network; the
// capabilities that unpacking takes, in a user namespace; no way to gain more
// (no_new_privs), to write elsewhere (Landlock, where the kernel has it), or to
// make system calls that unpacking does not need (seccomp). A hostile layer
// that took it over could spoil what lies in the directory, and nothing else.
type Worker struct {
	sock int // our end
	life *life

	mu      sync.Mutex
	next    uint64
	waiting map[uint64]chan answer
	dead    error // set once no answer will come any more
	closed  bool
}

// A Job is one layer to unpack.
type Job struct {
	Dir         string      // below the staging directory; exists and is empty
	Owners      string      // likewise; made for true owners if there are any, "" for none
	Split       string      // likewise; made for Options.Split if the archive can be made again, "" for none
	Compression Compression // Detect suits all
	MaxBytes    int64       // uncompressed; 0: no limit
	MaxEntries  int64       // 0: no limit
}

// StartWorker starts a worker for the directory staging, which is the caller's
// own. It takes a few milliseconds, about ten with newuidmap.
//
// With ids.Kind Root the worker is nobody on the host: its user namespace has
// those ids, and an id-mapped mount makes files on disk owned by the ids that
// the layer names. Where the file system can't do that, and with Host, its ids
// are the host's without the host's capabilities. Subordinate ids land shifted
// on disk; with Single all files are the caller's and Job.Owners gets the rest.
//
// exe is skiff's own executable, or nil: the one that is running. Its main
// must call WorkerMain, and it must be static: the worker sees no libraries. The
// caller keeps it.
//
// The error is a *plan.Error or an *idmap.Error where confinement failed.
func StartWorker(staging string, ids idmap.Map, exe *os.File) (*Worker, error) {
	return startWorker(staging, ids, exe, false)
}

// StartReader is StartWorker for a directory of layers that are only to be read:
// the worker can change nothing in it.
func StartReader(dir string, ids idmap.Map, exe *os.File) (*Worker, error) {
	return startWorker(dir, ids, exe, true)
}

func startWorker(staging string, ids idmap.Map, exe *os.File, readOnly bool) (*Worker, error) {
	if exe == nil {
		f, err := os.Open("/proc/self/exe")
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrWorker, err)
		}
		defer f.Close()
		exe = f
	}
	l, sock, err := startConfined(staging, ids, exe, ids.Kind == idmap.Root, readOnly)
	if errors.Is(err, errNoIDMappedMount) {
		// Files would be owned by the container's host ids: keep the layer's.
		same := ids
		same.UIDs, same.GIDs = onto(ids.UIDs), onto(ids.GIDs)
		l, sock, err = startConfined(staging, same, exe, false, readOnly)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrWorker, err)
	}
	w := &Worker{sock: sock, life: l, waiting: map[uint64]chan answer{}}
	if err := w.greet(ids.Kind == idmap.Single); err != nil {
		w.Close()
		return nil, err
	}
	go w.listen()
	return w, nil
}

// onto maps the container's ids onto themselves.
func onto(ranges []idmap.Range) []idmap.Range {
	var same []idmap.Range
	for _, r := range ranges {
		same = append(same, idmap.Range{Container: r.Container, Host: r.Container, Size: r.Size})
	}
	return same
}

// greet sends the setup and waits until the worker has closed its door.
func (w *Worker) greet(squash bool) error {
	if err := send(w.sock, setup{IDs: w.life.ids, Squash: squash}, -1); err != nil && err != unix.EPIPE {
		return fmt.Errorf("%w: setup: %w", ErrWorker, err)
	}
	var a answer
	if _, err := receive(w.sock, &a, make([]byte, maxMessage)); err != nil {
		return w.life.death(err)
	}
	return nil
}

// listen hands answers out until the worker is gone.
func (w *Worker) listen() {
	buf := make([]byte, maxMessage)
	var err error
	for err == nil {
		var a answer
		if _, err = receive(w.sock, &a, buf); err == nil {
			w.mu.Lock()
			c := w.waiting[a.ID]
			delete(w.waiting, a.ID)
			w.mu.Unlock()
			if c != nil {
				c <- a
			}
		}
	}
	err = w.life.death(err)
	w.mu.Lock()
	w.dead = err
	for _, c := range w.waiting {
		close(c)
	}
	clear(w.waiting)
	w.mu.Unlock()
}

// ask sends a request. The answer comes through the channel, which is closed
// without one if the worker dies.
func (w *Worker) ask(q request, fd int) (<-chan answer, error) {
	c := make(chan answer, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil, fmt.Errorf("%w: %w", ErrWorker, os.ErrClosed)
	}
	if w.dead != nil {
		return nil, w.dead
	}
	w.next++
	q.ID = w.next
	w.waiting[q.ID] = c
	// Under the lock, so that Close can't close the socket meanwhile.
	if err := send(w.sock, q, fd); err != nil && err != unix.EPIPE && err != unix.ECONNRESET {
		delete(w.waiting, q.ID)
		return nil, fmt.Errorf("%w: %w", ErrWorker, err)
	}
	return c, nil
}

func (w *Worker) result(c <-chan answer) (Result, error) {
	a, ok := <-c
	if !ok {
		w.mu.Lock()
		defer w.mu.Unlock()
		return Result{}, w.dead
	}
	if a.Err != nil {
		return Result{}, a.Err
	}
	if a.Result == nil {
		return Result{}, nil // of a removal
	}
	return *a.Result, nil
}

// Unpack unpacks a layer whose blob is in r, to the end of r. It may be called
// by several goroutines at once.
//
// The error is that of r, ctx's if ctx ends first, Apply's, or wraps ErrWorker.
// r must end when ctx does: a Read in progress is waited for. When Unpack has
// returned, nothing is written to job.Dir any more; after an error the caller
// removes it.
func (w *Worker) Unpack(ctx context.Context, job Job, r io.Reader) (Result, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return Result{}, fmt.Errorf("%w: pipe: %w", ErrWorker, err)
	}
	// Less switching to and fro; a user may have used up the allowance of big pipes.
	unix.FcntlInt(uintptr(p[1]), unix.F_SETPIPE_SZ, 1<<20)
	unix.SetNonblock(p[1], true) // for the deadline below
	out := os.NewFile(uintptr(p[1]), "blob")
	reply, err := w.ask(request{Job: &job}, p[0])
	unix.Close(p[0])
	if err != nil {
		out.Close()
		return Result{}, err
	}
	stop := context.AfterFunc(ctx, func() { out.SetWriteDeadline(time.Unix(1, 0)) })
	_, readErr := copyBlob(out, r)
	stop()
	out.Close()
	result, err := w.result(reply)
	switch {
	case ctx.Err() != nil && (err != nil || readErr != nil):
		return Result{}, ctx.Err()
	case readErr != nil:
		return Result{}, readErr
	}
	return result, err
}

// copyBlob returns errors of r only: those of the pipe mean that the worker has
// more to say about them, or that ctx has ended.
func copyBlob(pipe *os.File, r io.Reader) (written int64, err error) {
	buf := make([]byte, 128<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if _, werr := pipe.Write(buf[:n]); werr != nil {
				return written, nil
			}
			written += int64(n)
		}
		if err == io.EOF {
			return written, nil
		}
		if err != nil {
			return written, err
		}
	}
}

// Remove deletes a name below the staging directory, as the function Remove
// does, with the worker's rights.
func (w *Worker) Remove(ctx context.Context, name string) error {
	reply, err := w.ask(request{Remove: name}, -1)
	if err != nil {
		return err
	}
	_, err = w.result(reply)
	return errors.Join(err, ctx.Err())
}

// Close ends the worker, and with it what it was about to do; jobs in progress
// get an error. It returns when the process is gone.
func (w *Worker) Close() error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return nil
	}
	w.closed = true
	w.mu.Unlock()
	w.life.kill()
	unix.Shutdown(w.sock, unix.SHUT_RDWR)
	<-w.life.ended
	w.life.stderr.Close()
	unix.Close(w.sock)
	return nil
}

// A life is the process of a worker.
type life struct {
	ids    idmap.Map // the ids inside
	task   *plan.Task
	stderr *os.File // read end
	said   chan string
	ended  chan struct{} // closed after the process is reaped
	status syscall.WaitStatus
	failed error // of the plan

	mu     sync.Mutex
	reaped bool // and the pidfd closed
}

// kill ends the process, if it has not ended.
func (l *life) kill() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.reaped {
		unix.PidfdSendSignal(l.task.Pidfd, unix.SIGKILL, nil, 0)
	}
}

// wait reaps the process.
func (l *life) wait() {
	l.status, l.failed = l.task.Wait()
	l.mu.Lock()
	l.reaped = true
	unix.Close(l.task.Pidfd)
	l.mu.Unlock()
	close(l.ended)
}

// death ends a worker that has closed its socket or talks nonsense, and says
// why it went.
func (l *life) death(cause error) error {
	select {
	case <-l.ended:
	case <-time.After(time.Second): // let it say its last word
		l.kill()
		<-l.ended
	}
	said := <-l.said
	l.said <- said
	switch {
	case l.failed != nil:
		return fmt.Errorf("%w: %w", ErrWorker, l.failed)
	case l.status.Signaled():
		return fmt.Errorf("%w: killed by %v%s", ErrWorker, l.status.Signal(), said)
	case said != "":
		return fmt.Errorf("%w: status %d%s", ErrWorker, l.status.ExitStatus(), said)
	case cause != io.EOF:
		return fmt.Errorf("%w: %w", ErrWorker, cause)
	}
	return fmt.Errorf("%w: ended with status %d", ErrWorker, l.status.ExitStatus())
}

// listenStderr keeps the first line, which says what a panic is about.
func (l *life) listenStderr() {
	var text []byte
	buf := make([]byte, 4096)
	for {
		n, err := l.stderr.Read(buf)
		if len(text) < 4096 {
			text = append(text, buf[:n]...)
		}
		if err != nil {
			break
		}
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
	if line != "" {
		line = ": " + strings.Trim(quote(line), `"`)
	}
	l.said <- line
}
