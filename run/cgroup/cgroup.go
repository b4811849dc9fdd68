// Package cgroup gives a container a control group of its own, in version 2 of
// the hierarchy and below the caller's own group, where the caller may make one.
//
// A group below one that holds processes has no controllers ("no internal
// processes"): it serves to tell and to kill what belongs to the container.
// Where the group above distributes them, the number of processes is limited.
//
// Limits: on hosts with version 1, or both, and without a delegated subtree the
// container stays in the caller's group; nothing else is tried. The names of
// groups come from ids that the caller has checked.
package cgroup

// DefaultPids is how many tasks a container may have where they can be counted.
const DefaultPids = 4096
