package manifest

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Config reads an image's config: the one that a manifest of n layers names,
// or any number of layers for n < 0. Every layer has a DiffID, in the same order.
func Config(raw []byte, n int) (*v1.ConfigFile, error) {
	if len(raw) > MaxConfig {
		return nil, invalid("config", fmt.Errorf("%d bytes are more than %d", len(raw), MaxConfig))
	}
	if err := strict(raw); err != nil {
		return nil, invalid("config", err)
	}
	var c v1.ConfigFile
	if err := json.Unmarshal(raw, &c); err != nil {
		return nil, invalid("config", err)
	}
	if c.RootFS.Type != "layers" && (c.RootFS.Type != "" || len(c.RootFS.DiffIDs) > 0) {
		return nil, invalid("config", fmt.Errorf("rootfs is of type %q, not layers", clean(c.RootFS.Type)))
	}
	if n >= 0 && len(c.RootFS.DiffIDs) != n {
		return nil, invalid("config", fmt.Errorf("%d diff_ids for %d layers", len(c.RootFS.DiffIDs), n))
	}
	if len(c.RootFS.DiffIDs) == 0 {
		return nil, &UnsupportedError{"the image has no layers"}
	}
	if len(c.RootFS.DiffIDs) > maxLayers {
		return nil, invalid("config", fmt.Errorf("%d layers are more than %d", len(c.RootFS.DiffIDs), maxLayers))
	}
	if slices.Contains(c.RootFS.DiffIDs, v1.Hash{}) {
		return nil, invalid("config", errors.New("an empty diff_id"))
	}
	return &c, nil
}
