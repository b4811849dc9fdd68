package hosts

import "path/filepath"

// Files are the files and directories that Find would look into and that there
// are, in no order of precedence.
func (f *Finder) Files() (list []string) {
	add := func(paths ...string) {
		for _, p := range paths {
			if exists(p) {
				list = append(list, p)
			}
		}
	}
	if given := f.env("CONTAINERS_REGISTRIES_CONF"); given != "" {
		add(given)
	} else if user := filepath.Join(f.config(), "containers/registries.conf"); f.config() != "" && exists(user) {
		add(user)
	} else {
		add(filepath.Join(f.etc(), "containers/registries.conf"))
	}
	for _, dir := range []string{f.etc(), f.config()} {
		if dir == "" {
			continue
		}
		more, _ := filepath.Glob(filepath.Join(escapeGlob(dir), "containers/registries.conf.d", "*.conf"))
		add(more...)
		add(filepath.Join(dir, "containerd/certs.d"))
	}
	add(f.certDirs()...)
	return list
}
