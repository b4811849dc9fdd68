package relay

import (
	"context"
	"net/netip"
	"runtime"

	"skiff/netns/ports"

	"golang.org/x/sys/unix"
)

// Forward serves published ports where the container is reached from the calling
// thread's network namespace, as in root's network: no R is made. The sockets stay
// the caller's, and open until the relay is closed or the process ends. The container sees
// gateway, which is the host's address on the way to it.
func Forward(ctx context.Context, gateway, to netip.Addr, sockets []ports.Socket, log func(string)) (*Relay, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r := &Relay{address: netip.PrefixFrom(to, to.BitLen()), gateway: gateway, log: log}
	r.limit(len(sockets))
	l, err := newLoop(r)
	if err != nil {
		return nil, err
	}
	r.first = l
	if err := l.enter(nil, sockets); err != nil {
		unix.Close(l.epoll)
		return nil, err
	}
	if r.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		unix.Close(l.epoll)
		return nil, &Error{Step: "eventfd", Err: err}
	}
	l.watch(r.wake, waker{}, unix.EPOLLIN)
	r.done.Add(1)
	go func() {
		defer r.done.Done()
		runtime.LockOSThread()
		l.run()
		if r.second != nil {
			r.second.inbox.wake()
		}
	}()
	return r, nil
}

// A waker lets Close end a loop that may watch nothing else.
type waker struct{}

func (waker) event(*loop, uint32) {}
