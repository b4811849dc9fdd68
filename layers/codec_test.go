package layers_test

import (
	"skiff/layers"
	"skiff/layers/codec"
)

func init() { layers.Decompress = codec.Decompress }
