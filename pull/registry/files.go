package registry

import (
	"skiff/pull/auth"
	"skiff/pull/registry/hosts"
)

// ConfigFiles are the files of this user and machine about registries that
// there are: credentials first, then what tells how registries are reached.
func ConfigFiles() []string {
	return append(new(auth.Finder).Files(), new(hosts.Finder).Files()...)
}
