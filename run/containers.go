package run

import (
	"skiff/run/state"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Containers are the containers of the runner's store.
func (r *Runner) Containers() state.Dir { return state.Open(r.Store.Root()) }

// Remove removes a stopped container by name or id. The error wraps
// state.ErrAbsent or state.ErrRunning.
func (r *Runner) Remove(name string) error {
	c, err := r.Containers().Find(name)
	if err != nil {
		return err
	}
	h, err := r.Containers().Take(c.Container)
	if err != nil {
		return err
	}
	return r.discard(h)
}

// InUse are the layers of all containers, running or stopped, and of the images
// that are mounted. It is a store.InUse.
func (r *Runner) InUse() (map[v1.Hash]bool, error) {
	all, err := r.Containers().List()
	if err != nil {
		return nil, err
	}
	used := map[v1.Hash]bool{}
	for _, c := range all {
		for _, d := range c.Layers {
			if h, err := v1.NewHash(d); err == nil {
				used[h] = true
			}
		}
	}
	for _, m := range r.MountedImages() {
		for _, h := range m.layers() {
			used[h] = true
		}
	}
	return used, nil
}
