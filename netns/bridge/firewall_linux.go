package bridge

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"skiff/internal/smallfile"
	"skiff/netns/netlink"
)

// A survey is what the host's packet filters would do with containers' packets.
type survey struct {
	installed bool          // the static table is there, complete and for this subnet
	missing   []foreignRule // exceptions to make
	forward   string        // who drops forwarded packets for good, or ""
	input     string        // who drops packets to the DNS forwarder for good, or ""
	guarded   bool          // iptables' INPUT drops what is not excepted
}

// look surveys nftables. It changes nothing.
func look(nf *netlink.Conn, subnet netip.Prefix) (survey, error) {
	var s survey
	chains, err := nf.Chains(unix.NFPROTO_UNSPEC)
	if err != nil {
		return s, missingNft(err)
	}
	user := false // docker's chain for other people's rules
	var forward bool
	for _, c := range chains {
		if c.Family != netlink.FamilyIPv4 && c.Family != netlink.FamilyINet {
			continue
		}
		iptables := c.Family == netlink.FamilyIPv4 && c.Table == "filter"
		switch {
		case iptables && c.Name == "DOCKER-USER":
			user = true
		case c.Table == "firewalld":
			// It rejects at the end of a chain with an accepting policy.
			s.forward, s.input = "firewalld", "firewalld"
		case c.Type != "filter" || !c.Drop:
		case iptables && c.Name == "FORWARD":
			forward = true
		case iptables && c.Name == "INPUT":
			s.guarded = true
		case c.Hook == unix.NF_INET_FORWARD:
			s.forward = "nftables chain " + c.Table + " " + c.Name
		case c.Hook == unix.NF_INET_LOCAL_IN:
			s.input = "nftables chain " + c.Table + " " + c.Name
		}
	}
	if s.installed, err = complete(nf, chains, subnet); err != nil {
		return s, missingNft(err)
	}
	var want []foreignRule
	switch {
	case user:
		want = forwardExceptions("DOCKER-USER")
	case forward:
		want = forwardExceptions("FORWARD")
	}
	if s.guarded {
		want = append(want, inputExceptions(gatewayOf(subnet))...)
	}
	s.missing, err = absent(nf, want)
	return s, err
}

// complete reports whether the static table has all its rules with their tag.
func complete(nf *netlink.Conn, chains []netlink.ChainInfo, subnet netip.Prefix) (bool, error) {
	want := map[string]int{}
	for _, r := range staticRules(subnet) {
		want[r.chain]++
	}
	for _, c := range chains {
		if c.Family != netlink.FamilyINet || c.Table != tableName {
			continue
		}
		rules, err := nf.Rules(netlink.FamilyINet, tableName, c.Name)
		if err != nil {
			return false, err
		}
		for _, r := range rules {
			if r.Comment != tag(subnet) {
				return false, nil
			}
		}
		if len(rules) != want[c.Name] {
			return false, nil
		}
		delete(want, c.Name)
	}
	return len(want) == 0, nil
}

// absent returns those exceptions whose chain lacks them. A chain has all of
// skiff's rules or is given all of them.
func absent(nf *netlink.Conn, want []foreignRule) ([]foreignRule, error) {
	have := map[string]int{}
	wanted := map[string]int{}
	for _, r := range want {
		wanted[r.chain]++
	}
	for chain := range wanted {
		rules, err := nf.Rules(netlink.FamilyIPv4, "filter", chain)
		if err != nil {
			return nil, missingNft(err)
		}
		for _, r := range rules {
			if r.Comment == foreignTag {
				have[chain]++
			}
		}
	}
	var missing []foreignRule
	for _, r := range want {
		if have[r.chain] < wanted[r.chain] {
			missing = append(missing, r)
		}
	}
	return missing, nil
}

// makeExceptions puts rules at the heads of their chains.
func makeExceptions(nf *netlink.Conn, rules []foreignRule) error {
	tx := netlink.NewTransaction(netlink.FamilyIPv4)
	for _, r := range rules {
		tx.NewRule(netlink.Rule{Table: "filter", Chain: r.chain, Exprs: r.exprs, Comment: foreignTag, Insert: true})
	}
	return nf.Commit(tx)
}

// removeExceptions deletes skiff's rules from other programs' chains.
func removeExceptions(nf *netlink.Conn) error {
	chains, err := nf.Chains(netlink.FamilyIPv4)
	if err != nil {
		return missingNft(err)
	}
	tx := netlink.NewTransaction(netlink.FamilyIPv4)
	for _, c := range chains {
		if c.Table != "filter" || c.Name != "DOCKER-USER" && c.Name != "FORWARD" && c.Name != "INPUT" {
			continue
		}
		rules, err := nf.Rules(netlink.FamilyIPv4, c.Table, c.Name)
		if err != nil {
			return err
		}
		for _, r := range rules {
			if r.Comment == foreignTag {
				tx.DeleteRule(c.Table, c.Name, r.Handle)
			}
		}
	}
	return nf.Commit(tx)
}

// legacyFilter reports whether iptables' older kernel interface has a filter
// table. nftables cannot show what that one drops, and its chains count too.
func legacyFilter() bool {
	names, err := smallfile.Read("/proc/net/ip_tables_names")
	return err == nil && slices.Contains(strings.Fields(string(names)), "filter")
}

// missingNft names nftables in the error of a kernel that has none, or of a
// host that does not let us.
func missingNft(err error) error {
	for _, e := range []error{unix.EPERM, unix.EOPNOTSUPP, unix.EINVAL, unix.EPROTONOSUPPORT, unix.ENOENT, unix.EAFNOSUPPORT} {
		if errors.Is(err, e) {
			return &MissingError{What: "nftables", Err: err}
		}
	}
	return err
}

func blocked(by string) error { return fmt.Errorf("%w: %s drops it", ErrForwardBlocked, by) }
