package layers

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// A Read names a layer below a worker's directory: where its files are, and
// what Job.Split made. Size is Result.Size, which its archive has and no more: a damaged record could
// ask for zeros without end. 0: it is not known.
type Read struct {
	Dir, Split string
	Size       int64
}

// A State is how Worker.Check found a layer.
type State struct {
	DiffID  v1.Hash  // of the archive that the layer on disk makes
	Damages []Damage // the first maxDamages
	More    int      // beyond these
}

// maxDamages keeps an answer below maxMessage.
const maxDamages = 40

func (s *State) add(d Damage) {
	if len(s.Damages) == maxDamages {
		s.More++
		return
	}
	if len(d.Path) > 1000 {
		d.Path = d.Path[:1000] + "…"
	}
	s.Damages = append(s.Damages, d)
}

// Archive writes a layer's archive to w, as Assemble does with no damage
// allowed. When ctx ends it returns soon. The error is w's, ctx's, Assemble's, or wraps ErrWorker.
func (w *Worker) Archive(ctx context.Context, layer Read, to io.Writer) error {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("%w: pipe: %w", ErrWorker, err)
	}
	unix.FcntlInt(uintptr(p[1]), unix.F_SETPIPE_SZ, 1<<20)
	unix.SetNonblock(p[0], true) // for the deadline below
	in := os.NewFile(uintptr(p[0]), "archive")
	reply, err := w.ask(request{Read: &layer}, p[1])
	unix.Close(p[1])
	if err != nil {
		in.Close()
		return err
	}
	stop := context.AfterFunc(ctx, func() { in.SetReadDeadline(time.Unix(1, 0)) })
	_, err = io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{in}, make([]byte, 128<<10))
	stop()
	in.Close() // the worker's next write fails
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if _, werr := w.result(reply); err == nil {
		err = werr
	}
	return err
}

// Check holds a layer against its archive; see the function Check.
func (w *Worker) Check(ctx context.Context, layer Read) (State, error) {
	reply, err := w.ask(request{Read: &layer}, -1)
	if err != nil {
		return State{}, err
	}
	select {
	case a, ok := <-reply:
		if !ok {
			_, err := w.result(reply)
			return State{}, err
		}
		if a.Err != nil {
			return State{}, a.Err
		}
		return *a.State, nil
	case <-ctx.Done():
		return State{}, context.Cause(ctx)
	}
}
