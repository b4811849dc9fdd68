//go:build !amd64 && !arm64

package layers

// allowedHere are calls that have other names on other architectures.
var allowedHere []uint32
