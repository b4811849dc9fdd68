package run

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"time"

	"skiff/internal/idmap"
	"skiff/netns/lease"
	"skiff/netns/ports"
	"skiff/netns/relay"
	"skiff/run/networks"

	"golang.org/x/sys/unix"
)

// memberships are the named networks of one run, from before its init is born until
// it ends.
//
// The lock of all networks is held from the look at who is there until others can
// see this one: so a network is never made twice, and its last member does not take
// it away from who is about to be the next. Who only joins has it for the time of a look; who makes
// the network, or a user's first user namespace, until these exist.
type memberships struct {
	dir    networks.Dir
	unlock func() // nil: given up
	user   int    // the members' user namespace, or -1: this run's own will be it
	list   []*member
}

// A member is a run in one network.
type member struct {
	networks.Network
	use    NetworkUse
	router int // R, or -1: to be made
	lease  *lease.Lease
	info   lease.Info
	relay  *relayed
	first  bool // the way out is by this one
	names  *memberNames
}

// memberships looks for the networks and for who is in them.
func (r *Runner) memberships(o *Options) (m *memberships, err error) {
	if len(o.Networks) == 0 {
		return nil, nil
	}
	m = &memberships{dir: networks.Open(r.Store.Root()), user: -1}
	for _, use := range o.Networks {
		n, err := m.dir.Find(use.Name)
		if errors.Is(err, networks.ErrAbsent) {
			return nil, &NetworkAbsentError{use.Name}
		}
		if err != nil {
			return nil, err
		}
		m.list = append(m.list, &member{Network: n, use: use, router: -1})
	}
	if m.unlock, err = m.dir.Lock(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	for _, n := range m.list {
		members, err := m.dir.Members(n.Network)
		if err != nil {
			return nil, err
		}
		n.router = openOf(members, func(i lease.Info) int { return i.Router })
	}
	if os.Geteuid() != 0 {
		if m.user, err = m.anyUser(); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// A NetworkAbsentError is the name of no network.
type NetworkAbsentError struct{ Name string }

func (e *NetworkAbsentError) Error() string {
	return "network " + e.Name + ": " + networks.ErrAbsent.Error()
}

// anyUser opens the user namespace that all members of all networks of this user
// live in, if there is a member.
func (m *memberships) anyUser() (int, error) {
	all, err := m.dir.List()
	if err != nil {
		return -1, err
	}
	for _, n := range all {
		members, err := m.dir.Members(n)
		if err != nil {
			return -1, err
		}
		if fd := openOf(members, func(i lease.Info) int { return i.User }); fd >= 0 {
			return fd, nil
		}
	}
	return -1, nil
}

// openOf opens the namespace that one of the members holds. The lock of a lease tells that
// its process lives, and so whose number it is.
func openOf(members []lease.Entry, of func(lease.Info) int) int {
	for _, e := range members {
		if fd := of(e.Info); fd > 0 && e.Info.PID > 0 {
			at, err := unix.Open("/proc/"+strconv.Itoa(e.Info.PID)+"/fd/"+strconv.Itoa(fd), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err == nil {
				return at
			}
		}
	}
	return -1
}

// join is what the init enters, or nil.
func (m *memberships) join() *Join {
	if m == nil || m.user < 0 {
		return nil
	}
	return &Join{User: m.user, Net: -1}
}

// network takes the addresses and makes the relays ready.
func (m *memberships) network(r *Runner, o *Options, id, name, hostname string, published []ports.Socket) (_ *network, err error) {
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	made := true
	out := &network{to: m, link: Link{Names: true}}
	names := memberNames{dir: m.dir}
	for _, n := range m.list {
		names.in = append(names.in, n.Network)
	}
	eth := 0
	for _, n := range m.list {
		pool, err := m.dir.Leases(n.Network)
		if err != nil {
			return nil, err
		}
		n.info = lease.Info{
			ID: id, Name: name, Aliases: n.use.Aliases, Hostname: hostname, PID: os.Getpid(), Created: time.Now().UTC(),
			MAC: n.use.MAC.String(), Router: max(n.router, 0), User: max(m.user, 0),
		}
		if n.use.IP.IsValid() {
			n.lease, err = pool.Take(n.use.IP, n.Subnet, n.Gateway, n.info)
		} else {
			from := n.Subnet
			if n.Range.IsValid() {
				from = n.Range
			}
			n.lease, err = pool.Acquire(from, n.Gateway, n.info)
		}
		if err != nil {
			return nil, fmt.Errorf("network %s: %w", n.Name, err)
		}
		made = made && n.router >= 0
		if !out.link.Address.IsValid() {
			out.link.Address, out.link.Gateway = n.lease.Addr, n.Gateway
		}
		out.link.DNS = append(out.link.DNS, n.Gateway.String())
		if n.use.Interface == "" {
			n.use.Interface = "eth" + strconv.Itoa(eth)
			eth++
		}
		n.names = &names
		n.relay = &relayed{say: r.Say, store: r.Store, member: n, options: o.Relay, hostGateway: o.wantsHost()}
	}
	m.leader().first, m.leader().relay.ports = true, published
	if made && (m.user >= 0 || os.Geteuid() == 0) {
		m.give()
	}
	return out, nil
}

// leader is the network that the way out is by.
func (m *memberships) leader() *member {
	for _, n := range m.list {
		if !n.Internal {
			return n
		}
	}
	return m.list[0]
}

// give gives up the lock.
func (m *memberships) give() {
	if m.unlock != nil {
		m.unlock()
		m.unlock = nil
	}
}

func (m *memberships) begin(pr *Process, ids idmap.Map, ready func() error) {
	for _, n := range m.list {
		n.relay.begin(pr, ids, ready)
	}
}

// connect waits for all networks, and shows others what this run has made.
func (m *memberships) connect(pr *Process, inside int) (err error) {
	for _, n := range m.list {
		if err = n.relay.connect(pr, inside); err != nil {
			return fmt.Errorf("network %s: %w", n.Name, err)
		}
	}
	if m.unlock == nil {
		return nil
	}
	if os.Geteuid() != 0 && m.user < 0 {
		if m.user, err = openNamespace("/proc/" + strconv.Itoa(pr.PID) + "/ns/user"); err != nil {
			return err
		}
	}
	for _, n := range m.list {
		if n.router < 0 {
			if n.router, err = n.relay.relay.Router(); err != nil {
				return err
			}
		}
		n.info.Router, n.info.User = n.router, max(m.user, 0)
		if err := n.lease.Update(n.info); err != nil {
			return err
		}
	}
	m.give()
	return nil
}

func (m *memberships) unpublish() {
	for _, n := range m.list {
		if n.relay != nil {
			n.relay.unpublish()
		}
	}
}

// close gives the addresses back. The networks are left to the end of the process.
func (m *memberships) close() {
	if m == nil {
		return
	}
	for _, n := range m.list {
		if n.lease != nil {
			n.lease.Release()
			n.lease = nil
		}
	}
	m.give()
}

// options are the relay's for this network.
func (n *member) options(o *relay.Options) {
	o.Address, o.Gateway = netip.PrefixFrom(n.lease.Addr, n.Subnet.Bits()), n.Gateway
	o.IPv6, o.Names = relay.Never, n.names
	o.Network = &relay.Network{
		Router: n.router, Subnet: n.Subnet, Interface: n.use.Interface, MAC: n.use.MAC, DefaultRoute: n.first, Internal: n.Internal,
	}
}
