package pull_test

import (
	"skiff/pull"
	"skiff/pull/registry"
)

func init() { pull.OpenRegistry = registry.Open }
