package dns

import (
	"bytes"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"skiff/internal/smallfile"
)

// A Config is what a resolv.conf says. Source: resolv.conf(5).
type Config struct {
	Servers []netip.Addr // at most 3 (MAXNS); a zone stays with its address
	Search  []string     // "domain" counts as a list of one; the last line wins
	Options []string
}

// maxServers is glibc's MAXNS; it ignores further ones.
const maxServers = 3

// Parse reads a resolv.conf. Lines it does not understand are passed over, as
// resolvers do. Without any server the local host is asked, as resolv.conf(5)
// has it.
func Parse(text string) Config {
	var c Config
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 2 || strings.HasPrefix(words[0], "#") || strings.HasPrefix(words[0], ";") {
			continue
		}
		switch words[0] {
		case "nameserver":
			a, err := netip.ParseAddr(words[1])
			if err == nil && len(c.Servers) < maxServers {
				c.Servers = append(c.Servers, a)
			}
		case "search", "domain":
			c.Search = words[1:]
		case "options":
			c.Options = append(c.Options, words[1:]...)
		}
	}
	if len(c.Servers) == 0 {
		c.Servers = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	}
	return c
}

// Direct reports whether a container with IPv4 only, and without a way to the
// host's loopback and link-local networks, can ask all servers by itself.
// Clouds have name servers at 169.254.0.0/16, stubs listen on 127.0.0.53.
func (c Config) Direct() bool {
	for _, a := range c.Servers {
		a = a.Unmap()
		if !a.Is4() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsUnspecified() {
			return false
		}
	}
	return true
}

// Text is the resolv.conf of a container that asks servers.
func (c Config) Text(servers []string) string {
	var b strings.Builder
	if len(c.Search) > 0 {
		b.WriteString("search " + strings.Join(c.Search, " ") + "\n")
	}
	for _, a := range servers {
		b.WriteString("nameserver " + a + "\n")
	}
	if len(c.Options) > 0 {
		b.WriteString("options " + strings.Join(c.Options, " ") + "\n")
	}
	return b.String()
}

// Upstreams are whom a Forwarder asks.
type Upstreams struct {
	Servers  []netip.AddrPort // in order of preference
	Timeout  time.Duration    // for one of them
	Attempts int              // times that the list is gone through
	Rotate   bool             // each query begins with the next server
}

// Defaults and bounds of resolv.conf(5): RES_TIMEOUT, RES_MAXRETRANS,
// RES_DFLRETRY, RES_MAXRETRY.
const (
	defaultTimeout  = 5 // seconds
	mostTimeout     = 30
	defaultAttempts = 2
	mostAttempts    = 5
)

// Upstreams are the servers at port 53, asked as the options have it.
func (c Config) Upstreams() Upstreams {
	u := Upstreams{Timeout: defaultTimeout * time.Second, Attempts: defaultAttempts}
	for _, o := range c.Options {
		key, value, _ := strings.Cut(o, ":")
		n, err := strconv.Atoi(value)
		switch {
		case o == "rotate":
			u.Rotate = true
		case key == "timeout" && err == nil && n > 0:
			u.Timeout = time.Duration(min(n, mostTimeout)) * time.Second
		case key == "attempts" && err == nil && n > 0:
			u.Attempts = min(n, mostAttempts)
		}
	}
	for _, a := range c.Servers {
		u.Servers = append(u.Servers, netip.AddrPortFrom(a, 53))
	}
	return u
}

// A File is a resolv.conf that is read again when it changes, so that a
// container notices the host's move to another network or VPN.
type File struct {
	path string

	mu     sync.Mutex
	seen   stamp
	config Config
}

type stamp struct {
	dev, ino uint64
	size     int64
	mtime    syscall.Timespec
}

// maxSize bounds what is read of a resolv.conf, bytes.
const maxSize = 64 << 10

// readHead reads a file of that size, the first whole lines of a larger one than
// is read at most.
func readHead(path string, size int64) ([]byte, error) {
	if size <= maxSize {
		return smallfile.Read(path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text := make([]byte, maxSize)
	n, err := io.ReadFull(f, text)
	return text[:bytes.LastIndexByte(text[:n], '\n')+1], err
}

// Open returns the file at path, which need not exist: then the local host is
// asked, as resolv.conf(5) has it.
func Open(path string) *File { return &File{path: path} }

// Config returns what the file says now. It costs one stat while nothing
// changes. A file that cannot be read leaves the last answer standing.
func (f *File) Config() Config {
	f.mu.Lock()
	defer f.mu.Unlock()
	var st syscall.Stat_t
	err := syscall.Stat(f.path, &st)
	now := stamp{uint64(st.Dev), st.Ino, st.Size, st.Mtim}
	if err == nil && now == f.seen {
		return f.config
	}
	if err == nil && st.Mode&syscall.S_IFMT == syscall.S_IFREG {
		if text, err := readHead(f.path, st.Size); err == nil {
			// A file written in this very tick of the clock may change again
			// without its stamp changing: read it next time too.
			if time.Since(time.Unix(st.Mtim.Unix())) > time.Second {
				f.seen = now
			}
			f.config = Parse(string(text))
		}
	}
	if len(f.config.Servers) == 0 {
		f.config = Parse("")
	}
	return f.config
}

// Upstreams are the file's servers at port 53, for New.
func (f *File) Upstreams() Upstreams { return f.Config().Upstreams() }
