package layers

import (
	"encoding/json"
	"fmt"
	"io"

	"skiff/internal/idmap"

	"golang.org/x/sys/unix"
)

// Parent and worker exchange JSON over a pair of SOCK_SEQPACKET sockets: first
// a setup and an answer to it, then requests, some with a descriptor, and one
// answer for each, in any order.

// A setup is the parent's first message.
type setup struct {
	IDs    idmap.Map // as the worker sees them
	Squash bool
}

// A request asks for one thing to be done below the worker's root.
type request struct {
	ID     uint64
	Remove string `json:",omitempty"` // a name to delete
	Job    *Job   `json:",omitempty"` // a layer to unpack; its blob comes from the descriptor
	Read   *Read  `json:",omitempty"` // a layer to read; its archive goes to the descriptor, if there is one
}

// An answer belongs to the request with its ID; 0 answers the setup.
type answer struct {
	ID     uint64
	Result *Result `json:",omitempty"`
	State  *State  `json:",omitempty"`
	Err    *remote `json:",omitempty"`
}

// maxMessage bounds a message. Names in errors are cut, paths are at most
// PATH_MAX long.
const maxMessage = 64 << 10

// send writes a message, with a descriptor unless fd is negative.
func send(sock int, message any, fd int) error {
	text, err := json.Marshal(message)
	if err != nil {
		return err
	}
	if len(text) > maxMessage {
		return unix.EMSGSIZE
	}
	var oob []byte
	if fd >= 0 {
		oob = unix.UnixRights(fd)
	}
	for {
		err := unix.Sendmsg(sock, text, oob, nil, unix.MSG_NOSIGNAL)
		if err != unix.EINTR {
			return err
		}
	}
}

// receive reads a message and its descriptor, -1 if it has none. The error is
// io.EOF when the other side is gone.
func receive(sock int, message any, buf []byte) (fd int, err error) {
	fd = -1
	oob := make([]byte, unix.CmsgSpace(4))
	var n, oobn, flags int
	for {
		n, oobn, flags, _, err = unix.Recvmsg(sock, buf, oob, unix.MSG_CMSG_CLOEXEC)
		if err != unix.EINTR {
			break
		}
	}
	if err == unix.ECONNRESET || err == nil && n == 0 {
		return -1, io.EOF
	}
	if err != nil {
		return -1, err
	}
	if controls, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil && len(controls) == 1 {
		if fds, err := unix.ParseUnixRights(&controls[0]); err == nil && len(fds) == 1 {
			fd = fds[0]
		}
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = unix.EMSGSIZE
	} else {
		err = json.Unmarshal(buf[:n], message)
	}
	if err != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		return -1, fmt.Errorf("receive: %w", err)
	}
	return fd, nil
}
