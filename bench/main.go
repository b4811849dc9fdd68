package main

import (
	"fmt"
	"os"
	"skiff/testdata/image"
)

func main() {
	b, _ := os.ReadFile("/bin/busybox")
	l := image.L(image.Dir("bin"), image.File("bin/busybox", string(b)).WithMode(0o755), image.Symlink("bin/sh", "busybox"), image.Symlink("bin/true", "busybox"), image.Symlink("bin/sleep", "busybox"))
	img, err := image.New(nil, l)
	if err == nil {
		err = image.WriteLayout(os.Args[1], "latest", img)
	}
	fmt.Println(err)
}
