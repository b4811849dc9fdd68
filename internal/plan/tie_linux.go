package plan

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Tie makes the kernel kill the task when the thread that started it dies, and
// ends the task if its process is dead already. A task that waits at a gate must
// be tied: nobody else would ever open it. A change of credentials undoes the
// tie, so one is due after each.
//
// self is a pidfd of the process that starts the plan: getppid(2) is 0 in a new
// pid namespace, dead or alive. Source: PR_SET_PDEATHSIG(2const), pidfd_open(2).
func (p *Plan) Tie(self int) {
	p.Call("die with parent", unix.SYS_PRCTL, Int(unix.PR_SET_PDEATHSIG), Int(unix.SIGKILL))
	pollfd := make([]byte, 8)
	binary.NativeEndian.PutUint32(pollfd, uint32(self))
	binary.NativeEndian.PutUint16(pollfd[4:], unix.POLLIN)
	p.Call("parent lives", unix.SYS_PPOLL, p.Bytes(pollfd), Int(1), p.Buffer(16), Int(0), Int(0)).Zero(unix.ESRCH)
}
