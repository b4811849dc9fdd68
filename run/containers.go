package run

import (
	"net/netip"
	"time"

	"skiff/run/networks"
	"skiff/run/state"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Containers are the containers of the runner's store.
func (r *Runner) Containers() state.Dir { return state.Open(r.Store.Root()) }

// Networks are the named networks of the runner's store.
func (r *Runner) Networks() networks.Dir { return networks.Open(r.Store.Root()) }

// CreateNetwork makes a network, with a subnet that is not in the way of the host's,
// unless n names one. avoid are addresses that must stay reachable. The error wraps networks.ErrExists.
func (r *Runner) CreateNetwork(n networks.Network, avoid []netip.Addr) (networks.Network, error) {
	if err := r.Store.Writable(); err != nil {
		return n, err
	}
	unlock, err := r.Networks().Lock()
	if err != nil {
		return n, err
	}
	defer unlock()
	if n, err = r.Networks().Place(n, avoid); err != nil {
		return n, err
	}
	n.ID, n.Created = newID(), time.Now().UTC()
	return n, r.Networks().Create(n)
}

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
