package run

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"
	"unsafe"

	"skiff/internal/idmap"
	"skiff/internal/plan"
	"skiff/internal/signals"
	"skiff/layers"
	"skiff/netns/ports"
	"skiff/pull/store"
	"skiff/run/cgroup"
	"skiff/run/state"

	"golang.org/x/sys/unix"
)

// A Runner runs containers out of one store.
type Runner struct {
	Store  *store.Store
	IDs    idmap.Map
	Say    func(format string, args ...any) // a line for the user; never needed by a program
	Stderr io.Writer                        // where traces go
	Early  *Early                           // an init that is on its way, or nil
}

// Run runs one container in the foreground and returns its status.
//
// The error, if not nil, says why there was no program to have one. It may be
// called again only after an error, and catches the process's signals for good.
//
// beside, if not nil, is done while the container runs, and waited for.
func (r *Runner) Run(ctx context.Context, o *Options, img *store.Image, beside func(context.Context) error) (status int, err error) {
	// Before the start, so that none is lost or ends skiff in between.
	caught, err := signals.Catch(forwarded[:]...)
	if err != nil {
		return 0, fmt.Errorf("catch signals: %w", err)
	}
	ns, err := r.namespaces(o)
	if err != nil {
		return 0, err
	}
	members, err := r.memberships(o)
	if err != nil {
		return 0, err
	}
	defer members.close()
	if members != nil {
		ns.Join = members.join()
	}
	process := r.Early.take(ns)
	if process == nil {
		if process, err = bearIdentified(newID(), ns, o.Trace); err != nil {
			return 0, err
		}
	}
	published, err := r.publish(o, img)
	if err != nil {
		return 0, process.abandon(err)
	}
	var net *network
	defer func() {
		if err != nil {
			// It may be tried again.
			net.unpublish()
			ports.Close(published)
		}
	}()
	c, err := r.create(o, img, process, published)
	if err != nil {
		return 0, process.abandon(err)
	}
	defer func() {
		if o.CIDFile != "" && StatusOf(err) == StatusSkiff {
			os.Remove(o.CIDFile) // of a container that never was
		}
		if errEnd := r.end(c, status, err); errEnd != nil {
			r.Say("container %.12s: %v", c.ID, errEnd)
		}
	}()
	if net, err = r.network(o, c.ID, c.Name, members, published); err != nil {
		return 0, process.abandon(err)
	}
	defer net.close()
	if process, err = r.begin(process, o, img, c.ID, net); err != nil {
		return 0, blame(err)
	}
	var resume func()
	if o.Terminal {
		finish, again, err := attach(process, o.Interactive)
		if err != nil {
			process.kill()
			_, failure := process.Wait()
			return 0, errors.Join(failure, err)
		}
		defer finish()
		resume = again
	}
	r.announce(published)
	if err := c.Started(process.PID); err != nil {
		r.Say("container %.12s: %v", c.ID, err)
	}
	if beside != nil {
		done := make(chan struct{})
		go func() {
			defer close(done)
			if err := beside(ctx); err != nil {
				r.Say("%v", err)
			}
		}()
		defer func() { <-done }()
	}
	r.Store.Used(img)
	swept := r.SweepBeside()
	attendant := attendant{Process: process, signals: caught, resume: resume, ignored: func() {
		r.Say("hint: the program ignores interrupts; press ^C again to kill it, or use --init")
	}}
	attendant.wait()
	status, err = process.Wait()
	swept()
	tell := func(line string, took time.Duration) {
		fmt.Fprintf(r.Stderr, "%8.3f ms  %s\n", float64(took)/1e6, line)
	}
	for _, t := range process.traces {
		t.Each(t.task, tell)
	}
	net.laps.Each(tell)
	return status, blame(err)
}

// begin starts the init, and another one in the host's user namespace where
// root's store or a bind cannot be id-mapped.
func (r *Runner) begin(pr *Process, o *Options, img *store.Image, id string, net *network) (*Process, error) {
	for {
		if net.to != nil {
			net.to.begin(pr, pr.ns.IDs, pr.ready)
		}
		s, err := makeSpec(o, id, img, r.Store, *pr.ns, net.link, stackOf(r.Store, img).ReadFile)
		if err == nil {
			err = pr.start(s, net, o.Trace)
		}
		if err == nil {
			return pr, nil
		}
		err = pr.abandon(err)
		if !errors.Is(err, errNoIDMap) {
			return nil, err
		}
		ns := *pr.ns
		ns.IDs, ns.Kernel.UserNS = idmap.Map{}, false
		if pr, err = bearIdentified(id, ns, o.Trace); err != nil {
			return nil, err
		}
	}
}

// Explain returns the specification that Run would follow, and the plan, one
// operation a line.
func (r *Runner) Explain(o *Options, img *store.Image) (*Spec, []string, error) {
	id := newID()
	ns, err := r.namespaces(o)
	if err != nil {
		return nil, nil, err
	}
	ns.CgroupPath = cgroup.Path(id)
	s, err := makeSpec(o, id, img, r.Store, ns, Link{}, stackOf(r.Store, img).ReadFile)
	if err != nil {
		return nil, nil, err
	}
	birth := newBirthPlan(&ns, 3)
	rest := newInitPlan(birth.Then(), s, 3)
	return s, append(birth.Lines(), rest.Lines()...), nil
}

// stackOf is an image's layers in the store.
func stackOf(st *store.Store, img *store.Image) (stack layers.Stack) {
	for _, d := range img.DiffIDs[img.First:] {
		stack.Dirs = append(stack.Dirs, st.LayerDir(d))
	}
	return stack
}

// newID asks the kernel itself: the first use of crypto/rand sets a timer, for
// which the runtime starts its poller, and that of the vDSO maps memory.
func newID() string {
	var b [32]byte
	unix.RawSyscall(unix.SYS_GETRANDOM, uintptr(unsafe.Pointer(&b)), uintptr(len(b)), 0) // up to 256 bytes come whole, random(4)
	return hex.EncodeToString(b[:])
}

// create makes the container's directory and record, and only then looks
// whether its layers are there: see package store on why in this order.
func (r *Runner) create(o *Options, img *store.Image, pr *Process, published []ports.Socket) (*state.Handle, error) {
	readOnly := r.Store.ReadOnly()
	if readOnly && !o.Remove {
		r.Say("the store is read-only: what the container writes is kept in memory, and gone with it")
	} else if readOnly {
		// The user wanted nothing kept.
	} else if err := r.Store.Writable(); err != nil {
		return nil, err // of a layout that is not known
	} else if err := makeSkeleton(r.Store); err != nil {
		return nil, r.Store.Explain("make skeleton", r.Store.Path("skeleton"), err)
	}
	c := state.Container{
		ID: pr.ID, Name: o.Name, Image: o.Image, ImageID: img.ID.String(), Command: o.Command,
		Labels: o.Labels, Remove: o.Remove, Created: time.Now().UTC(),
		Ports: recorded(published), Exposed: slices.Concat(img.Config.ExposedPorts, o.Expose), Cgroup: pr.ns.CgroupPath,
	}
	for _, d := range img.DiffIDs {
		c.Layers = append(c.Layers, d.String())
	}
	if c.Name == "" {
		c.Name = state.NameFor(c.ID)
	}
	if len(c.Command) == 0 {
		c.Command = img.Config.Cmd
	}
	containers := state.Open(r.Store.Root())
	var h *state.Handle
	if readOnly {
		h = containers.Unrecorded(c)
	} else {
		var err error
		if h, err = containers.Create(c, o.Name != ""); errors.Is(err, state.ErrNameTaken) {
			r.Sweep() // of who was killed, perhaps
			h, err = containers.Create(c, o.Name != "")
		}
		if err != nil {
			return nil, r.Store.Explain("create container", r.Store.Path("containers"), err)
		}
	}
	for _, d := range img.DiffIDs {
		if _, ok := r.Store.HasLayer(d); !ok {
			r.discard(h)
			return nil, fmt.Errorf("layer %.19s: %w", d.String(), ErrLayerGone)
		}
	}
	if o.CIDFile != "" {
		if err := writeCIDFile(o.CIDFile, c.ID); err != nil {
			r.discard(h)
			return nil, err
		}
	}
	return h, nil
}

// blame finds out whether a start failed for want of a layer: a collector that began
// before the container was recorded has one in its hand. It gives it back, but a
// mount does not wait.
func blame(err error) error {
	var step *plan.Error
	if errors.As(err, &step) && errors.Is(step.Err, unix.ENOENT) && (step.Step == "mount overlay" || step.Step == "set lowerdir+") {
		return fmt.Errorf("layer %w: %w", ErrLayerGone, err)
	}
	return err
}

// ErrLayerGone is a layer that was removed between the look-up of its image
// and the start: the caller looks again, and pulls again.
var ErrLayerGone = errors.New("not in the store")

// end removes the container, or writes down how it ended.
func (r *Runner) end(c *state.Handle, status int, err error) error {
	if err != nil && StatusOf(err) == StatusSkiff || c.Remove {
		return r.discard(c)
	}
	if err != nil {
		status = StatusOf(err)
	}
	c.Ended()
	c.ExitCode, c.Finished = status, time.Now().UTC()
	defer c.Close()
	return errors.Join(r.leave(c), c.Save())
}

// discard removes a container, with what other ids own in it.
func (r *Runner) discard(c *state.Handle) error {
	return errors.Join(r.leave(c), c.Discard(func(path string) error { return layers.Remove(path, r.IDs) }))
}

// leave removes the container's cgroup, if it has one.
func (r *Runner) leave(c *state.Handle) error {
	if c.Cgroup == "" {
		return nil
	}
	err := cgroup.Remove(c.Cgroup)
	if err == nil {
		c.Cgroup = ""
	}
	return err
}

// Sweep removes what killed processes left.
func (r *Runner) Sweep() {
	cgroup.Sweep()
	dead, _ := state.Open(r.Store.Root()).Dead()
	r.sweep(dead)
}

// SweepBeside sweeps beside the caller if there is anything to be swept, and
// returns what waits for the end of it. It may be the room that a pull needs.
func (r *Runner) SweepBeside() (wait func()) {
	dead, _ := state.Open(r.Store.Root()).Dead()
	cgroup.Sweep()
	if len(dead) == 0 && r.Store.Swept() {
		return func() {}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.sweep(dead)
	}()
	return func() { <-done }
}

func (r *Runner) sweep(dead []*state.Handle) {
	for _, c := range dead {
		if c.Remove {
			r.discard(c)
			continue
		}
		if err := r.leave(c); err != nil {
			r.Say("sweep: %v", err)
		} else {
			c.Save()
		}
		c.Close()
	}
	if err := r.Store.Sweep(context.Background()); err != nil {
		r.Say("sweep: %v", err)
	}
}
