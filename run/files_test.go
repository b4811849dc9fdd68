package run

import (
	"net/netip"
	"strings"
	"testing"

	"skiff/netns/dns"
)

func TestResolvText(t *testing.T) {
	relay := Link{Gateway: netip.MustParseAddr("10.254.110.1"), DNS: []string{"10.254.110.1"}}
	long := "search " + strings.Repeat("a.example ", 300)
	for _, c := range []struct {
		name, host string
		o          Options
		link       Link
		want       string
	}{
		{"stub", "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch corp.example\n", Options{}, relay,
			"search corp.example\nnameserver 10.254.110.1\noptions edns0 trust-ad\n"},
		{"link-local", "nameserver fe80::1%eth0\n", Options{}, relay, "nameserver 10.254.110.1\n"},
		{"loopback of IPv6", "nameserver ::1\n", Options{}, relay, "nameserver 10.254.110.1\n"},
		{"missing or empty", "", Options{}, relay, "nameserver 10.254.110.1\n"},
		{"domain", "domain corp.example\n", Options{}, relay, "search corp.example\nnameserver 10.254.110.1\n"},
		{"options add up, the last search list counts", "options ndots:2\noptions rotate\nsearch a.example\nsearch b.example\n", Options{}, relay,
			"search b.example\nnameserver 10.254.110.1\noptions ndots:2 rotate\n"},
		{"long search list", long, Options{}, relay, strings.TrimSpace(long) + "\nnameserver 10.254.110.1\n"},
		{"servers of the user's", "nameserver 127.0.0.53\nsearch corp.example\n", Options{DNS: []string{"192.0.2.1", "fd00::1"}}, relay,
			"search corp.example\nnameserver 192.0.2.1\nnameserver fd00::1\n"},
		{"no search list", "search corp.example\n", Options{DNSSearch: []string{"."}}, relay, "nameserver 10.254.110.1\n"},
		{"the user's search list and options", "search corp.example\noptions rotate\n", Options{DNSSearch: []string{"a.example"}, DNSOptions: []string{"ndots:3"}}, relay,
			"search a.example\nnameserver 10.254.110.1\noptions ndots:3\n"},
		{"the host's network", "nameserver fe80::1%eth0\nnameserver 192.0.2.9\n", Options{Network: NetworkHost, DNSSearch: []string{"a.example"}}, Link{},
			"search a.example\nnameserver fe80::1%eth0\nnameserver 192.0.2.9\n"},
		{"names", "options rotate\n", Options{}, Link{DNS: []string{"10.89.0.1"}, Names: true}, "nameserver 10.89.0.1\noptions rotate ndots:0\n"},
		{"names, and dots of the user's", "options ndots:2\n", Options{}, Link{DNS: []string{"10.89.0.1"}, Names: true}, "nameserver 10.89.0.1\noptions ndots:2\n"},
	} {
		if got := resolvText(&c.o, c.link, dns.Parse(c.host)); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestHostsFile(t *testing.T) {
	link := Link{Address: netip.MustParseAddr("10.254.110.2"), Gateway: netip.MustParseAddr("10.254.110.1")}
	const local = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	for _, c := range []struct {
		name string
		o    Options
		link Link
		host string
		want string
	}{
		{"plain", Options{}, link, "box", "10.254.110.2\tbox\n10.254.110.1\thost.docker.internal host.containers.internal\n"},
		{"with a domain", Options{}, link, "box.corp.example", "10.254.110.2\tbox.corp.example box\n10.254.110.1\thost.docker.internal host.containers.internal\n"},
		{"no network", Options{Network: NetworkNone}, Link{}, "box", "127.0.1.1\tbox\n"},
		{"one name of the host's is the user's", Options{AddHosts: []Host{{"Host.docker.internal", "192.0.2.3"}}}, link, "box",
			"192.0.2.3\tHost.docker.internal\n10.254.110.2\tbox\n10.254.110.1\thost.containers.internal\n"},
		{"both are", Options{AddHosts: []Host{{"host.docker.internal", "host-gateway"}, {"host.containers.internal", "fd00::1"}}}, link, "box",
			"10.254.110.1\thost.docker.internal\nfd00::1\thost.containers.internal\n10.254.110.2\tbox\n"},
	} {
		if got := hostsFile(&c.o, c.host, c.link); got != local+c.want {
			t.Errorf("%s: %q, want %q", c.name, got, local+c.want)
		}
	}
}
