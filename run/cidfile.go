package run

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// writeCIDFile writes a container's id to a file, which must be new.
func writeCIDFile(name, id string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("cidfile %s: file exists", name)
	}
	if err != nil {
		return fmt.Errorf("cidfile: %w", err)
	}
	_, err = f.WriteString(id)
	if errClose := f.Close(); err == nil {
		err = errClose
	}
	if err != nil {
		os.Remove(name)
		return fmt.Errorf("cidfile: %w", err)
	}
	return nil
}
