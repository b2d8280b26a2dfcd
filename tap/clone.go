//go:build amd64 || arm64

package tap

// cloneHere is clone(2) for a child that continues on the caller's stack
// (CLONE_VM|CLONE_VFORK): the caller must call nothing else in between, and the child must
// not return from the caller.
func cloneHere(flags uintptr) (pid, errno uintptr)
