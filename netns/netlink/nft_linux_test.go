package netlink

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"skiff/internal/need"
)

func commit(t *testing.T, c *Conn, tx *Transaction) {
	t.Helper()
	if err := c.Commit(tx); err != nil {
		t.Fatal(err)
	}
}

func nftList(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("nft", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("nft %v: %v\n%s", args, err, out)
	}
	return strings.Join(strings.Fields(string(out)), " ")
}

// TestRules has nft, an independent decoder, say what the kernel understood.
func TestRules(t *testing.T) {
	need.Tool(t, "nft")
	if !inNetns(t) {
		return
	}
	c := open(t, unix.NETLINK_NETFILTER)
	net4, net6 := netip.MustParsePrefix("10.88.0.0/16"), netip.MustParsePrefix("fd00:ec2::254/128")
	tx := NewTransaction(FamilyIPv4)
	tx.NewTable("t", 0)
	tx.NewChain(Chain{Table: "t", Name: "own"})
	tx.NewChain(Chain{Table: "t", Name: "pre", Type: "filter", Hook: unix.NF_INET_PRE_ROUTING, Priority: -150})
	tx.NewChain(Chain{Table: "t", Name: "dstn", Type: "nat", Hook: unix.NF_INET_PRE_ROUTING, Priority: -100})
	tx.NewChain(Chain{Table: "t", Name: "srcn", Type: "nat", Hook: unix.NF_INET_POST_ROUTING, Priority: 100})
	tx.NewChain(Chain{Table: "t", Name: "forw", Type: "filter", Hook: unix.NF_INET_FORWARD, Drop: true})
	tx.Rule("t", "pre", IIfName("np0"), Source(net4), Dest(net4), Jump("own"))
	tx.Rule("t", "pre", IIfName("np0"), L4Proto(unix.IPPROTO_TCP), TProxyTo(FamilyIPv4, 40001), Accept())
	tx.Rule("t", "pre", L4Proto(unix.IPPROTO_TCP), TCPFlags(0x12, 0x02), Counter(), QueueCompat(7, 1))
	tx.Rule("t", "own", Return())
	tx.Rule("t", "dstn", ToLocal(), L4Proto(unix.IPPROTO_UDP), DPort(53), RedirectTo(5353))
	tx.Rule("t", "dstn", L4Proto(unix.IPPROTO_TCP), DPort(8080),
		Immediate(1, []byte{10, 88, 0, 2}), Immediate(2, []byte{0, 80}), DNAT(FamilyIPv4, 1, 2))
	tx.Rule("t", "srcn", Source(net4), NotDest(net4), NotOIfName("skiff0"), Masquerade())
	tx.Rule("t", "srcn", OIfName("x"), Immediate(1, []byte{192, 0, 2, 1}), SNAT(FamilyIPv4, 1, 0))
	tx.Rule("t", "forw", CtState(CtEstablished|CtRelated), Accept())
	tx.Rule("t", "forw", CtDNAT(), Accept())
	tx.Rule("t", "forw", NotIIfName("skiff0"), NotSource(net4), Limit(10, 1, 7), Reject(unix.NFT_REJECT_ICMP_UNREACH, 13))
	tx.NewRule(Rule{Table: "t", Chain: "forw", Exprs: []Expr{Drop()}, Comment: "first: skiff0", Insert: true})
	tx.Rule("t", "own", Immediate(1, binary.NativeEndian.AppendUint32(nil, 7)), MetaSet(unix.NFT_META_MARK, 1))
	commit(t, c, tx)

	for _, want := range []struct{ chain, rule string }{
		{"pre", `type filter hook prerouting priority mangle; policy accept;`},
		{"pre", `iifname "np0" ip saddr 10.88.0.0/16 ip daddr 10.88.0.0/16 jump own`},
		{"pre", `iifname "np0" meta l4proto tcp tproxy to :40001 accept`},
		{"pre", `counter packets 0 bytes 0 queue num 7`},
		{"own", `return`},
		{"own", `meta mark set 0x00000007`},
		{"dstn", `type nat hook prerouting priority dstnat; policy accept;`},
		{"dstn", `fib daddr type local udp dport 53 redirect to :5353`},
		{"dstn", `tcp dport 8080 dnat to 10.88.0.2:80`},
		{"srcn", `ip saddr 10.88.0.0/16 ip daddr != 10.88.0.0/16 oifname != "skiff0" masquerade`},
		{"srcn", `oifname "x" snat to 192.0.2.1`},
		{"forw", `policy drop; drop comment "first: skiff0" ct state established,related accept`},
		{"forw", `ct status dnat accept`},
		{"forw", `iifname != "skiff0" ip saddr != 10.88.0.0/16 limit rate 10/second burst 7 packets reject with icmp admin-prohibited`},
	} {
		got := nftList(t, "list", "chain", "ip", "t", want.chain)
		if !strings.Contains(got, want.rule) {
			t.Errorf("chain %s: no\n\t%s\nin\n\t%s", want.chain, want.rule, got)
		}
	}

	// Families with both protocols, and what the dumps give back.
	tx = NewTransaction(FamilyINet)
	tx.NewTable("both", 0)
	tx.NewChain(Chain{Table: "both", Name: "in", Type: "filter", Hook: unix.NF_INET_LOCAL_IN, Priority: 5})
	tx.NewChain(Chain{Table: "both", Name: "pre", Type: "filter", Hook: unix.NF_INET_PRE_ROUTING, Priority: -300})
	tx.Rule("both", "in", NFProto(FamilyIPv6), Dest(net6), Drop())
	tx.Rule("both", "pre", IIfPrefix("skf"), Spoofed(), Drop())
	tx.Rule("both", "pre", L4Proto(unix.IPPROTO_ICMP), ICMPType(5), NotOIfPrefix("skf"), Return())
	before, err := c.Generation()
	if err != nil {
		t.Fatal(err)
	}
	commit(t, c, tx)
	if after, err := c.Generation(); err != nil || after == before {
		t.Errorf("generation %d, then %d, %v", before, after, err)
	}
	got := nftList(t, "list", "table", "inet", "both")
	for _, want := range []string{"ip6 daddr fd00:ec2::254 drop", `iifname "skf*" fib saddr . iif oif 0 drop`, `icmp type redirect oifname != "skf*" return`} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in %s", want, got)
		}
	}
	chains, err := c.Chains(FamilyIPv4)
	if err != nil || len(chains) != 5 {
		t.Fatalf("%+v, %v", chains, err)
	}
	if fwd := chains[4]; !fwd.Drop || fwd.Hook != unix.NF_INET_FORWARD || fwd.Name != "forw" || fwd.Table != "t" || fwd.Type != "filter" {
		t.Errorf("%+v", fwd)
	}
	if pre := chains[1]; pre.Priority != -150 || pre.Drop {
		t.Errorf("%+v", pre)
	}
	rules, err := c.Rules(FamilyIPv4, "t", "forw")
	if err != nil || len(rules) != 4 || rules[0].Comment != "first: skiff0" || len(rules[0].Exprs) == 0 {
		t.Fatalf("%+v, %v", rules, err)
	}
	tx = NewTransaction(FamilyIPv4)
	tx.DeleteRule("t", "forw", rules[0].Handle)
	commit(t, c, tx)
	if rules, err = c.Rules(FamilyIPv4, "t", "forw"); err != nil || len(rules) != 3 || rules[0].Comment != "" {
		t.Errorf("%+v, %v", rules, err)
	}
	tx = NewTransaction(FamilyIPv4)
	tx.FlushTable("t")
	commit(t, c, tx)
	if rules, err = c.Rules(FamilyIPv4, "t", "forw"); err != nil || len(rules) != 0 {
		t.Errorf("%+v, %v", rules, err)
	}
	tx = NewTransaction(FamilyIPv4)
	tx.DeleteTable("t")
	commit(t, c, tx)
	if got := nftList(t, "list", "tables"); got != "table inet both" {
		t.Errorf("tables: %s", got)
	}
}

func TestMap(t *testing.T) {
	need.Tool(t, "nft")
	if !inNetns(t) {
		return
	}
	c := open(t, unix.NETLINK_NETFILTER)
	tx := NewTransaction(FamilyIPv4)
	tx.NewTable("t", 0)
	tx.NewChain(Chain{Table: "t", Name: "pre", Type: "filter", Hook: unix.NF_INET_PRE_ROUTING, Priority: -150})
	id := tx.NewSet(Set{Table: "t", Name: "ports", KeyType: 7, KeyLen: 4, DataType: 13, DataLen: 2})
	tx.AddElements("t", "ports", id, []Element{
		{Key: []byte{10, 0, 0, 2}, Data: []byte{0x9c, 0x41}},
		{Key: []byte{10, 0, 0, 3}, Data: []byte{0x9c, 0x42}},
	})
	tx.Rule("t", "pre", L4Proto(unix.IPPROTO_TCP),
		Payload(1, unix.NFT_PAYLOAD_NETWORK_HEADER, 12, 4), Lookup("ports", id, 1, 2), TProxy(FamilyIPv4, 0, 2))
	set := tx.NewSet(Set{Table: "t", Name: "ifs", KeyType: 7, KeyLen: 4})
	tx.Rule("t", "pre", Payload(1, unix.NFT_PAYLOAD_NETWORK_HEADER, 12, 4), Lookup("ifs", set, 1, 0), Drop())
	commit(t, c, tx)
	tx = NewTransaction(FamilyIPv4)
	tx.AddElements("t", "ifs", 0, []Element{{Key: []byte{10, 0, 0, 9}}})
	commit(t, c, tx)
	got := nftList(t, "list", "table", "ip", "t")
	for _, want := range []string{"10.0.0.2 : 40001", "10.0.0.3 : 40002", "ip saddr @ifs drop", "elements = { 10.0.0.9 }"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in %s", want, got)
		}
	}
}

// TestTransactionFails checks that the refused change is named and that
// nothing of its transaction stays.
func TestTransactionFails(t *testing.T) {
	if !inNetns(t) {
		return
	}
	c := open(t, unix.NETLINK_NETFILTER)
	tx := NewTransaction(FamilyIPv4)
	tx.NewTable("t", 0)
	tx.Rule("t", "nosuch", Accept())
	tx.NewChain(Chain{Table: "t", Name: "later"})
	err := c.Commit(tx)
	var e *Error
	if !errors.As(err, &e) || e.Op != "nftables: add rule to t nosuch" || e.Errno != unix.ENOENT {
		t.Errorf("got %#v", err)
	}
	if tables, err := c.Tables(unix.NFPROTO_UNSPEC); err != nil || len(tables) != 0 {
		t.Errorf("%v, %v", tables, err)
	}
	tx = NewTransaction(FamilyIPv4)
	tx.NewTable("t", 0)
	tx.NewChain(Chain{Table: "t", Name: "c"})
	tx.Rule("t", "c", IIfName("a-name-that-is-too-long"))
	if err := c.Commit(tx); !errors.As(err, &e) || e.Errno != unix.EINVAL || e.Op != "nftables: add rule to t c" {
		t.Errorf("got %#v", err)
	}
	if err := c.Commit(NewTransaction(FamilyIPv4)); err != nil {
		t.Errorf("empty: %v", err)
	}
}

// TestOwner checks that a table with TableOwner cannot be touched by others,
// survives a flush and goes with its socket.
func TestOwner(t *testing.T) {
	if !inNetns(t) {
		return
	}
	owner, err := Open(unix.NETLINK_NETFILTER)
	if err != nil {
		t.Fatal(err)
	}
	other := open(t, unix.NETLINK_NETFILTER)
	tx := NewTransaction(FamilyIPv4)
	tx.NewTable("run", TableOwner)
	tx.NewChain(Chain{Table: "run", Name: "forw", Type: "filter", Hook: unix.NF_INET_FORWARD})
	commit(t, owner, tx)
	tables, err := other.Tables(FamilyIPv4)
	if err != nil || len(tables) != 1 || tables[0].Flags&TableOwner == 0 || tables[0].Owner == 0 {
		t.Fatalf("%+v, %v", tables, err)
	}
	tx = NewTransaction(FamilyIPv4)
	tx.DeleteTable("run")
	if err := other.Commit(tx); !errors.Is(err, unix.EPERM) {
		t.Errorf("delete by another: %v", err)
	}
	start := time.Now()
	owner.Close()
	t.Logf("close: %v", time.Since(start))
	if tables, err := other.Tables(FamilyIPv4); err != nil || len(tables) != 0 {
		t.Errorf("%+v, %v", tables, err)
	}
}

// TestPacketQueue sends a UDP datagram through an NFQUEUE twice: held and
// accepted, then dropped.
func TestPacketQueue(t *testing.T) {
	if !inNetns(t) {
		return
	}
	route, q := open(t, unix.NETLINK_ROUTE), open(t, unix.NETLINK_NETFILTER)
	var b Batch
	b.LinkUp(Lo)
	do(t, route, &b)
	b.Reset()
	b.QueueBind(5)
	b.QueueCopy(5, 64)
	b.QueueMaxLen(5, 4096)
	b.QueueFlags(5, 0, QueueFailOpen)
	do(t, q, &b)

	add := func(x Expr) error {
		tx := NewTransaction(FamilyIPv4)
		tx.NewTable("q", 0)
		tx.NewChain(Chain{Table: "q", Name: "out", Type: "filter", Hook: unix.NF_INET_LOCAL_OUT})
		tx.Rule("q", "out", L4Proto(unix.IPPROTO_UDP), x)
		return q.Commit(tx)
	}
	if err := add(Queue(5, 1, 0)); errors.Is(err, unix.ENOENT) {
		t.Log("no nft_queue here, taking xt_NFQUEUE")
		if err := add(QueueCompat(5, 1)); err != nil {
			t.Fatal(err)
		}
	} else if err != nil {
		t.Fatal(err)
	}

	in := udp(t)
	if err := unix.Bind(in, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	sa, _ := unix.Getsockname(in)
	out := udp(t)
	if err := unix.Connect(out, sa); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	for _, accept := range []bool{true, false} {
		if _, err := unix.Write(out, make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		n, err := unix.Read(q.FD(), buf)
		if err != nil {
			t.Fatal(err)
		}
		var got []Packet
		Packets(buf[:n], func(p Packet) { got = append(got, p) })
		if len(got) != 1 || got[0].Queue != 5 || got[0].Length != 128 || len(got[0].Payload) != 64 ||
			got[0].Proto != 0x800 || got[0].Hook != unix.NF_INET_LOCAL_OUT || got[0].Payload[0] != 0x45 {
			t.Fatalf("%+v", got)
		}
		if n, err := unix.Read(in, buf); err != unix.EAGAIN {
			t.Errorf("came before the verdict: %d, %v", n, err)
		}
		if err := q.Send(AppendVerdict(nil, 5, got[0].ID, accept)); err != nil {
			t.Fatal(err)
		}
		n, err = unix.Read(in, buf)
		if accept && (err != nil || n != 100) || !accept && err != unix.EAGAIN {
			t.Errorf("accept=%v: %d, %v", accept, n, err)
		}
	}

	other := open(t, unix.NETLINK_NETFILTER)
	b.Reset()
	b.QueueBind(5)
	if err := other.Do(&b); !errors.Is(err, unix.EPERM) {
		t.Errorf("second listener: %v", err)
	}
}

func udp(t *testing.T) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}
