package bridge

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"skiff/internal/smallfile"
	"skiff/netns/netlink"
)

// Options say how the host shall be prepared.
type Options struct {
	// Dir holds the network's run-time state: which subnet was chosen, and
	// when the host's packet filters were last looked at. It is made (0700) if
	// missing and must be on a file system that a reboot empties.
	Dir string

	// Subnet is the containers' network; zero chooses one that the host has
	// no route into, and stays with it. Another wish than before takes
	// masquerading from containers that run in the old one.
	Subnet netip.Prefix

	// Avoid are addresses that the chosen subnet must not contain, such as
	// the host's name servers.
	Avoid []netip.Addr

	// Forwarding, if not nil, is called after ip_forward was turned on.
	Forwarding func()
}

// A Host is a host that is ready for containers. It is for one goroutine.
type Host struct {
	Subnet  netip.Prefix
	Gateway netip.Addr // the container's way out, and its DNS forwarder
	MTU     int        // of the host's own way out, bytes

	// DNSBlocked names the packet filter that keeps containers from a DNS
	// forwarder at Gateway, or is empty.
	DNSBlocked string

	route   *netlink.Conn
	guarded bool // INPUT lets through what is sent to port 53 only
}

// Close closes what Prepare opened. The host stays as it is.
func (h *Host) Close() error { return h.route.Close() }

// Prepare makes the host ready: subnet, static nftables table, exceptions in
// iptables' chains, ip_forward. All of it is done once and kept; later calls
// see by nftables' generation number that nothing has changed, which takes
// 0.1 ms and no lock. It needs nothing of the container and can run while
// that is being made.
//
// The error is ErrNoSubnet, ErrForwardBlocked or a *MissingError, wrapped.
func Prepare(o Options) (*Host, error) {
	h, err := prepare(o)
	if err != nil {
		return nil, fmt.Errorf("prepare bridge network: %w", err)
	}
	return h, nil
}

func prepare(o Options) (*Host, error) {
	if legacyFilter() {
		return nil, fmt.Errorf("%w: what iptables-legacy drops cannot be seen", ErrForwardBlocked)
	}
	nf, err := netlink.Open(unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, &MissingError{What: "nftables", Err: err}
	}
	defer nf.Close()
	route, err := netlink.Open(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	h := &Host{route: route}
	if err := h.ready(o, nf); err != nil {
		route.Close()
		return nil, err
	}
	return h, nil
}

func (h *Host) ready(o Options, nf *netlink.Conn) error {
	netns, err := netnsID()
	if err != nil {
		return err
	}
	gen, err := nf.Generation()
	if err != nil {
		return missingNft(err)
	}
	st := readState(o.Dir)
	if !st.current(netns, gen, o.Subnet) {
		if st, err = settle(o, nf, h.route, netns); err != nil {
			return err
		}
	}
	if st.forward != "" {
		return blocked(st.forward)
	}
	h.Subnet, h.Gateway, h.DNSBlocked, h.guarded = st.subnet, gatewayOf(st.subnet), st.input, st.guarded
	if err := forwarding(o.Forwarding); err != nil {
		return err
	}
	h.MTU = uplinkMTU(h.route)
	return nil
}

// lockTimeout is how long to wait for another skiff that prepares the host; it
// takes milliseconds, so whoever takes longer has been stopped.
const lockTimeout = 10 * time.Second

// settle looks at the host's packet filters and changes what is amiss, under
// the network's lock, until a look finds nothing. The generation is read before
// each look: whatever happens after that makes the state stale.
func settle(o Options, nf, route *netlink.Conn, netns uint64) (state, error) {
	unlock, err := lock(o.Dir)
	if err != nil {
		return state{}, err
	}
	defer unlock()
	st := readState(o.Dir)
	if st.netns != netns || o.Subnet.IsValid() {
		st.subnet = o.Subnet.Masked()
	}
	st.netns = netns
	if !st.subnet.IsValid() {
		if st.subnet, err = freeSubnet(route, o.Avoid); err != nil {
			return state{}, err
		}
	}
	if b := st.subnet.Bits(); !st.subnet.Addr().Is4() || b < 8 || b > 30 {
		return state{}, fmt.Errorf("subnet %s: want an IPv4 network of 8 to 30 bits", st.subnet)
	}
	for range 10 {
		if st.gen, err = nf.Generation(); err != nil {
			return state{}, missingNft(err)
		}
		s, err := look(nf, st.subnet)
		if err != nil {
			return state{}, err
		}
		st.forward, st.input, st.guarded = s.forward, s.input, s.guarded
		if st.forward != "" || s.installed && len(s.missing) == 0 {
			return st, writeState(o.Dir, st)
		}
		if !s.installed {
			if err := nf.Commit(installTable(st.subnet)); err != nil {
				return state{}, missingNft(err)
			}
		}
		if len(s.missing) > 0 {
			if err := makeExceptions(nf, s.missing); err != nil && !errors.Is(err, unix.ENOENT) {
				return state{}, err // ENOENT: the chain went meanwhile
			}
		}
	}
	return state{}, fmt.Errorf("%w: another program keeps changing the packet filter", ErrForwardBlocked)
}

// lock takes the network's lock. It is asked for again and again rather than
// waited for, so that a stopped holder is told from a busy one.
func lock(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if err != unix.EWOULDBLOCK && err != unix.EINTR || time.Since(start) > lockTimeout {
			f.Close()
			return nil, &fs.PathError{Op: "lock", Path: f.Name(), Err: err}
		}
	}
}

// freeSubnet chooses a subnet that the host has no address in and no route to.
func freeSubnet(route *netlink.Conn, avoid []netip.Addr) (netip.Prefix, error) {
	routes, err := route.Routes(unix.AF_INET)
	if err != nil {
		return netip.Prefix{}, err
	}
	addrs, err := route.Addrs(unix.AF_INET)
	if err != nil {
		return netip.Prefix{}, err
	}
	var used []netip.Prefix
	for _, r := range routes {
		used = append(used, r.Dst)
	}
	for _, a := range addrs {
		used = append(used, a.Prefix.Masked())
	}
	for _, a := range avoid {
		used = append(used, netip.PrefixFrom(a, a.BitLen()))
	}
	return chooseSubnet(used)
}

// netnsID tells network namespaces apart: the inode number of the calling
// thread's, unique among those that exist (ioctl_ns(2)).
func netnsID() (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return 0, &fs.PathError{Op: "stat", Path: "/proc/thread-self/ns/net", Err: err}
	}
	return st.Ino, nil
}

const ipForward = "/proc/sys/net/ipv4/ip_forward"

// forwarding turns ip_forward on if it is off, and then calls turned.
func forwarding(turned func()) error {
	if now, err := smallfile.Read(ipForward); err == nil && !bytes.HasPrefix(now, []byte("0")) {
		return nil
	}
	if err := os.WriteFile(ipForward, []byte("1\n"), 0); err != nil {
		return fmt.Errorf("%w: %w", ErrForwardBlocked, err)
	}
	if turned != nil {
		turned()
	}
	return nil
}

// anywhere is an address for looking up the default route: TEST-NET-1
// (RFC 5737). Nothing is sent to it.
var anywhere = netip.AddrFrom4([4]byte{192, 0, 2, 1})

// uplinkMTU is the MTU of the host's default route, or Ethernet's where there
// is none.
func uplinkMTU(route *netlink.Conn) int {
	const ethernet = 1500
	r, err := route.RouteTo(anywhere)
	if err != nil {
		return ethernet
	}
	l, err := route.Link(netlink.Link{Index: r.Index})
	if err != nil || l.MTU < 576 || l.Flags&unix.IFF_LOOPBACK != 0 {
		return ethernet
	}
	return l.MTU
}

// Remove takes back what Prepare made: the static table, the exceptions and
// the state. ip_forward stays, since others may have come to count on it. The
// caller knows that no container uses the network.
func Remove(dir string) error {
	unlock, err := lock(dir)
	if err != nil {
		return fmt.Errorf("remove bridge network: %w", err)
	}
	defer unlock()
	nf, err := netlink.Open(unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("remove bridge network: %w", err)
	}
	defer nf.Close()
	tx := netlink.NewTransaction(netlink.FamilyINet)
	tx.NewTable(tableName, 0)
	tx.DeleteTable(tableName)
	if err := errors.Join(nf.Commit(tx), removeExceptions(nf), removeState(dir)); err != nil {
		return fmt.Errorf("remove bridge network: %w", err)
	}
	return nil
}
