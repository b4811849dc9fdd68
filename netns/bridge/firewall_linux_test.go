package bridge

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"skiff/internal/need"
	"skiff/netns/netlink"
)

// firewall makes a packet filter of the given chains of table ip filter, as
// iptables-nft and docker would.
func (w *world) firewall(table string, family byte, chains ...netlink.Chain) {
	w.t.Helper()
	tx := netlink.NewTransaction(family)
	tx.NewTable(table, 0)
	for _, c := range chains {
		c.Table = table
		tx.NewChain(c)
	}
	for _, c := range chains {
		if c.Name == "DOCKER-USER" {
			tx.Rule(table, "FORWARD", netlink.Jump("DOCKER-USER"))
			tx.Rule(table, "DOCKER-USER", netlink.Counter(), netlink.Return())
		}
	}
	w.must(w.nf.Commit(tx))
}

func (w *world) dropFirewall(table string, family byte) {
	w.t.Helper()
	tx := netlink.NewTransaction(family)
	tx.DeleteTable(table)
	w.must(w.nf.Commit(tx))
}

var (
	forwardDrop   = netlink.Chain{Name: "FORWARD", Type: "filter", Hook: unix.NF_INET_FORWARD, Drop: true}
	forwardAccept = netlink.Chain{Name: "FORWARD", Type: "filter", Hook: unix.NF_INET_FORWARD}
	inputDrop     = netlink.Chain{Name: "INPUT", Type: "filter", Hook: unix.NF_INET_LOCAL_IN, Drop: true}
	dockerUser    = netlink.Chain{Name: "DOCKER-USER"}
)

// TestForwardDrop goes through the packet filters that hosts have.
func TestForwardDrop(t *testing.T) {
	if !inHost(t) {
		return
	}
	w := newWorld(t)
	for _, c := range []struct {
		name    string
		table   string
		family  byte
		chains  []netlink.Chain
		rules   map[string]int // skiff's exceptions by chain
		blocked string         // named by the error
		dns     string         // named by DNSBlocked
	}{
		{name: "accepting", table: "filter", family: netlink.FamilyIPv4, chains: []netlink.Chain{forwardAccept}},
		{name: "iptables-nft drops", table: "filter", family: netlink.FamilyIPv4, chains: []netlink.Chain{forwardDrop}, rules: map[string]int{"FORWARD": 2}},
		{name: "docker", table: "filter", family: netlink.FamilyIPv4, chains: []netlink.Chain{forwardDrop, dockerUser}, rules: map[string]int{"DOCKER-USER": 2}},
		{name: "ufw", table: "filter", family: netlink.FamilyIPv4, chains: []netlink.Chain{forwardDrop, inputDrop}, rules: map[string]int{"FORWARD": 2, "INPUT": 2}},
		{name: "nftables.conf drops forwards", table: "mine", family: netlink.FamilyINet, chains: []netlink.Chain{forwardDrop}, blocked: "nftables chain mine FORWARD"},
		{name: "nftables.conf drops input", table: "mine", family: netlink.FamilyINet, chains: []netlink.Chain{inputDrop}, dns: "nftables chain mine INPUT"},
		{name: "firewalld", table: "firewalld", family: netlink.FamilyINet, chains: []netlink.Chain{{Name: "filter_FORWARD", Type: "filter", Hook: unix.NF_INET_FORWARD, Priority: 10}}, blocked: "firewalld"},
	} {
		w.firewall(c.table, c.family, c.chains...)
		for range 2 { // the second time from the state
			h, err := Prepare(Options{Dir: w.dir})
			if c.blocked != "" {
				if !errors.Is(err, ErrForwardBlocked) || !strings.Contains(err.Error(), c.blocked) {
					t.Errorf("%s: %v", c.name, err)
				}
				continue
			}
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			if h.DNSBlocked != c.dns {
				t.Errorf("%s: DNS blocked by %q", c.name, h.DNSBlocked)
			}
			s, _, _ := w.container(h)
			w.expect(s, "tcp4", outsideAddr+":80", hostAddr)
			s.end()
			h.Close()
			for _, ch := range c.chains {
				rules, err := w.nf.Rules(c.family, c.table, ch.Name)
				w.must(err)
				n := 0
				for _, r := range rules {
					if r.Comment == foreignTag {
						n++
					}
				}
				if n != c.rules[ch.Name] {
					t.Errorf("%s: %d exceptions in %s, want %d", c.name, n, ch.Name, c.rules[ch.Name])
				}
			}
		}
		w.must(Remove(w.dir))
		for _, ch := range c.chains {
			rules, err := w.nf.Rules(c.family, c.table, ch.Name)
			w.must(err)
			for _, r := range rules {
				if r.Comment == foreignTag {
					t.Errorf("%s: Remove left a rule in %s", c.name, ch.Name)
				}
			}
		}
		w.dropFirewall(c.table, c.family)
	}
}

// TestDropWithoutException checks that the exceptions are what lets packets
// through: the same filter, made after the container started, stops them until
// the next start looks again.
func TestDropWithoutException(t *testing.T) {
	if !inHost(t) {
		return
	}
	w := newWorld(t)
	s, _, _ := w.container(w.prepare())
	w.firewall("filter", netlink.FamilyIPv4, forwardDrop)
	if err := w.refuse(s, "tcp4", outsideAddr+":80"); !isTimeout(err) {
		t.Error(err)
	}
	w.prepare()
	w.expect(s, "tcp4", outsideAddr+":80", hostAddr)
	// Somebody flushes everything: the next start heals it for all.
	w.dropFirewall("filter", netlink.FamilyIPv4)
	w.dropFirewall(tableName, netlink.FamilyINet)
	if err := w.refuse(s, "tcp4", outsideAddr+":80"); !isTimeout(err) {
		t.Error(err)
	}
	w.prepare()
	w.expect(s, "tcp4", outsideAddr+":80", hostAddr)
}

// TestIptablesStillWorks has iptables print and change chains that hold
// skiff's exceptions.
func TestIptablesStillWorks(t *testing.T) {
	need.Tool(t, "iptables-nft")
	if !inHost(t) {
		return
	}
	iptables := func(args ...string) string {
		t.Helper()
		out, err := exec.Command("iptables-nft", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("iptables %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	w := newWorld(t)
	iptables("-P", "FORWARD", "DROP")
	iptables("-P", "INPUT", "DROP")
	iptables("-A", "FORWARD", "-i", "foo+", "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT")
	h := w.prepare()
	got := iptables("-S")
	gw := h.Gateway.String()
	for _, want := range []string{
		"-A FORWARD -i skf+ -m comment --comment skiff -j ACCEPT\n", "-A FORWARD -o skf+ -m comment --comment skiff -j ACCEPT\n",
		"-A INPUT -d " + gw + "/32 -i skf+ -p udp -m udp --dport 53 -m comment --comment skiff -j ACCEPT\n",
		"-A INPUT -d " + gw + "/32 -i skf+ -p tcp -m tcp --dport 53 -m comment --comment skiff -j ACCEPT\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	iptables("-C", "FORWARD", "-i", "skf+", "-m", "comment", "--comment", "skiff", "-j", "ACCEPT")
	iptables("-I", "FORWARD", "-o", "bar0", "-j", "ACCEPT")
	iptables("-D", "FORWARD", "-o", "bar0", "-j", "ACCEPT")
	if st := readState(w.dir); !st.guarded || st.input != "" {
		t.Errorf("%+v", st)
	}
}

// TestConcurrentPrepare starts the network sixteen times at once on a bare host:
// one table, one set of exceptions, one subnet.
func TestConcurrentPrepare(t *testing.T) {
	if !inHost(t) {
		return
	}
	w := newWorld(t)
	w.firewall("filter", netlink.FamilyIPv4, forwardDrop)
	var wg sync.WaitGroup
	var mu sync.Mutex
	turned := 0
	for range 16 {
		wg.Go(func() {
			h, err := Prepare(Options{Dir: w.dir, Forwarding: func() { mu.Lock(); turned++; mu.Unlock() }})
			if err != nil {
				t.Error(err)
				return
			}
			if h.Subnet.String() != "10.77.0.0/16" {
				t.Errorf("subnet %v", h.Subnet)
			}
			h.Close()
		})
	}
	wg.Wait()
	rules, err := w.nf.Rules(netlink.FamilyIPv4, "filter", "FORWARD")
	if err != nil || len(rules) != 2 || turned == 0 {
		t.Errorf("%d rules, ip_forward turned on %d times, %v", len(rules), turned, err)
	}
	if b, err := os.ReadFile(ipForward); err != nil || string(b) != "1\n" {
		t.Errorf("%q, %v", b, err)
	}
}

// TestStoppedHolder checks that someone who was stopped while holding the lock
// keeps nobody from a network that is ready.
func TestStoppedHolder(t *testing.T) {
	if !inHost(t) {
		return
	}
	w := newWorld(t)
	w.prepare()
	unlock, err := lock(w.dir)
	w.must(err)
	defer unlock()
	start := time.Now()
	w.prepare()
	if d := time.Since(start); d > time.Second {
		t.Errorf("waited %v", d)
	}
}

func TestSubnet(t *testing.T) {
	if !inHost(t) {
		return
	}
	w := newWorld(t)
	var b netlink.Batch
	up0, err := w.route.LinkIndex("up0")
	w.must(err)
	b.RouteAdd(netlink.Route{Dst: netip.MustParsePrefix("10.77.128.0/24"), Index: up0}) // a VPN
	b.RouteAdd(netlink.Route{Dst: netip.MustParsePrefix("0.0.0.0/1"), Gateway: netip.MustParseAddr(outsideAddr)})
	b.AddrAdd(up0, netip.MustParsePrefix("10.78.3.4/22"))
	w.must(w.route.Do(&b))
	h, err := Prepare(Options{Dir: w.dir, Avoid: []netip.Addr{netip.MustParseAddr("10.79.0.53"), netip.MustParseAddr("::1")}})
	w.must(err)
	defer h.Close()
	if h.Subnet.String() != "10.80.0.0/16" || h.Gateway.String() != "10.80.0.1" {
		t.Errorf("%v, gateway %v", h.Subnet, h.Gateway)
	}
	// The choice stays, whatever comes; another wish replaces it.
	b.Reset()
	b.AddrAdd(up0, netip.MustParsePrefix("10.80.3.4/22"))
	w.must(w.route.Do(&b))
	if h := w.prepare(); h.Subnet.String() != "10.80.0.0/16" {
		t.Errorf("%v", h.Subnet)
	}
	h, err = Prepare(Options{Dir: w.dir, Subnet: netip.MustParsePrefix("192.168.7.0/24")})
	w.must(err)
	defer h.Close()
	s := newSpace(t)
	c := Container{ID: "00000000000a", Addr: netip.MustParseAddr("192.168.7.9"), NSFD: s.fd, InsideFD: s.route.FD()}
	if _, err := h.Attach(c); err != nil {
		t.Fatal(err)
	}
	w.expect(s, "tcp4", outsideAddr+":80", hostAddr)
	if _, err := h.Attach(c); !errors.Is(err, unix.EEXIST) {
		t.Errorf("same container twice: %v", err)
	}
	for _, bad := range []Container{
		{ID: "short", Addr: c.Addr}, {ID: "../../../../etc", Addr: c.Addr}, {ID: c.ID, Addr: h.Gateway},
		{ID: c.ID, Addr: netip.MustParseAddr("10.0.0.1")}, {ID: c.ID},
	} {
		if n, err := h.Attach(bad); err == nil {
			t.Errorf("%+v: attached as %s", bad, n.Link)
		}
	}
	for _, bad := range []string{"fd00::/64", "10.0.0.0/31", "0.0.0.0/0"} {
		if _, err := Prepare(Options{Dir: w.dir, Subnet: netip.MustParsePrefix(bad)}); err == nil {
			t.Errorf("%s: accepted", bad)
		}
	}
}

func TestChooseSubnet(t *testing.T) {
	all := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	if p, err := chooseSubnet(all); err != nil || p.String() != "172.28.0.0/16" {
		t.Errorf("%v, %v", p, err)
	}
	all = append(all, netip.MustParsePrefix("172.16.0.0/12"))
	if p, err := chooseSubnet(all); err != nil || p.String() != "192.168.192.0/20" {
		t.Errorf("%v, %v", p, err)
	}
	if _, err := chooseSubnet(append(all, netip.MustParsePrefix("192.168.0.0/16"))); !errors.Is(err, ErrNoSubnet) {
		t.Errorf("%v", err)
	}
}

func TestState(t *testing.T) {
	dir := t.TempDir()
	want := state{netns: 1 << 40, gen: 1<<32 - 1, subnet: netip.MustParsePrefix("10.77.0.0/16"), forward: "nftables chain a b", guarded: true}
	if err := writeState(dir, want); err != nil {
		t.Fatal(err)
	}
	if got := readState(dir); got != want {
		t.Errorf("%+v", got)
	}
	evil := want
	evil.input = "x\ny"
	if err := writeState(dir, evil); err != nil {
		t.Fatal(err)
	}
	if got := readState(dir); got.input != "x y" {
		t.Errorf("%+v", got)
	}
	if got := want; !got.current(1<<40, 1<<32-1, netip.Prefix{}) || got.current(1, 1<<32-1, netip.Prefix{}) || got.current(1<<40, 7, netip.Prefix{}) ||
		got.current(1<<40, 1<<32-1, netip.MustParsePrefix("10.78.0.0/16")) {
		t.Error("current")
	}
	for _, text := range []string{"", "1\n2\n", "x\n1\n10.0.0.0/8\n\n\nfalse\n", "1\n1\nfd00::/8\n\n\nfalse\n", "1\n1\n10.0.0.0/8\n\n\nfalse\nmore\n"} {
		os.WriteFile(filepath.Join(dir, stateName), []byte(text), 0o600)
		if got := readState(dir); got != (state{}) {
			t.Errorf("%q: %+v", text, got)
		}
	}
}
