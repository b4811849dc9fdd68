package init

import _ "embed"

//go:embed init_arm64
var program string
