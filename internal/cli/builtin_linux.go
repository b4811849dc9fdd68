package cli

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"skiff/layers"
	"skiff/pull/store"
	"skiff/run"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// helloReference names the image that is made of skiff itself: one layer that
// holds the executable. It proves that a machine can run containers, with no
// registry and no network.
const helloReference = "builtin:hello"

// helloImage finds or makes the image of this very executable.
func helloImage(ctx context.Context, st *store.Store) (*store.Image, error) {
	exe, err := os.Open("/proc/self/exe")
	if err != nil {
		return nil, err
	}
	defer exe.Close()
	info, err := exe.Stat()
	if err != nil {
		return nil, err
	}
	header := &tar.Header{Name: "skiff", Mode: 0o755, Size: info.Size(), Typeflag: tar.TypeReg, ModTime: time.Unix(0, 0)}
	hash := sha256.New()
	if err := writeTar(hash, header, exe); err != nil {
		return nil, err
	}
	diffID := v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(hash.Sum(nil))}
	img := &store.Image{
		Reference: helloReference, ID: diffID, OS: "linux", Arch: runtime.GOARCH, IDs: st.IDs,
		Size: info.Size(), Pulled: time.Now(), DiffIDs: []v1.Hash{diffID},
		Config: store.Config{Entrypoint: []string{"/skiff"}, Cmd: []string{helloName}, WorkingDir: "/"},
	}
	_, ok := st.HasLayer(diffID)
	old, err := st.Image(helloReference)
	if ok && err == nil && old.ID == img.ID && old.IDs == img.IDs {
		return img, nil
	}
	// As a pull does: no collector takes the layer before the image names it.
	claim, err := st.Claim(img.DiffIDs)
	if err != nil {
		return nil, err
	}
	defer claim.Release()
	if _, ok := st.HasLayer(diffID); !ok {
		if err := helloLayer(ctx, st, diffID, header, exe); err != nil {
			return nil, err
		}
	}
	img.Account = run.AccountOf(st, img)
	return img, st.PutImage(img)
}

func writeTar(w io.Writer, header *tar.Header, exe io.ReadSeeker) error {
	if _, err := exe.Seek(0, io.SeekStart); err != nil {
		return err
	}
	t := tar.NewWriter(w)
	if err := t.WriteHeader(header); err != nil {
		return err
	}
	if _, err := io.Copy(t, exe); err != nil {
		return err
	}
	return t.Close()
}

// helloLayer publishes the layer by the store's rules. The archive is our own, so that
// it is unpacked right here.
func helloLayer(ctx context.Context, st *store.Store, diffID v1.Hash, header *tar.Header, exe *os.File) error {
	stage, err := st.StageLayer(ctx, diffID)
	if err != nil || stage == nil {
		return err
	}
	defer stage.Abort()
	dir, err := os.Open(stage.Dir())
	if err != nil {
		return st.Explain("open", stage.Dir(), err)
	}
	defer dir.Close()
	split, err := os.OpenFile(filepath.Join(stage.Dir(), "..", store.Split), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return st.Explain("create", stage.Dir(), err)
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(writeTar(w, header, exe)) }()
	result, err := layers.Apply(dir, r, layers.Options{Squash: true, Split: split})
	r.Close()
	if err = errors.Join(err, split.Close()); err != nil {
		return st.Explain("write layer", stage.Dir(), err)
	}
	if result.DiffID != diffID {
		return errors.New("skiff's executable changed while it was read")
	}
	if err := stage.Commit(store.LayerRecord{Size: result.Size, Entries: result.Entries}); err != nil {
		return fmt.Errorf("publish layer: %w", err)
	}
	return st.Settle(ctx)
}
