package late_test

import (
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"

	"skiff/internal/need"
	"skiff/testdata/image"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// The program as it is released, unlike test binaries, initialises late what a
// pull needs: TLS, HTTP, credentials, decompressors.
func TestPull(t *testing.T) {
	need.Userns(t)
	skiff := build(t)
	plain := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer plain.Close()
	secure := httptest.NewTLSServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer secure.Close()
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)

	at := strings.TrimPrefix(plain.URL, "http://") + "/packed:1"
	img, err := image.New(nil,
		image.Layer{Packing: image.Gzip, Entries: []image.Entry{image.File("a", "a")}},
		image.Layer{Packing: image.Zstd, Entries: []image.Entry{image.File("b", "b")}})
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(at, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	run := func(args ...string) (string, error) {
		c := exec.Command(skiff, args...)
		c.Env = []string{"HOME=" + home, "SKIFF_ROOT=" + home + "/store", "PATH=" + os.Getenv("PATH")}
		out, err := c.CombinedOutput()
		return string(out), err
	}
	if out, err := run("pull", at); err != nil {
		t.Fatalf("pull: %v\n%s", err, out)
	}
	out, err := run("pull", strings.TrimPrefix(secure.URL, "https://")+"/packed:1")
	if err == nil || !strings.Contains(out, "certificate") {
		t.Errorf("pull from a registry with a certificate of its own: %v\n%s", err, out)
	}
}
