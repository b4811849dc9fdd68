package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"time"

	"skiff/testdata/image"

	"github.com/google/go-containerregistry/pkg/registry"
)

// pullServer is the verb of the process that has the images and serves them: what
// it holds in memory must not be inherited by those that are measured.
const pullServer = "pull-server"

// A served image is one that a registry on loopback has.
type served struct {
	Name      string
	Reference string
	Blobs     []string // URLs of the layers
	Packed    int64    // bytes of the blobs
	Size      int64    // bytes of the archives in them
	Zstd      bool
	Last      string // URL of when the last byte of a slow layer was sent, in nanoseconds since 1970; or ""
}

// startRegistry starts the process and waits until its images are made. end stops
// it.
func startRegistry() (images []served, end func(), err error) {
	cmd := exec.Command("/proc/self/exe", pullServer)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	end = func() {
		in.Close()
		cmd.Wait()
	}
	if err := json.NewDecoder(out).Decode(&images); err != nil {
		end()
		return nil, nil, fmt.Errorf("images for pulls: %w", err)
	}
	return images, end, nil
}

// pullServerMain is the life of that process; in any other it returns at once. It
// says what it has on stdout and ends with stdin.
func pullServerMain() {
	if len(os.Args) != 2 || os.Args[1] != pullServer {
		return
	}
	if err := servePulls(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func servePulls() error {
	images, err := larges()
	if err != nil {
		return err
	}
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	var last atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == lastPath {
			fmt.Fprint(w, last.Load())
			return
		}
		handler.ServeHTTP(w, r)
	}))
	defer server.Close()
	slow := httptest.NewUnstartedServer(handler)
	slow.Listener = &slowListener{slow.Listener, &last}
	slow.Start()
	defer slow.Close()
	var list []served
	for i, l := range images {
		s := served{
			Name: l.name, Size: l.size, Zstd: l.layers[0].Packing == image.Zstd,
			Reference: fmt.Sprintf("%s/bench:%d", strings.TrimPrefix(server.URL, "http://"), i),
		}
		img, err := l.image()
		if err != nil {
			return err
		}
		if err := push(s.Reference, img); err != nil {
			return err
		}
		layers, err := img.Layers()
		if err != nil {
			return err
		}
		for _, l := range layers {
			digest, err := l.Digest()
			if err != nil {
				return err
			}
			n, err := l.Size()
			if err != nil {
				return err
			}
			s.Packed += n
			s.Blobs = append(s.Blobs, server.URL+"/v2/bench/blobs/"+digest.String())
		}
		list = append(list, s)
		if l.name == oneLayer {
			// The same again, as from a network that gives each connection its share.
			s.Name += fmt.Sprintf(", %d MB/s for each connection", slowRate>>20)
			s.Reference = strings.Replace(s.Reference, server.URL[len("http://"):], slow.URL[len("http://"):], 1)
			s.Blobs = []string{strings.Replace(s.Blobs[0], server.URL, slow.URL, 1)}
			s.Last = server.URL + lastPath
			list = append(list, s)
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(list); err != nil {
		return err
	}
	io.Copy(io.Discard, os.Stdin)
	return nil
}

// slowRate is what a slow connection sends, in bytes a second.
const slowRate = 30 << 20

const lastPath = "/last"

// A slowListener's connections are slow.
type slowListener struct {
	net.Listener
	last *atomic.Int64 // when one of them was given something, in nanoseconds since 1970
}

func (l *slowListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &slowConn{Conn: c, last: l.last}, nil
}

type slowConn struct {
	net.Conn
	last *atomic.Int64
	free time.Time // when what has been sent would be through
}

// Write sends a little and waits until it would have been sent.
func (c *slowConn) Write(b []byte) (sent int, err error) {
	for sent < len(b) && err == nil {
		if now := time.Now(); c.free.Before(now) {
			c.free = now
		}
		var n int
		n, err = c.Conn.Write(b[sent:min(len(b), sent+64<<10)])
		sent += n
		c.last.Store(time.Now().UnixNano())
		c.free = c.free.Add(time.Duration(n) * time.Second / slowRate)
		time.Sleep(time.Until(c.free))
	}
	return sent, err
}
