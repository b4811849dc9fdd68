package relay

import (
	"syscall"

	"skiff/internal/plan"

	"golang.org/x/sys/unix"
)

const (
	// stockMost is how many sockets of each kind one task makes.
	stockMost = 64
	// stockLow is how few there are when the next task is sent for more.
	stockLow = 32
)

// A stock is sockets of R that nobody uses yet.
//
// Skiff cannot make sockets in R: to enter it one has to be privileged in one's
// own user namespace (setns(2)). A task can, which enters R's first. It makes many
// at once, beside the loop. It cannot be traced by the container, which has no number for it.
type stock struct {
	userns, netns int // R's; userns may be -1, the caller's own
	shelves       [2]shelf
}

// A shelf is those of one kind.
type shelf struct {
	kind  int // SOCK_STREAM or SOCK_DGRAM
	stock *stock
	idle  []int
	plan  *plan.Plan
	fds   [stockMost]plan.Reg
	task  *plan.Task // that is making more, or nil
}

// newStock is for the namespace of a socket, which SIOCGSKNS opens for who is its
// administrator (sock_ioctl of the kernel, 4.10).
func newStock(userns, socket int) (*stock, error) {
	netns, err := unix.IoctlRetInt(socket, unix.SIOCGSKNS)
	if err != nil {
		return nil, &Error{Step: "get router namespace", Err: err}
	}
	s := &stock{userns: userns, netns: netns}
	s.shelves[0] = shelf{kind: unix.SOCK_STREAM, stock: s}
	s.shelves[1] = shelf{kind: unix.SOCK_DGRAM, stock: s}
	return s, nil
}

func (s *stock) shelf(kind int) *shelf {
	if kind == unix.SOCK_STREAM {
		return &s.shelves[0]
	}
	return &s.shelves[1]
}

// end closes what the loop does not watch.
func (s *stock) end() {
	for i := range s.shelves {
		sh := &s.shelves[i]
		if sh.task != nil {
			sh.collect()
		}
		for _, fd := range sh.idle {
			closeFD(fd)
		}
	}
	closeFD(s.netns)
	if s.userns >= 0 {
		closeFD(s.userns)
	}
}

// stocked says whether there are n sockets to take. If few are left, it sends for more.
func (l *loop) stocked(kind, n int) bool {
	s := l.entrance.stock
	if s == nil {
		return true
	}
	sh := s.shelf(kind)
	if len(sh.idle) < stockLow && sh.task == nil {
		sh.send(l)
	}
	return len(sh.idle) >= n
}

// take returns a socket that can reach the container.
func (l *loop) take(kind int) (int, syscall.Errno) {
	s := l.entrance.stock
	if s == nil {
		fd, errno := socket(unix.AF_INET, kind)
		if errno == 0 && kind == unix.SOCK_STREAM {
			setInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
			setInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		}
		return fd, errno
	}
	sh := s.shelf(kind)
	n := len(sh.idle)
	if n == 0 {
		return -1, unix.EMFILE
	}
	fd := sh.idle[n-1]
	sh.idle = sh.idle[:n-1]
	return fd, 0
}

// send has a task make sockets. The loop is told of its end by its pidfd.
func (sh *shelf) send(l *loop) {
	if sh.plan == nil {
		sh.prepare()
	}
	task, err := sh.plan.Start(plan.Clone{})
	if err != nil {
		l.relay.say("make sockets: " + err.Error())
		return
	}
	sh.task = task
	if l.watch(task.Pidfd, sh, unix.EPOLLIN) != 0 {
		sh.collect()
	}
}

func (sh *shelf) prepare() {
	p := plan.New()
	for i := range sh.fds {
		sh.fds[i] = p.Preset(-1)
	}
	if sh.stock.userns >= 0 {
		p.Call("enter user namespace", unix.SYS_SETNS, plan.Int(sh.stock.userns), plan.Int(unix.CLONE_NEWUSER))
	}
	p.Call("enter router namespace", unix.SYS_SETNS, plan.Int(sh.stock.netns), plan.Int(unix.CLONE_NEWNET))
	if sh.kind == unix.SOCK_STREAM {
		// TIME_WAIT guards against what a network has delayed, and here is none. A client that
		// comes again from the same port shall find it free.
		fd, zero := p.Preset(-1), "0"
		p.Call("open setting", unix.SYS_OPENAT, plan.Int(unix.AT_FDCWD), p.Str("/proc/sys/net/ipv4/tcp_max_tw_buckets"), plan.Int(unix.O_WRONLY|unix.O_CLOEXEC), plan.Int(0)).Into(fd).IgnoreAll()
		p.Call("write setting", unix.SYS_WRITE, fd.Arg(), p.Static(zero), plan.Int(len(zero))).When(fd).IgnoreAll()
		p.Call("close setting", unix.SYS_CLOSE, fd.Arg()).When(fd).IgnoreAll()
	}
	for i := range sh.fds {
		p.Call("open socket", unix.SYS_SOCKET, plan.Int(unix.AF_INET), plan.Int(sh.kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC), plan.Int(0)).Into(sh.fds[i])
	}
	sh.plan = p
}

// event is the end of the task.
func (sh *shelf) event(l *loop, _ uint32) {
	l.table[sh.task.Pidfd].handler = nil // the descriptor goes with it
	if err := sh.collect(); err != nil && len(sh.idle) == 0 {
		// Until the next second's sweep there is nothing to be had.
		l.relay.say("make sockets: " + err.Error())
		return
	}
	l.entrance.open(l)
}

// collect takes over what the task has made.
func (sh *shelf) collect() error {
	task := sh.task
	sh.task = nil
	_, err := task.Wait()
	unix.Close(task.Pidfd)
	for _, reg := range sh.fds {
		if fd := task.Reg(reg); fd >= 0 {
			sh.ready(fd)
			sh.idle = append(sh.idle, fd)
		}
	}
	task.Free()
	return err
}

// ready gives a socket what all of R's have: see listen and rules.
func (sh *shelf) ready(fd int) {
	setInt(fd, unix.SOL_IP, unix.IP_TRANSPARENT, 1)
	setInt(fd, unix.SOL_SOCKET, unix.SO_MARK, mark)
	if sh.kind == unix.SOCK_STREAM {
		setInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		setInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, "reno")
	}
}

// descriptors is how many published ports take, with both shelves full.
func (o *Options) descriptors() int {
	if len(o.Ports) == 0 {
		return 0
	}
	return len(o.Ports) + 2*stockMost
}
