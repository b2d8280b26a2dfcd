//go:build amd64 || arm64

package tap

// cloneHere is clone(2) for a child that goes on with the caller's stack
// (CLONE_VM|CLONE_VFORK): the caller must call nothing else in between, and the child not
// return from it.
func cloneHere(flags uintptr) (pid, errno uintptr)
