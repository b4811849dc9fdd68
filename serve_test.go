package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// serve NAME [KEY=VALUE...] is another way to the images of $REGISTRY; $NAME is
// its host and port, and NAME/ has its files.
//
//	tls=yes         https; NAME/ca.crt is its authority, also valid for example.com
//	client=yes      only for who shows NAME/client.cert and .key
//	login=USER:PASS by Basic
//	token=USER:PASS by a token; each is good for ten requests
//	status=N        every answer, with Retry-After: 3600
//	header=VALUE    only for requests whose X-Key is that
func serve(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: serve NAME [KEY=VALUE...]")
	}
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o755))
	inner := http.Handler(ts.Value(registryKey{}).(*slowRegistry))
	s := httptest.NewUnstartedServer(nil)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure := false
	for _, a := range args[1:] {
		key, value, _ := strings.Cut(a, "=")
		switch key {
		case "tls":
			secure = true
		case "client":
			secure = true
			s.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clientCertificate(ts, dir)}
		case "login":
			inner = basic(inner, value)
		case "token":
			inner = tokens(inner, value)
		case "status":
			inner = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Retry-After", "3600")
				var n int
				fmt.Sscan(value, &n)
				w.WriteHeader(n)
			})
		case "header":
			next := inner
			inner = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("X-Key") != value {
					w.WriteHeader(http.StatusForbidden)
					return
				}
				next.ServeHTTP(w, r)
			})
		default:
			ts.Fatalf("serve: unknown key %q", key)
		}
	}
	s.Config.Handler = inner
	if secure {
		s.StartTLS()
		ts.Check(os.WriteFile(filepath.Join(dir, "ca.crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o644))
	} else {
		s.Start()
	}
	ts.Defer(func() {
		s.CloseClientConnections()
		s.Close()
	})
	ts.Setenv(args[0], s.Listener.Addr().String())
}

// clientCertificate makes one in a directory, and the pool that knows it.
func clientCertificate(ts *testscript.TestScript, dir string) *x509.CertPool {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "client"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	ts.Check(err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	ts.Check(err)
	ts.Check(os.WriteFile(filepath.Join(dir, "client.cert"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644))
	ts.Check(os.WriteFile(filepath.Join(dir, "client.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
	pool := x509.NewCertPool()
	c, err = x509.ParseCertificate(der)
	ts.Check(err)
	pool.AddCert(c)
	return pool
}

func basic(next http.Handler, login string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user+":"+password != login {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// tokens wants a token, which it gives at /token and which wears out.
func tokens(next http.Handler, login string) http.Handler {
	var given, used atomic.Int32
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			if user, password, _ := r.BasicAuth(); user+":"+password != login {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			used.Store(0)
			json.NewEncoder(w).Encode(map[string]string{"token": fmt.Sprint("t", given.Add(1))})
			return
		}
		if r.Header.Get("Authorization") != fmt.Sprint("Bearer t", given.Load()) || given.Load() == 0 || used.Add(1) > 10 {
			scheme := "http"
			if r.TLS != nil {
				scheme = "https"
			}
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s://%s/token",service="test"`, scheme, r.Host))
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// proxy NAME USER:PASS TARGET is a proxy that leads everybody to the host and port
// TARGET. $NAME is its URL, with the login; NAME.log has a line for each request.
func proxy(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: proxy NAME USER:PASS TARGET")
	}
	logged, err := os.Create(ts.MkAbs(args[0] + ".log"))
	ts.Check(err)
	target := args[2]
	plain := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", target }}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(logged, r.Method, r.Host)
		from := &http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}
		if user, password, _ := from.BasicAuth(); user+":"+password != args[1] {
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		if r.Method != http.MethodConnect {
			plain.ServeHTTP(w, r)
			return
		}
		out, err := net.Dial("tcp", target)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		in, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			out.Close()
			return
		}
		io.WriteString(in, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { io.Copy(out, in); out.Close() }()
		io.Copy(in, out)
		in.Close()
	}))
	ts.Defer(func() {
		s.CloseClientConnections()
		s.Close()
		logged.Close()
	})
	ts.Setenv(args[0], "http://"+args[1]+"@"+s.Listener.Addr().String())
}
