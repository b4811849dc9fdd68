package bridge

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"skiff/netns/netlink"
)

// tableName is the static table, of family inet so that it stops IPv6 as well.
const tableName = "skiff"

// loopback and linkLocal are never reached by a container (SECURITY cases 112
// and 116). The kernel drops the first as martian unless route_localnet is set,
// which kube-proxy does.
var (
	loopback  = netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8)
	linkLocal = netip.PrefixFrom(netip.AddrFrom4([4]byte{169, 254}), 16)
)

const icmpRedirect = 5 // RFC 792

// A staticRule is a rule of the static table by its chain.
type staticRule struct {
	chain string
	exprs []netlink.Expr
}

// staticChains are the table's chains. Traffic that is not a container's
// passes one comparison per hook.
func staticChains() []netlink.Chain {
	return []netlink.Chain{
		{Table: tableName, Name: "container"},
		{Table: tableName, Name: "prerouting", Type: "filter", Hook: unix.NF_INET_PRE_ROUTING, Priority: -300},
		{Table: tableName, Name: "forward", Type: "filter", Hook: unix.NF_INET_FORWARD, Priority: 0},
		{Table: tableName, Name: "postrouting", Type: "nat", Hook: unix.NF_INET_POST_ROUTING, Priority: 100},
	}
}

// staticRules are the table's rules, in order.
func staticRules(subnet netip.Prefix) []staticRule {
	rule := func(chain string, exprs ...netlink.Expr) staticRule { return staticRule{chain, exprs} }
	in, out := netlink.IIfPrefix(linkPrefix), netlink.OIfPrefix(linkPrefix)
	ipv4 := netlink.NFProto(netlink.FamilyIPv4)
	return []staticRule{
		rule("prerouting", in, netlink.Jump("container")),
		// No IPv6: a container that gives itself an address, or sends router
		// advertisements, is not heard (CVE-2020-13401).
		rule("container", netlink.NFProto(netlink.FamilyIPv6), netlink.Drop()),
		rule("container", ipv4, netlink.Dest(loopback), netlink.Drop()),
		rule("container", ipv4, netlink.Dest(linkLocal), netlink.Drop()),
		rule("container", ipv4, netlink.L4Proto(unix.IPPROTO_ICMP), netlink.ICMPType(icmpRedirect), netlink.Drop()),
		rule("container", netlink.Spoofed(), netlink.Drop()),
		rule("forward", in, out, netlink.Reject(unix.NFT_REJECT_ICMPX_UNREACH, unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED)),
		rule("forward", in, netlink.Accept()),
		rule("forward", out, netlink.CtState(netlink.CtEstablished|netlink.CtRelated), netlink.Accept()),
		rule("forward", out, netlink.CtDNAT(), netlink.Accept()),
		// With ip_forward on, neighbours of the host could route to a container.
		rule("forward", out, netlink.Drop()),
		rule("postrouting", ipv4, netlink.Source(subnet), netlink.NotOIfPrefix(linkPrefix), netlink.Masquerade()),
	}
}

// tag marks every rule of the static table: a version of the rules, and the
// subnet they are for. Whatever differs is replaced.
func tag(subnet netip.Prefix) string { return "skiff 1 " + subnet.String() }

// installTable replaces the static table, or makes it, in one transaction:
// at no moment is there none. "Add, delete, add" deletes what may not be there.
func installTable(subnet netip.Prefix) *netlink.Transaction {
	tx := netlink.NewTransaction(netlink.FamilyINet)
	tx.NewTable(tableName, 0)
	tx.DeleteTable(tableName)
	tx.NewTable(tableName, 0)
	for _, c := range staticChains() {
		tx.NewChain(c)
	}
	for _, r := range staticRules(subnet) {
		tx.NewRule(netlink.Rule{Table: tableName, Chain: r.chain, Exprs: r.exprs, Comment: tag(subnet)})
	}
	return tx
}

// foreignTag marks skiff's rules in other programs' chains.
const foreignTag = "skiff"

// A foreignRule is an exception that skiff makes in a chain of iptables (its
// nft variant), where packets would be dropped otherwise. They use only what
// iptables can print again, else it would refuse to work with the table.
type foreignRule struct {
	chain string // of table ip filter
	exprs []netlink.Expr
}

// forwardExceptions let containers' packets pass. New connections to
// containers are the static table's to drop: every base chain has a say.
func forwardExceptions(chain string) []foreignRule {
	return []foreignRule{
		{chain, []netlink.Expr{netlink.IIfPrefix(linkPrefix), netlink.Counter(), netlink.Accept()}},
		{chain, []netlink.Expr{netlink.OIfPrefix(linkPrefix), netlink.Counter(), netlink.Accept()}},
	}
}

// inputExceptions let containers ask the DNS forwarder at the gateway's address.
func inputExceptions(gateway netip.Addr) []foreignRule {
	var rules []foreignRule
	for _, proto := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		rules = append(rules, foreignRule{"INPUT", []netlink.Expr{
			netlink.IIfPrefix(linkPrefix), netlink.Dest(netip.PrefixFrom(gateway, 32)),
			netlink.L4Proto(proto), netlink.DPort(53), netlink.Counter(), netlink.Accept(),
		}})
	}
	return rules
}
