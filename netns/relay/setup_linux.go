package relay

import (
	"errors"
	"net/netip"
	"os"
	"strconv"

	"skiff/internal/plan"
	"skiff/netns/netlink"

	"golang.org/x/sys/unix"
)

// Names and ports inside R, where nothing else lives.
const (
	routerLink    = "np0"
	containerLink = "eth0"
	tcpPort       = 40001
	udpPort       = 40002
	queueNumber   = 0

	// linkMTU is the most that Ethernet links of the kernel take. Datagrams of
	// any size pass whole, and TCP has fewer segments to account for.
	linkMTU = 65535

	// queueLength bounds the SYNs that wait in the kernel.
	queueLength = 4096
)

// inside is what the task opens in the namespaces that skiff is not in.
type inside struct {
	router    int // rtnetlink of R
	container int // rtnetlink of C
	netfilter int // nfnetlink of R, for the rules and the queue
	four, six sockets
}

// sockets are those of R of one family.
type sockets struct {
	tcp, udp int // transparent
	raw      int // writes whole packets
	echo     int // raw ICMP, for echo requests and errors
}

// routerPlan makes R and opens everything inside. The task waits at ready
// before it enters C and has signalled made before that, so that R can be set
// up while C is still coming into being.
type routerPlan struct {
	*plan.Plan
	made, ready plan.Gate
	inside      plan.Reg // C's namespace, to be set before ready is opened

	router, netfilter, container plan.Reg
	families                     []familyRegs // IPv4's, and IPv6's if it is wanted
}

// familyRegs are the sockets of R of one family.
type familyRegs struct{ tcp, udp, raw, echo plan.Reg }

// userns is the container's user namespace, or -1; self a pidfd of the caller. Namespaces are entered by
// descriptors of their own: entering them by a pidfd asks for ptrace access to a
// task that shares our memory, which the kernel denies once the task has changed
// its user.
func newRouterPlan(userns, self int, six bool) *routerPlan {
	p := &routerPlan{Plan: plan.New()}
	p.made, p.ready, p.inside = p.Gate(), p.Gate(), p.Reg()
	open := func(step string, family, kind, proto int) plan.Reg {
		into := p.Preset(-1)
		p.Call(step, unix.SYS_SOCKET, plan.Int(family), plan.Int(kind|unix.SOCK_CLOEXEC), plan.Int(proto)).Into(into)
		return into
	}
	// If skiff dies before ready opens, nobody would.
	p.Tie(self)
	if userns >= 0 {
		p.Call("enter user namespace", unix.SYS_SETNS, plan.Int(userns), plan.Int(unix.CLONE_NEWUSER))
	}
	p.Call("make router namespace", unix.SYS_UNSHARE, plan.Int(unix.CLONE_NEWNET))
	p.router = open("open rtnetlink socket", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	p.netfilter = open("open nfnetlink socket", unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	for _, f := range []struct {
		family, icmp int
		wanted       bool
	}{{unix.AF_INET, unix.IPPROTO_ICMP, true}, {unix.AF_INET6, unix.IPPROTO_ICMPV6, six}} {
		if f.wanted {
			p.families = append(p.families, familyRegs{
				tcp:  open("open tcp socket", f.family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0),
				udp:  open("open udp socket", f.family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, 0),
				raw:  open("open raw socket", f.family, unix.SOCK_RAW|unix.SOCK_NONBLOCK, unix.IPPROTO_RAW),
				echo: open("open icmp socket", f.family, unix.SOCK_RAW|unix.SOCK_NONBLOCK, f.icmp),
			})
		}
	}
	p.Signal("router namespace made", p.made)
	p.Wait("wait for container", p.ready)
	p.Call("enter network namespace", unix.SYS_SETNS, p.inside.Arg(), plan.Int(unix.CLONE_NEWNET))
	p.container = open("open container's rtnetlink socket", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	return p
}

// opened are the registers of all descriptors that the task opens.
func (p *routerPlan) opened() []plan.Reg {
	all := []plan.Reg{p.router, p.netfilter, p.container}
	for _, f := range p.families {
		all = append(all, f.tcp, f.udp, f.raw, f.echo)
	}
	return all
}

// setUp makes R, wires it to C and returns what the loop needs: r.in without
// the rtnetlink sockets, listening, and the rung of r.hold.
func (r *Relay) setUp(o *Options) (err error) {
	userns := -1
	if o.UserNS {
		if userns, err = openNS(o.PID, "user"); err != nil {
			return err
		}
		defer func() {
			if userns >= 0 {
				unix.Close(userns)
			}
		}()
	}
	self, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return &Error{Step: "pidfd_open", Err: err}
	}
	defer unix.Close(self)
	six := r.wantIPv6()
	p := newRouterPlan(userns, self, six)
	task, err := p.Start(plan.Clone{})
	if err != nil {
		return stepError(err)
	}
	defer func() {
		if err != nil {
			unix.PidfdSendSignal(task.Pidfd, unix.SIGKILL, nil, 0)
			task.Wait()
			for _, reg := range p.opened() {
				if fd := task.Reg(reg); fd >= 0 {
					unix.Close(fd)
				}
			}
			r.in = inside{}
		}
		unix.Close(task.Pidfd)
	}()
	if err := task.Passed(p.made); err != nil {
		return stepError(err)
	}
	o.Laps.Lap("relay: make router namespace")
	in := &r.in
	in.router, in.netfilter = task.Reg(p.router), task.Reg(p.netfilter)
	for i, f := range p.families {
		s := [...]*sockets{&in.four, &in.six}[i]
		*s = sockets{task.Reg(f.tcp), task.Reg(f.udp), task.Reg(f.raw), task.Reg(f.echo)}
	}
	if err := in.four.listen(); err != nil {
		return err
	}
	if six {
		switch err = in.six.listen6(); {
		case err == nil:
			r.address6, r.gateway6 = address6, addressOf(gateway6)
		case o.IPv6 == Always:
			return err
		default:
			r.without6()
			p.families = p.families[:1]
		}
	}
	o.Laps.Lap("relay: make sockets ready")
	err = r.filter(o.Hold)
	if !r.address6.IsValid() {
		p.families = p.families[:1] // the others are closed, or never were
	}
	if err != nil {
		return err
	}
	o.Laps.Lap("relay: add nftables rules")
	if o.Ready != nil {
		if err := o.Ready(); err != nil {
			return &Error{Step: "wait for container", Err: err}
		}
	}
	o.Laps.Lap("relay: wait for container")
	peer, err := openNS(o.PID, "net")
	if err != nil {
		return err
	}
	defer unix.Close(peer)
	task.Set(p.inside, peer)
	task.Open(p.ready)
	route := netlink.New(in.router)
	np0, err := r.wire(route, peer)
	if err != nil {
		return err
	}
	if _, err := task.Wait(); err != nil {
		return stepError(err)
	}
	o.Laps.Lap("relay: create veth")
	in.container = task.Reg(p.container)
	if err := r.configure(route, np0, netlink.New(in.container)); err != nil {
		return err
	}
	o.Laps.Lap("relay: configure addresses")
	unix.Close(in.router)
	unix.Close(in.container)
	if len(o.Ports) > 0 {
		if r.stock, err = newStock(userns, in.netfilter); err != nil {
			return err
		}
		userns = -1 // the stock's now
	}
	return nil
}

func openNS(pid int, kind string) (int, error) {
	fd, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/ns/"+kind, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &Error{Step: "open container's " + kind + " namespace", Err: err}
	}
	return fd, nil
}

// stepError turns a failed operation of the task into an Error.
func stepError(err error) error {
	var e *plan.Error
	if !errors.As(err, &e) {
		return &Error{Step: "make router namespace", Err: err}
	}
	out := &Error{Step: e.Step, Err: e.Err}
	if e.Err == unix.EPROTONOSUPPORT && e.Step == "open nfnetlink socket" {
		out.Missing = "nfnetlink"
	}
	return out
}

// listen makes the sockets of IPv4 ready for packets to anyone.
func (in *sockets) listen() error {
	for _, fd := range []int{in.tcp, in.udp} {
		if err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TRANSPARENT, 1); err != nil {
			return &Error{Step: "make socket transparent", Err: err}
		}
	}
	if err := in.settle(); err != nil {
		return err
	}
	if err := unix.Bind(in.tcp, &unix.SockaddrInet4{Port: tcpPort}); err != nil {
		return &Error{Step: "bind tcp socket", Err: err}
	}
	if err := unix.Bind(in.udp, &unix.SockaddrInet4{Port: udpPort}); err != nil {
		return &Error{Step: "bind udp socket", Err: err}
	}
	if err := unix.Listen(in.tcp, queueLength); err != nil {
		return &Error{Step: "listen", Err: err}
	}
	if err := unix.SetsockoptInt(in.udp, unix.SOL_IP, unix.IP_RECVORIGDSTADDR, 1); err != nil {
		return &Error{Step: "ask for original destinations", Err: err}
	}
	filter := ^uint32(1<<icmp4Echo | 1<<icmp4Unreachable)
	if errno := setInt(in.echo, unix.SOL_RAW, icmpFilter, int(filter)); errno != 0 {
		return &Error{Step: "choose types of icmp", Err: errno}
	}
	return nil
}

// settle sets what is alike in both families.
func (in *sockets) settle() error {
	for _, fd := range []int{in.tcp, in.raw} {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, mark); err != nil {
			return &Error{Step: "mark socket", Err: err}
		}
	}
	// Accepted sockets inherit all of this. A byte that is marked as urgent comes
	// in line, or it would be lost (RFC 6093).
	unix.SetsockoptInt(in.tcp, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1)
	// No Nagle, data has waited long enough.
	unix.SetsockoptInt(in.tcp, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	// The veth loses nothing, so the simplest control fits, whatever the host's
	// default does for real networks.
	unix.SetsockoptString(in.tcp, unix.IPPROTO_TCP, unix.TCP_CONGESTION, "reno")
	// Cut to net.core.rmem_max; one socket takes the datagrams of all flows.
	unix.SetsockoptInt(in.udp, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<20)
	unix.SetsockoptInt(in.raw, unix.SOL_SOCKET, unix.SO_SNDBUF, 4<<20)
	return nil
}

// wire makes the veth and returns the index of R's end.
func (r *Relay) wire(route *netlink.Conn, peer int) (int, error) {
	var b netlink.Batch
	b.Veth(netlink.LinkSpec{Name: routerLink, MTU: linkMTU}, netlink.LinkSpec{Name: containerLink, MTU: linkMTU}, peer)
	b.LinkUp(netlink.Lo)
	if err := route.Do(&b); err != nil {
		e := &Error{Step: "create veth", Err: err}
		if errors.Is(err, unix.EOPNOTSUPP) {
			e.Missing = "veth"
		}
		return 0, e
	}
	np0, err := route.LinkIndex(routerLink)
	if err != nil {
		return 0, &Error{Step: "look up veth", Err: err}
	}
	// A kernel without IPv6 refuses this, and needs it not.
	b.Reset()
	b.LinkNoIPv6LinkLocal(netlink.Link{Index: np0})
	route.Do(&b)
	return np0, nil
}

// configure gives both ends their addresses and routes. Every destination is
// R's own (AnyIP): the connected network stays more specific, so no second
// routing table is needed.
func (r *Relay) configure(route *netlink.Conn, np0 int, c *netlink.Conn) error {
	eth0, err := c.LinkIndex(containerLink)
	if err != nil {
		return &Error{Step: "look up eth0", Err: err}
	}
	var b netlink.Batch
	b.LinkNoIPv6LinkLocal(netlink.Link{Index: eth0})
	c.Do(&b)
	b.Reset()
	b.AddrAdd(eth0, r.address)
	b.LinkUp(netlink.Lo)
	b.LinkUp(netlink.Link{Index: eth0})
	b.RouteAdd(netlink.Route{Index: eth0, Gateway: r.gateway})
	r.configure6(&b, eth0)
	if err := c.Do(&b); err != nil {
		return &Error{Step: "configure eth0", Err: err}
	}
	b.Reset()
	b.AddrAdd(np0, netip.PrefixFrom(r.gateway, r.address.Bits()))
	b.LinkUp(netlink.Link{Index: np0})
	b.RouteAdd(netlink.Route{Index: 1, Local: true})
	r.route6(&b, np0)
	if err := route.Do(&b); err != nil {
		return &Error{Step: "configure router", Err: err}
	}
	// A link that came up before its peer sends nothing until the kernel's link
	// watch has run; asking for the link makes it run (kernel 6.8, commit
	// facd15dfd691). Older ones take a moment, which the container's exec covers.
	if _, err := c.LinkIndex(containerLink); err != nil {
		return &Error{Step: "look up eth0", Err: err}
	}
	if err := unix.Connect(r.in.four.raw, &unix.SockaddrInet4{Addr: r.address.Addr().As4()}); err != nil {
		return &Error{Step: "connect raw socket", Err: err}
	}
	return r.connect6()
}
