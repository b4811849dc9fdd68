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
	raw       int // raw IPv4 of R
	tcp, udp  int // sockets of R
}

// routerPlan makes R and opens everything inside. The task waits at ready
// before it enters C and has signalled made before that, so that R can be set
// up while C is still coming into being.
type routerPlan struct {
	*plan.Plan
	made, ready plan.Gate
	container   plan.Reg // C's namespace, to be set before ready is opened
	fds         [6]plan.Reg
}

// userns is the container's user namespace, or -1; self a pidfd of the caller. Namespaces are entered by
// descriptors of their own: entering them by a pidfd asks for ptrace access to a
// task that shares our memory, which the kernel denies once the task has changed
// its user.
func newRouterPlan(userns, self int) *routerPlan {
	p := &routerPlan{Plan: plan.New()}
	p.made, p.ready, p.container = p.Gate(), p.Gate(), p.Reg()
	for i := range p.fds {
		p.fds[i] = p.Preset(-1)
	}
	open := func(step string, into plan.Reg, family, kind, proto int) {
		p.Call(step, unix.SYS_SOCKET, plan.Int(family), plan.Int(kind|unix.SOCK_CLOEXEC), plan.Int(proto)).Into(into)
	}
	// If skiff dies before ready opens, nobody would.
	p.Tie(self)
	if userns >= 0 {
		p.Call("enter user namespace", unix.SYS_SETNS, plan.Int(userns), plan.Int(unix.CLONE_NEWUSER))
	}
	p.Call("make router namespace", unix.SYS_UNSHARE, plan.Int(unix.CLONE_NEWNET))
	open("open rtnetlink socket", p.fds[0], unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	open("open nfnetlink socket", p.fds[1], unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	open("open tcp socket", p.fds[2], unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	open("open udp socket", p.fds[3], unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, 0)
	open("open raw socket", p.fds[4], unix.AF_INET, unix.SOCK_RAW|unix.SOCK_NONBLOCK, unix.IPPROTO_RAW)
	p.Signal("router namespace made", p.made)
	p.Wait("wait for container", p.ready)
	p.Call("enter network namespace", unix.SYS_SETNS, p.container.Arg(), plan.Int(unix.CLONE_NEWNET))
	open("open container's rtnetlink socket", p.fds[5], unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	return p
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
	p := newRouterPlan(userns, self)
	task, err := p.Start(plan.Clone{})
	if err != nil {
		return stepError(err)
	}
	defer func() {
		if err != nil {
			unix.PidfdSendSignal(task.Pidfd, unix.SIGKILL, nil, 0)
			task.Wait()
			for _, reg := range p.fds {
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
	in.router, in.netfilter, in.tcp, in.udp, in.raw = task.Reg(p.fds[0]), task.Reg(p.fds[1]), task.Reg(p.fds[2]), task.Reg(p.fds[3]), task.Reg(p.fds[4])
	if err := r.listen(); err != nil {
		return err
	}
	o.Laps.Lap("relay: make sockets ready")
	if err := r.filter(o.Hold); err != nil {
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
	task.Set(p.container, peer)
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
	in.container = task.Reg(p.fds[5])
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

// listen makes the sockets of R ready for packets to anyone.
func (r *Relay) listen() error {
	in := &r.in
	for _, fd := range []int{in.tcp, in.udp} {
		if err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TRANSPARENT, 1); err != nil {
			return &Error{Step: "make socket transparent", Err: err}
		}
	}
	for _, fd := range []int{in.tcp, in.raw} {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, mark); err != nil {
			return &Error{Step: "mark socket", Err: err}
		}
	}
	// Accepted sockets inherit this: no Nagle, data has waited long enough.
	unix.SetsockoptInt(in.tcp, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	// The veth loses nothing, so the simplest control fits, whatever the host's
	// default does for real networks. Accepted sockets inherit it.
	unix.SetsockoptString(in.tcp, unix.IPPROTO_TCP, unix.TCP_CONGESTION, "reno")
	if err := unix.Bind(in.tcp, &unix.SockaddrInet4{Port: tcpPort}); err != nil {
		return &Error{Step: "bind tcp socket", Err: err}
	}
	if err := unix.Listen(in.tcp, queueLength); err != nil {
		return &Error{Step: "listen", Err: err}
	}
	if err := unix.SetsockoptInt(in.udp, unix.SOL_IP, unix.IP_RECVORIGDSTADDR, 1); err != nil {
		return &Error{Step: "ask for original destinations", Err: err}
	}
	// Cut to net.core.rmem_max; one socket takes the datagrams of all flows.
	unix.SetsockoptInt(in.udp, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<20)
	if err := unix.Bind(in.udp, &unix.SockaddrInet4{Port: udpPort}); err != nil {
		return &Error{Step: "bind udp socket", Err: err}
	}
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
	if err := c.Do(&b); err != nil {
		return &Error{Step: "configure eth0", Err: err}
	}
	b.Reset()
	b.AddrAdd(np0, netip.PrefixFrom(r.gateway, r.address.Bits()))
	b.LinkUp(netlink.Link{Index: np0})
	b.RouteAdd(netlink.Route{Index: 1, Local: true})
	if err := route.Do(&b); err != nil {
		return &Error{Step: "configure router", Err: err}
	}
	// A link that came up before its peer sends nothing until the kernel's link
	// watch has run; asking for the link makes it run (kernel 6.8, commit
	// facd15dfd691). Older ones take a moment, which the container's exec covers.
	if _, err := c.LinkIndex(containerLink); err != nil {
		return &Error{Step: "look up eth0", Err: err}
	}
	if err := unix.Connect(r.in.raw, &unix.SockaddrInet4{Addr: r.address.Addr().As4()}); err != nil {
		return &Error{Step: "connect raw socket", Err: err}
	}
	return nil
}

// filter adds the rules of R and binds the queue, from the given rung down.
func (r *Relay) filter(from Hold) error {
	nft := netlink.New(r.in.netfilter)
	for h := max(from, HoldQueue); ; h++ {
		err := r.rules(nft, h)
		if err == nil && h != HoldNone {
			if err = r.bindQueue(nft); err != nil {
				if err := dropRules(nft); err != nil {
					return &Error{Step: "delete nftables rules", Err: err}
				}
			}
		}
		switch {
		case err == nil:
			r.hold = h
			return nil
		case h == HoldNone:
			return filterError(err)
		}
	}
}

// filterError says which module the last rung lacked.
func filterError(err error) error {
	e := &Error{Step: "add nftables rules", Err: err}
	switch {
	case errors.Is(err, unix.ENOENT):
		e.Missing = "nft_tproxy"
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL):
		e.Missing = "nf_tables"
	}
	return e
}

const (
	table  = "relay"
	divert = "divert"
	hold   = "hold"
	stray  = "stray"

	// mark is on every packet of our sockets in R.
	mark = 1
)

// rules adds the one table of R.
//
// Only the container's own address is listened to: with raw sockets it could
// claim another (SECURITY case 115). What is neither TCP nor UDP is dropped, or
// R would answer every ping itself, every destination being its own.
//
// Only SYNs need TPROXY: the socket that answers one has the destination as its
// address, which is local.
//
// A packet that comes just while another processor replaces the request of its
// connection by the socket finds neither, and the kernel resets (before commit
// 1532ed0d0753, 6.19). A container that writes the moment it is connected meets
// this once in some ten thousand connections. So resets that are not of our
// sockets, which are marked, are dropped, and the packet comes again.
func (r *Relay) rules(nft *netlink.Conn, h Hold) error {
	t := netlink.NewTransaction(netlink.FamilyIPv4)
	t.NewTable(table, 0)
	add := func(chain string, exprs ...netlink.Expr) {
		t.NewRule(netlink.Rule{Table: table, Chain: chain, Exprs: exprs})
	}
	own := netip.PrefixFrom(r.address.Addr(), 32)
	if h != HoldNone {
		t.NewChain(netlink.Chain{Table: table, Name: hold, Type: "filter", Hook: unix.NF_INET_PRE_ROUTING, Priority: -300})
		queue := netlink.Queue(queueNumber, 1, 0)
		if h == HoldCompat {
			queue = netlink.QueueCompat(queueNumber, 1)
		}
		add(hold, netlink.L4Proto(unix.IPPROTO_TCP), netlink.TCPFlags(tcpSYN|tcpACK|tcpRST, tcpSYN),
			netlink.Source(own), queue)
	}
	t.NewChain(netlink.Chain{Table: table, Name: divert, Type: "filter", Hook: unix.NF_INET_PRE_ROUTING, Priority: -150, Drop: true})
	add(divert, netlink.NotIIfName(routerLink), netlink.Accept())
	add(divert, netlink.NotSource(own), netlink.Drop())
	add(divert, netlink.L4Proto(unix.IPPROTO_TCP), netlink.TCPFlags(tcpSYN|tcpACK|tcpRST, tcpSYN),
		netlink.TProxyTo(netlink.FamilyIPv4, tcpPort), netlink.Accept())
	add(divert, netlink.L4Proto(unix.IPPROTO_TCP), netlink.Accept())
	add(divert, netlink.L4Proto(unix.IPPROTO_UDP), netlink.TProxyTo(netlink.FamilyIPv4, udpPort), netlink.Accept())
	t.NewChain(netlink.Chain{Table: table, Name: stray, Type: "filter", Hook: unix.NF_INET_LOCAL_OUT})
	add(stray, netlink.Meta(unix.NFT_META_MARK, unix.NFT_REG_1), netlink.Cmp(unix.NFT_REG_1, unix.NFT_CMP_EQ, make([]byte, 4)),
		netlink.L4Proto(unix.IPPROTO_TCP), netlink.TCPFlags(tcpRST, tcpRST), netlink.Drop())
	return nft.Commit(t)
}

func dropRules(nft *netlink.Conn) error {
	t := netlink.NewTransaction(netlink.FamilyIPv4)
	t.DeleteTable(table)
	return nft.Commit(t)
}

// synCopy is how much of a SYN is copied: its headers with all options.
const synCopy = 128

func (r *Relay) bindQueue(nft *netlink.Conn) error {
	var b netlink.Batch
	b.QueueBind(queueNumber)
	b.QueueCopy(queueNumber, synCopy)
	b.QueueMaxLen(queueNumber, queueLength)
	return nft.Do(&b)
}
