//go:build !amd64 && !arm64

package signals

import (
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

func catch(fd int, signals []syscall.Signal) error {
	caught := make(chan os.Signal, 64)
	for _, s := range signals {
		signal.Notify(caught, s)
	}
	go func() {
		for s := range caught {
			unix.Write(fd, []byte{byte(s.(syscall.Signal))})
		}
	}()
	return nil
}
