//go:build amd64 || arm64

package plan

// cloneRun is clone3(2) with the executor as the child's program. It returns
// the child's pid or minus an errno.
//
//go:noescape
func cloneRun(args *cloneArgs, size uintptr, h *header) (pid uintptr)
