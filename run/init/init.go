// Package init is the process 1 of `skiff run --init`, as a program for the
// machine's architecture. It is C without a library, for it must be small, and
// must be started in a container that may hold nothing else.
//
// Limits: it knows of one program, and ends with it; what else runs then ends
// too (pid_namespaces(7)).
package init

//go:generate ./source/build

// Program is a static ELF executable: init PROGRAM [ARG...].
var Program = program
