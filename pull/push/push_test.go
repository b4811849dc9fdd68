package push

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"skiff/pull"
	"skiff/pull/store"
)

// A liar has every blob, and says of each that it has so many bytes.
type liar struct {
	Registry
	size     int64
	uploaded int
}

func (l *liar) HasBlob(context.Context, v1.Hash) (int64, bool, error) { return l.size, true, nil }

var errUpload = errors.New("an upload")

func (l *liar) Upload(context.Context, func(io.Writer) error) (v1.Hash, int64, error) {
	l.uploaded++
	return v1.Hash{}, 0, errUpload
}

// What a registry says of a blob's size goes into no manifest: a blob of another size than
// it was sent with is sent again.
func TestSizeOfSent(t *testing.T) {
	s, err := store.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	hash := func(c string) v1.Hash { return v1.Hash{Algorithm: "sha256", Hex: strings.Repeat(c, 64)} }
	layer, sent := hash("1"), hash("2")
	st, err := s.StageLayer(context.Background(), layer)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(st.Dir()+"/file", nil, 0o644), st.Commit(store.LayerRecord{Size: 100})); err != nil {
		t.Fatal(err)
	}
	if err := s.NoteSent(layer, sent, 50); err != nil {
		t.Fatal(err)
	}
	p := &Pusher{Store: s}
	for size, uploads := range map[int64]int{50: 0, 0: 1, 49: 1, 1 << 60: 1} {
		l := &liar{size: size}
		b, err := p.layer(context.Background(), l, layer, v1.Descriptor{}, pull.Reference{Host: "q.io", Path: "a"})
		if l.uploaded != uploads || uploads == 0 && (err != nil || b != blob{sent, 50}) || uploads > 0 && !errors.Is(err, errUpload) {
			t.Errorf("said to have %d bytes: %d uploads, %v, %v", size, l.uploaded, b, err)
		}
	}
}
