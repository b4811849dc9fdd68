// Package doctor finds out what containers on this host get, and what lifts
// what they do not get.
//
// It tries: most of it happens in small tasks, in namespaces as a container's
// init has them, made by the plan's executor. What cannot be tried without changing the
// host is read.
//
// Limits: for cold commands; package run does not know it. What is tried may be
// refused for other reasons in a container with other options. Nothing is
// changed on the host but the store, in which a directory is made and removed.
package doctor

import (
	"sync"

	"skiff/internal/idmap"
	"skiff/pull/store"
)

// A Status is how well a capability is served.
type Status string

const (
	OK      Status = "ok"
	Limited Status = "limited" // a lower rung of the ladder is used
	Missing Status = "missing"
)

// A Finding is what was found out about one capability.
type Finding struct {
	Name   string `json:"name"`
	Status Status `json:"status"`
	Uses   string `json:"uses"`           // what a run will use, or what there is
	Why    string `json:"why,omitempty"`  // it is no more than that
	Cure   string `json:"cure,omitempty"` // a command that lifts it
	Needed bool   `json:"needed"`         // `skiff run` does not work while it is missing
}

// A Host is whose capabilities are looked at.
type Host struct {
	Store *store.Store // nil: StoreErr says why there is none
	IDs   idmap.Map    // that containers get

	StoreErr error
}

// probes are in the order of what builds on what.
var probes = []struct {
	name   string
	find   func(*Host) Finding
	inside bool // needs the namespaces that userns tries
}{
	{"userns", userns, false}, {"ids", ids, true}, {"idmap", idMapped, true}, {"proc", proc, true}, {"overlay", overlay, true},
	{"store", space, false}, {"cgroup", cgroups, false}, {"seccomp", filters, false}, {"landlock", landlock, false},
	{"network", network, true}, {"bridge", bridged, false}, {"ports", ports, false}, {"ping", ping, false},
}

// Names are what can be examined, in order.
func Names() (list []string) {
	for _, p := range probes {
		list = append(list, p.name)
	}
	return list
}

// Examine looks at the capabilities that wanted is true of. What makes no
// difference to this user is left out.
//
// The calling goroutine must be locked to its thread: tasks are tied to it.
func Examine(h *Host, wanted func(name string) bool) (all []Finding) {
	first := sync.OnceValue(func() Finding { return userns(h) })
	for _, p := range probes {
		if !wanted(p.name) {
			continue
		}
		f := Finding{Status: Missing, Uses: "not tried, for want of namespaces: see userns", Needed: true}
		switch {
		case p.name == "userns":
			f = first()
		case !p.inside || first().Status != Missing:
			f = p.find(h)
		}
		if f.Status != "" {
			f.Name = p.name
			all = append(all, f)
		}
	}
	return all
}

// Works reports whether nothing is missing that `skiff run` needs.
func Works(all []Finding) bool {
	for _, f := range all {
		if f.Needed && f.Status == Missing {
			return false
		}
	}
	return true
}
