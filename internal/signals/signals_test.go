package signals

import (
	"runtime"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// All in one test: signals can be caught but once.
func TestCatch(t *testing.T) {
	fd, err := Catch(syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGTERM)
	if err != nil {
		t.Fatal(err)
	}
	one := make([]byte, 1)
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGTERM} {
		if err := unix.Kill(unix.Getpid(), s); err != nil {
			t.Fatal(err)
		}
		if n, err := syscall.Read(fd, one); n != 1 || err != nil || one[0] != byte(s) {
			t.Errorf("after %v: read %v, %d, %v", s, one, n, err)
		}
	}

	// Handlers on every thread, while goroutines move, stacks grow and the
	// collector stops the world: what they hold must stay as it was.
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if got := depth(300); got != 300 {
					t.Errorf("depth %d", got)
				}
				runtime.GC()
			}
		})
	}
	const sent = 5000
	got := 0
	buf := make([]byte, 4096)
	for range sent {
		unix.Kill(unix.Getpid(), syscall.SIGUSR1)
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, _ := unix.Poll(p, 1000); n != 1 {
			continue // cut short by the very signal, which is then read with the next
		}
		n, err := syscall.Read(fd, buf)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range buf[:n] {
			if b != byte(syscall.SIGUSR1) {
				t.Fatalf("signal %d", b)
			}
		}
		got += n
	}
	close(stop)
	wg.Wait()
	// A signal that is pending when it comes again is one.
	if got < sent/10 || got > sent {
		t.Errorf("%d of %d signals", got, sent)
	}
}

func depth(n int) int {
	if n == 0 {
		return 0
	}
	var pad [100]byte
	pad[n%100] = 1
	return depth(n-1) + int(pad[n%100])
}
