package store

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"skiff/internal/need"
)

func refs(t *testing.T, s *Store) []string {
	t.Helper()
	list, err := s.Images()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, i := range list {
		names = append(names, i.Reference)
	}
	return names
}

func TestTag(t *testing.T) {
	s := open(t)
	commit(t, s, hash(1))
	i := put(t, s, "h/a:1", hash(1))
	if err := s.Tag(i, "h/b:1"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"h/a:1", "h/b:1"} {
		if err := s.Untag(name); err != nil {
			t.Fatal(err)
		}
	}
	if got := refs(t, s); !slices.Equal(got, []string{i.ID.String()}) {
		t.Fatalf("without its names the image is %v", got)
	}
	nameless, err := s.Image(i.ID.String())
	if err != nil || !nameless.Nameless() || nameless.Repository() != "" {
		t.Fatalf("%+v, %v", nameless, err)
	}
	// Nothing takes its layer, and a name takes the place of none.
	if _, err := s.Collect(context.Background(), nil, 0); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.HasLayer(hash(1)); !ok {
		t.Error("the layer of an image without a name is gone")
	}
	if err := s.Tag(nameless, "h/c:1"); err != nil {
		t.Fatal(err)
	}
	if got := refs(t, s); !slices.Equal(got, []string{"h/c:1"}) {
		t.Errorf("named again it is %v", got)
	}
	// What went meanwhile gets no name.
	var absent *AbsentError
	if err := s.Tag(i, "h/d:1"); !errors.As(err, &absent) {
		t.Errorf("tag of an image that is gone: %v", err)
	}
	if got := refs(t, s); len(got) != 1 {
		t.Errorf("it left %v", got)
	}
}

func TestRepository(t *testing.T) {
	for ref, want := range map[string]string{
		"docker.io/library/a:1": "docker.io/library/a", "h:5000/a:1": "h:5000/a", "h:5000/a@sha256:" + hash(1).Hex: "h:5000/a", "builtin:hello": "builtin",
	} {
		if got := (&Image{Reference: ref}).Repository(); got != want {
			t.Errorf("%s: %s, want %s", ref, got, want)
		}
	}
}

func TestUsed(t *testing.T) {
	s := open(t)
	i := put(t, s, "h/a:1")
	path := s.Path(imagePath(i.Reference))
	for _, c := range []struct {
		age     time.Duration
		touched bool
	}{{time.Hour, false}, {25 * time.Hour, true}} {
		then := time.Now().Add(-c.age)
		if err := os.Chtimes(path, then, then); err != nil {
			t.Fatal(err)
		}
		s.Used(i)
		if touched := time.Since(s.LastUsed(i)) < time.Minute; touched != c.touched {
			t.Errorf("used after %v: touched is %v", c.age, touched)
		}
	}
	if !s.LastUsed(&Image{Reference: "h/no:1"}).IsZero() {
		t.Error("an image that is not here was used")
	}
}

func TestUsage(t *testing.T) {
	need.That(t, "du", func() error { _, err := exec.LookPath("du"); return err }())
	s := open(t)
	commit(t, s, hash(1))
	put(t, s, "h/a:1", hash(1))
	dir := s.LayerDir(hash(1))
	if err := os.WriteFile(dir+"/big", make([]byte, 100000), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, link := range []string{dir + "/link", s.Path("containers", "link")} {
		if err := os.Link(dir+"/big", link); err != nil {
			t.Fatal(err)
		}
	}
	u, err := s.Usage()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("du", "-s", "--block-size=1", s.Root()).Output()
	if err != nil {
		t.Fatal(err)
	}
	want, _ := strconv.ParseInt(strings.Fields(string(out))[0], 10, 64)
	var sum int64
	for _, n := range u.At {
		sum += n
	}
	if u.Total != want || sum != want || u.Unread != 0 {
		t.Errorf("total %d, sum %d, du %d", u.Total, sum, want)
	}
	if n := u.At["layers/"+hash(1).Hex] + u.At["containers/link"]; n < 100000 || n > 150000 {
		t.Errorf("a file with three links is counted as %d bytes", n)
	}
}

func TestEvict(t *testing.T) {
	day := 24 * time.Hour
	now := time.Unix(1e9, 0)
	img := func(ref string, id int, layers ...int) *Image {
		i := &Image{Reference: ref, ID: hash(id)}
		for _, l := range layers {
			i.DiffIDs = append(i.DiffIDs, hash(l))
		}
		return i
	}
	images := []*Image{img("a", 1, 10, 11), img("b", 2, 10, 12), img("b2", 2, 10, 12), img("c", 3, 13)}
	last := map[string]time.Duration{"a": 3 * day, "b": 9 * day, "b2": 2 * day, "c": 5 * day}
	u := &Usage{At: map[string]int64{"containers/x": 1000}}
	for _, l := range []int{10, 11, 12, 13} {
		u.At["layers/"+hash(l).Hex] = 100
	}
	for _, c := range []struct {
		q    Quota
		keep string
		want string
	}{
		{Quota{}, "", ""},
		{Quota{MaxSize: 400}, "", ""},
		{Quota{MaxSize: 399}, "", "c"},
		{Quota{MaxSize: 200}, "", "c a"},
		{Quota{MaxSize: 199}, "", "c a b b2"},
		{Quota{MaxSize: 1}, "b2", "c a"},
		{Quota{MaxIdle: 3 * day}, "", "c a"},
		{Quota{MaxIdle: 3 * day}, "c", "a"},
		{Quota{MaxIdle: 4 * day, MaxSize: 250}, "", "c a"},
	} {
		gone := Evict(images, func(i *Image) time.Time { return now.Add(-last[i.Reference]) },
			func(i *Image) bool { return i.Reference == c.keep }, u, c.q, now)
		var names []string
		for _, i := range gone {
			names = append(names, i.Reference)
		}
		if got := strings.Join(names, " "); got != c.want {
			t.Errorf("%+v, keep %q: %q, want %q", c.q, c.keep, got, c.want)
		}
	}
}

func TestParts(t *testing.T) {
	i := &Image{Reference: "a", ID: hash(1), Manifest: hash(2), Digest: hash(2), IDs: Single, DiffIDs: []v1.Hash{hash(3), hash(3)}}
	want := []string{"images/a", "blobs/sha256/" + hash(2).Hex, "blobs/sha256/" + hash(1).Hex, "layers/" + hash(3).Hex + "-single"}
	if got := i.Parts(); !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

// A name that is given while another one is removed either has its layers or is refused.
func TestTagBesideRemove(t *testing.T) {
	s := open(t)
	other, err := Open(s.Root())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	tagged := 0
	for round := range 200 {
		commit(t, s, hash(1))
		i := put(t, s, "h/a:1", hash(1))
		done := make(chan error)
		go func() {
			if round%2 == 0 {
				time.Sleep(time.Duration(round) * time.Microsecond)
			}
			_, err := other.RemoveImage(context.Background(), "h/a:1", nil)
			done <- err
		}()
		err := s.Tag(i, "h/b:1")
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		var absent *AbsentError
		switch _, have := s.HasLayer(hash(1)); {
		case err == nil && !have:
			t.Fatalf("round %d: the name has no layer", round)
		case err == nil:
			tagged++
			if _, err := s.RemoveImage(context.Background(), "h/b:1", nil); err != nil {
				t.Fatal(err)
			}
		case !errors.As(err, &absent):
			t.Fatal(err)
		}
		if err := s.Sweep(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d of 200 came in time", tagged)
}

// Who takes an image's last names at once leaves it without a name, and does not
// leave it to the name that another takes.
func TestUntagAtOnce(t *testing.T) {
	s := open(t)
	commit(t, s, hash(1))
	for round := range 20 {
		i := put(t, s, "h/a:0", hash(1))
		names := []string{i.Reference}
		for n := range 7 {
			names = append(names, "h/a:"+strconv.Itoa(n+1))
			if err := s.Tag(i, names[n+1]); err != nil {
				t.Fatal(err)
			}
		}
		var all sync.WaitGroup
		begin := make(chan struct{})
		for _, name := range names {
			all.Go(func() {
				<-begin
				if err := s.Untag(name); err != nil {
					t.Error(err)
				}
			})
		}
		close(begin)
		all.Wait()
		if got := refs(t, s); !slices.Equal(got, []string{i.ID.String()}) {
			t.Fatalf("round %d: without its names the image is %v", round, got)
		}
		if err := s.unlinkImage(i.ID.String()); err != nil {
			t.Fatal(err)
		}
	}
}

// Who gives an image without a name one, and then removes the record of its id, takes its turn too: the name
// could be taken away in between.
func TestTagTakesItsTurn(t *testing.T) {
	s := open(t)
	commit(t, s, hash(1))
	i := put(t, s, "h/a:1", hash(1))
	if err := s.Untag("h/a:1"); err != nil {
		t.Fatal(err)
	}
	nameless, err := s.Image(i.ID.String())
	if err != nil {
		t.Fatal(err)
	}
	l, err := s.lockNames()
	if err != nil {
		t.Fatal(err)
	}
	waits := make(chan string, 1)
	s.Waiting = func(what string) { waits <- what }
	done := make(chan error, 1)
	go func() { done <- s.Tag(nameless, "h/b:1") }()
	select {
	case <-waits:
	case err := <-done:
		t.Fatalf("it has not waited: %v", err)
	}
	if got := refs(t, s); !slices.Equal(got, []string{i.ID.String()}) {
		t.Errorf("while another has its turn there are %v", got)
	}
	l.unlock()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := refs(t, s); !slices.Equal(got, []string{"h/b:1"}) {
		t.Errorf("after its turn there are %v", got)
	}
}
