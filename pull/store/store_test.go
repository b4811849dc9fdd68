package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"skiff/internal/need"
)

func open(t testing.TB) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func hash(n int) v1.Hash { return v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%064x", n)} }

// commit publishes a layer with one file.
func commit(t testing.TB, s *Store, h v1.Hash) {
	t.Helper()
	st, err := s.StageLayer(context.Background(), h)
	if err != nil {
		t.Fatal(err)
	}
	if st == nil {
		return
	}
	if err := os.WriteFile(st.Dir()+"/file", []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := st.Commit(LayerRecord{Size: 100, Entries: 1, Owners: []byte("o")}); err != nil {
		t.Fatal(err)
	}
}

func put(t testing.TB, s *Store, ref string, layers ...v1.Hash) *Image {
	t.Helper()
	i := &Image{Reference: ref, ID: hash(1000 + len(ref)), IDs: s.IDs, DiffIDs: layers}
	if err := s.PutImage(i); err != nil {
		t.Fatal(err)
	}
	return i
}

func has(s *Store, h v1.Hash) bool { _, ok := s.HasLayer(h); return ok }

func temps(t testing.TB, s *Store) []string {
	t.Helper()
	names, err := s.names("tmp")
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestOpenModes(t *testing.T) {
	old := unix.Umask(0)
	root := filepath.Join(t.TempDir(), "b", "store")
	s, err := Open(root)
	if err == nil {
		err = s.Writable()
	}
	unix.Umask(old)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range append([]string{"."}, rooms[:]...) {
		if info, err := os.Stat(filepath.Join(root, dir)); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", dir, info.Mode(), err)
		}
	}
	if err := os.Chmod(root, 0o720); err != nil {
		t.Fatal(err)
	}
	var unsafe *UnsafeError
	if _, err := Open(root); !errors.As(err, &unsafe) || unsafe.Mode != 0o720 {
		t.Errorf("a group-writable store: %v", err)
	}
}

func TestOpenOwner(t *testing.T) {
	need.Root(t)
	root := t.TempDir()
	if err := os.Chown(root, 12345, 0); err != nil {
		t.Fatal(err)
	}
	var unsafe *UnsafeError
	if _, err := Open(root); !errors.As(err, &unsafe) || unsafe.UID != 12345 {
		t.Errorf("a store of user 12345: %v", err)
	}
}

func TestVersion(t *testing.T) {
	s := open(t)
	if err := s.Writable(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.Path("version"), []byte("2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s2, err := Open(s.Root())
	if err != nil {
		t.Fatal(err)
	}
	defer s2.Close()
	var version *VersionError
	if err := s2.PutImage(&Image{Reference: "x"}); !errors.As(err, &version) || version.Version != "2" {
		t.Errorf("written to a store of version 2: %v", err)
	}
}

// A power cut may leave the file empty: that is no newer version.
func TestEmptyVersion(t *testing.T) {
	s := open(t)
	if err := s.Writable(); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(s.Path("version"), 0); err != nil {
		t.Fatal(err)
	}
	again, err := Open(s.Root())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if err := again.Writable(); err != nil {
		t.Error(err)
	}
	if err := again.CheckVersion(); err != nil {
		t.Error(err)
	}
}

// A pull that was killed before its syncfs leaves markers; a sweep settles them.
func TestSweepSettles(t *testing.T) {
	s := open(t)
	commit(t, s, hash(1))
	claim, err := s.Claim(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Sweep(context.Background()); err != nil || !s.exists("unsynced") {
		t.Errorf("settled beside a pull, which does it itself: %v", err)
	}
	claim.Release()
	if err := s.Sweep(context.Background()); err != nil || s.exists("unsynced") || !has(s, hash(1)) {
		t.Errorf("not settled: %v", err)
	}
}

func TestLayer(t *testing.T) {
	s := open(t)
	h := hash(1)
	if has(s, h) {
		t.Fatal("a layer in an empty store")
	}
	commit(t, s, h)
	l, ok := s.HasLayer(h)
	if !ok || l.Dir != s.LayerDir(h) {
		t.Fatal(l, ok)
	}
	r, err := s.LayerRecord(h)
	if err != nil || r.DiffID != h || r.Size != 100 || r.IDs != Range {
		t.Fatal(r, err)
	}
	if b, err := os.ReadFile(filepath.Dir(l.Dir) + "/owners"); err != nil || string(b) != "o" {
		t.Fatal(string(b), err)
	}
	if st, err := s.StageLayer(context.Background(), h); st != nil || err != nil {
		t.Fatal("staged twice", err)
	}
	single := &Store{IDs: Single, root: s.root, fd: s.fd}
	if has(single, h) {
		t.Error("a layer of another kind of ids was taken")
	}
	if got := temps(t, s); len(got) != 0 {
		t.Errorf("left in tmp: %v", got)
	}
	if has(s, v1.Hash{Algorithm: "sha256", Hex: "../../etc"}) {
		t.Error("a digest that is a path")
	}
}

func TestCommitLosesRace(t *testing.T) {
	s := open(t)
	st, err := s.StageLayer(context.Background(), hash(1))
	if err != nil {
		t.Fatal(err)
	}
	// Somebody without the lock, as on a file system without flock.
	if err := os.MkdirAll(s.Path("layers", hash(1).Hex, "fs"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.Path("layers", hash(1).Hex, "layer.json"), []byte(`{}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := st.Commit(LayerRecord{}); err != nil {
		t.Fatal("to lose the race is to succeed:", err)
	}
	if b, _ := os.ReadFile(s.Path("layers", hash(1).Hex, "layer.json")); string(b) != `{}` {
		t.Error("the winner's layer was replaced")
	}
	if got := temps(t, s); len(got) != 0 {
		t.Errorf("left in tmp: %v", got)
	}
}

func TestWaitIsInterrupted(t *testing.T) {
	s := open(t)
	var told []string
	s.Waiting = func(what string) { told = append(told, what) }
	st, err := s.StageLayer(context.Background(), hash(1))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Abort()
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if _, err := s.StageLayer(ctx, hash(1)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waited: %v", err)
	}
	if len(told) != 1 {
		t.Errorf("told %q", told)
	}
}

func TestOneWriter(t *testing.T) {
	s := open(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	wrote := 0
	for range 10 {
		wg.Go(func() {
			st, err := s.StageLayer(context.Background(), hash(1))
			if err != nil {
				t.Error(err)
				return
			}
			if st == nil {
				return
			}
			mu.Lock()
			wrote++
			mu.Unlock()
			if err := st.Commit(LayerRecord{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if wrote != 1 {
		t.Errorf("%d wrote it", wrote)
	}
}

func TestSettle(t *testing.T) {
	s := open(t)
	commit(t, s, hash(1))
	if m, _ := s.names("unsynced"); len(m) != 1 || markerKey(m[0]) != hash(1).Hex {
		t.Fatalf("markers %v", m)
	}
	if err := s.Settle(context.Background()); err != nil {
		t.Fatal(err)
	}
	if s.exists("unsynced") {
		t.Error("unsynced/ stays")
	}
	commit(t, s, hash(2))
	if !has(s, hash(1)) || !has(s, hash(2)) {
		t.Error("a layer went")
	}
}

// A layer written in another boot and never synced may be full of zeros.
func TestOtherBoot(t *testing.T) {
	s := open(t)
	commit(t, s, hash(1))
	if err := s.Settle(context.Background()); err != nil {
		t.Fatal(err)
	}
	commit(t, s, hash(2))
	for _, m := range first(s.names("unsynced")) {
		if err := os.Remove(s.Path("unsynced", m)); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("another-boot", s.Path("unsynced", m)); err != nil {
			t.Fatal(err)
		}
	}
	again, err := Open(s.Root())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if has(again, hash(2)) {
		t.Error("an unsynced layer of another boot was trusted")
	}
	if !has(again, hash(1)) {
		t.Error("a synced layer was dropped")
	}
	if again.exists("unsynced") {
		t.Error("its marker stays")
	}
	if err := again.Sweep(context.Background()); err != nil {
		t.Error(err)
	}
	if got := temps(t, again); len(got) != 0 {
		t.Errorf("left in tmp: %v", got)
	}
}

func first[T any](v T, _ error) T { return v }

func TestSweep(t *testing.T) {
	s := open(t)
	dead, err := s.NewTemp("layer")
	if err != nil {
		t.Fatal(err)
	}
	deep := dead.Path()
	for i := range 300 {
		deep += fmt.Sprintf("/d%d", i)
		if err := os.Mkdir(deep, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	outside := t.TempDir()
	if err := os.WriteFile(outside+"/keep", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, make := range map[string]func(string) error{
		"link":  func(p string) error { return os.Symlink(outside, p) },
		"fifo":  func(p string) error { return unix.Mkfifo(p, 0) },
		"empty": func(p string) error { return os.WriteFile(p, nil, 0) },
		"work":  func(p string) error { return errors.Join(os.Mkdir(p, 0o700), os.Mkdir(p+"/work", 0)) },
		"full": func(p string) error {
			return errors.Join(os.Mkdir(p, 0o700), os.WriteFile(p+"/f", nil, 0), os.Chmod(p, 0))
		},
	} {
		if err := make(dead.Path() + "/" + name); err != nil {
			t.Fatal(err)
		}
	}
	live, err := s.NewTemp("pull")
	if err != nil {
		t.Fatal(err)
	}
	dead.Leave()
	if err := s.Sweep(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := temps(t, s); !slices.Equal(got, []string{live.Name()}) {
		t.Errorf("left in tmp: %v", got)
	}
	if _, err := os.Stat(outside + "/keep"); err != nil {
		t.Error("a link was followed:", err)
	}
	if err := live.Remove(); err != nil || len(temps(t, s)) != 0 {
		t.Error(err, temps(t, s))
	}
}

// The store's own walk fails on files of subordinate ids, and the hook is asked.
func TestRemoveHook(t *testing.T) {
	need.Root(t)
	s := open(t)
	d, err := s.NewTemp("layer")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(d.Path()+"/immutable", 0o700); err != nil {
		t.Fatal(err)
	}
	need.That(t, "immutable", immutable(d.Path()+"/immutable", true))
	asked := ""
	s.Remove = func(path string) error {
		asked = path
		return immutable(path+"/immutable", false)
	}
	if err := d.Remove(); err != nil || asked != d.Path() {
		t.Errorf("asked %q: %v", asked, err)
	}
}

// immutable makes removal fail with EPERM, even root's. Source: ioctl_iflags(2).
func immutable(path string, on bool) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil {
		return err
	}
	if flags &^= unix.STATX_ATTR_IMMUTABLE; on {
		flags |= unix.STATX_ATTR_IMMUTABLE
	}
	return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags)
}

func TestReadOnly(t *testing.T) {
	need.Root(t)
	s := open(t)
	commit(t, s, hash(1))
	want := put(t, s, "docker.io/library/a:latest", hash(1))
	need.That(t, "mount", unix.Mount(s.Root(), s.Root(), "", unix.MS_BIND, ""))
	defer unix.Unmount(s.Root(), unix.MNT_DETACH)
	if err := unix.Mount("", s.Root(), "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	ro, err := Open(s.Root())
	if err != nil {
		t.Fatal(err)
	}
	defer ro.Close()
	i, err := ro.Image(want.Reference)
	if err != nil || !has(ro, hash(1)) {
		t.Errorf("a read-only store must run what it has: %v, %v", i, err)
	}
	var readonly *ReadOnlyError
	if _, err := ro.StageLayer(context.Background(), hash(2)); !errors.As(err, &readonly) || !errors.Is(err, unix.EROFS) {
		t.Errorf("staged: %v", err)
	}
	if err := ro.Sweep(context.Background()); err != nil {
		t.Errorf("sweep: %v", err)
	}
}

func TestNoSpace(t *testing.T) {
	need.Root(t)
	dir := t.TempDir()
	need.That(t, "mount", unix.Mount("none", dir, "tmpfs", 0, "size=64k,nr_inodes=100,mode=0700"))
	defer unix.Unmount(dir, unix.MNT_DETACH)
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	big := make([]byte, 1<<20)
	d, err := Digest("sha256", big)
	if err != nil {
		t.Fatal(err)
	}
	var space *SpaceError
	if err := s.PutBlob(d, big); !errors.As(err, &space) || !errors.Is(err, unix.ENOSPC) || !strings.HasPrefix(space.Path, dir) {
		t.Errorf("%v", err)
	}
	if got := temps(t, s); len(got) != 0 {
		t.Errorf("left in tmp: %v", got)
	}
}

func TestCollect(t *testing.T) {
	ctx := context.Background()
	s := open(t)
	for n := 1; n <= 5; n++ {
		commit(t, s, hash(n))
	}
	put(t, s, "a", hash(1), hash(2))
	put(t, s, "bb", hash(2), hash(3))
	claim, err := s.Claim([]v1.Hash{hash(4)})
	if err != nil {
		t.Fatal(err)
	}
	inUse := func() (map[v1.Hash]bool, error) { return map[v1.Hash]bool{hash(3): true}, nil }

	r, err := s.RemoveImage(ctx, "a", inUse)
	if err != nil || !slices.Equal(r.Layers, []v1.Hash{hash(1)}) || r.Bytes != 100 {
		t.Fatalf("%+v, %v", r, err)
	}
	if _, err := s.Image("a"); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the name stays")
	}
	r, err = s.RemoveImage(ctx, "bb", inUse)
	if err != nil || !slices.Equal(r.Layers, []v1.Hash{hash(2)}) {
		t.Fatalf("a container's layer, or one of a day's grace, went: %+v, %v", r, err)
	}
	if r, err = s.Collect(ctx, inUse, 0); err != nil || !slices.Equal(r.Layers, []v1.Hash{hash(5)}) {
		t.Fatalf("%+v, %v", r, err)
	}
	claim.Release()
	if r, err = s.Collect(ctx, nil, 0); err != nil || len(r.Layers) != 2 {
		t.Fatalf("%+v, %v", r, err)
	}
	if err := s.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"tmp", "layers", "locks"} {
		if names := first(s.names(dir)); len(names) > 1 || len(names) == 1 && names[0] != "collect" {
			t.Errorf("%s: %v", dir, names)
		}
	}
}

// A run that comes between the collector's two looks keeps its layer, and one
// that looks while it is away sees that.
func TestCollectGivesBack(t *testing.T) {
	s := open(t)
	commit(t, s, hash(1))
	looks := 0
	r, err := s.Collect(context.Background(), func() (map[v1.Hash]bool, error) {
		looks++
		if looks == 1 {
			return nil, nil
		}
		if has(s, hash(1)) {
			t.Error("the second look came before the rename")
		}
		return map[v1.Hash]bool{hash(1): true}, nil
	}, 0)
	if err != nil || len(r.Layers) != 0 || looks != 2 || !has(s, hash(1)) {
		t.Errorf("%+v, %v, %d looks", r, err, looks)
	}
	if _, err := s.Collect(context.Background(), func() (map[v1.Hash]bool, error) { return nil, errors.New("unknown") }, 0); err == nil || !has(s, hash(1)) {
		t.Error("collected without knowing what is used")
	}
}

func TestImages(t *testing.T) {
	s := open(t)
	full := &Image{
		Reference: "docker.io/library/alpine:latest", Digest: hash(1), Manifest: hash(2), ID: hash(3),
		OS: "linux", Arch: "amd64", Variant: "v2", IDs: Range, Size: 12345, First: 1,
		Created: time.Date(2020, 1, 2, 3, 4, 5, 6, time.UTC), Pulled: time.Date(2021, 1, 2, 3, 4, 5, 0, time.UTC),
		DiffIDs: []v1.Hash{hash(4), hash(5), hash(4)},
		Config: Config{
			User: "1:2", WorkingDir: "/w d", StopSignal: "SIGINT",
			Env:        []string{"A=b\nc\\n\\", "B=", "C=\xff\x00"},
			Entrypoint: []string{"", "x"}, Cmd: []string{"sh", "-c", "echo\n"},
			Volumes: []string{"/v"}, ExposedPorts: []string{"80/tcp"},
			Labels: []Label{{"a=b", "c"}, {"", ""}},
		},
	}
	if err := s.PutImage(full); err != nil {
		t.Fatal(err)
	}
	got, err := s.Image(full.Reference)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(full, got); d != "" {
		t.Error(d)
	}
	long := put(t, s, "docker.io/"+strings.Repeat("x/", 120)+"y:"+strings.Repeat("t", 128), hash(1))
	if got, err := s.Image(long.Reference); err != nil || got.Reference != long.Reference {
		t.Error(got, err)
	}
	if list, err := s.Images(); err != nil || len(list) != 2 {
		t.Error(list, err)
	}
	for _, ref := range []string{"../x", ".", "..", "a/../../b"} {
		if err := s.PutImage(&Image{Reference: ref}); err != nil {
			t.Error(err)
		}
		if p := imagePath(ref); strings.Count(p, "/") != 1 || strings.HasPrefix(p, "images/.") {
			t.Errorf("%q is %q", ref, p)
		}
	}
	// What a power cut leaves.
	if err := os.Truncate(s.Path(imagePath(full.Reference)), 100); err != nil {
		t.Fatal(err)
	}
	var absent *AbsentError
	if _, err := s.Image(full.Reference); !errors.As(err, &absent) {
		t.Error(err)
	}
}

func TestImageByID(t *testing.T) {
	s := open(t)
	for n, id := range []string{"abc1", "abc2", "ffff"} {
		i := &Image{Reference: fmt.Sprint("r", n), ID: v1.Hash{Algorithm: "sha256", Hex: id + strings.Repeat("0", 60)}}
		if err := s.PutImage(i); err != nil {
			t.Fatal(err)
		}
	}
	if i, err := s.ImageByID("sha256:ff"); err != nil || i.Reference != "r2" {
		t.Error(i, err)
	}
	var ambiguous *AmbiguousError
	if _, err := s.ImageByID("abc"); !errors.As(err, &ambiguous) || len(ambiguous.IDs) != 2 {
		t.Error(err)
	}
	var absent *AbsentError
	if _, err := s.ImageByID("1"); !errors.As(err, &absent) {
		t.Error(err)
	}
	if _, err := s.ImageByID(""); !errors.As(err, &absent) {
		t.Error(err)
	}
}

func TestBlobs(t *testing.T) {
	s := open(t)
	b := []byte("hello")
	d := first(Digest("sha256", b))
	if err := s.PutBlob(hash(1), b); err == nil {
		t.Error("stored under another name")
	}
	fetched := 0
	for range 2 {
		got, err := s.BlobOnce(context.Background(), d, func(context.Context) ([]byte, error) { fetched++; return b, nil })
		if err != nil || string(got) != "hello" {
			t.Fatal(string(got), err)
		}
	}
	if fetched != 1 {
		t.Error("fetched", fetched)
	}
	if err := os.WriteFile(s.Path("blobs/sha256", d.Hex), []byte("hullo"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Blob(d); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a damaged blob was handed out:", err)
	}
}

func FuzzImage(f *testing.F) {
	b, err := (&Image{Reference: "a", DiffIDs: []v1.Hash{hash(1)}, Config: Config{Env: []string{"a\\\n"}, Labels: []Label{{"k", "v"}}}, Account: &Account{7, []uint32{8, 9}, "/"}}).MarshalText()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte("skiff image 1\nend\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var i, j Image
		if i.UnmarshalText(b) != nil {
			return
		}
		text, err := i.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		if err := j.UnmarshalText(text); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if d := cmp.Diff(i, j); d != "" {
			t.Fatal(d)
		}
	})
}

func BenchmarkWarm(b *testing.B) {
	s := open(b)
	h := hash(1)
	commit(b, s, h)
	put(b, s, "docker.io/library/alpine:latest", h, h, h)
	if err := s.Settle(context.Background()); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		s, err := Open(s.Root())
		if err != nil {
			b.Fatal(err)
		}
		if _, err := s.Image("docker.io/library/alpine:latest"); err != nil {
			b.Fatal(err)
		}
		s.Close()
	}
}

func TestFact(t *testing.T) {
	s := open(t)
	if v := s.Fact("networks/.x"); v != "" {
		t.Errorf("nothing was kept, but %q", v)
	}
	if err := s.KeepFact("networks/.x", "a b"); err != nil {
		t.Fatal(err)
	}
	if v := s.Fact("networks/.x"); v != "a b" {
		t.Errorf("kept %q", v)
	}
	if err := os.WriteFile(s.Path("networks/.x"), []byte("another-boot a b\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if v := s.Fact("networks/.x"); v != "" {
		t.Errorf("%q of another boot", v)
	}
}
