package seccomp

import (
	"errors"
	"fmt"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Filter says what a process may call. Its zero value permits nothing.
type Filter struct {
	Allow []Rule
	// Kill are calls that end the process.
	Kill []uintptr
	// Otherwise is the errno that every other call returns; 0 ends the process.
	Otherwise unix.Errno
}

// Rule permits a call. Several rules for one call permit what any of them does.
type Rule struct {
	Call uintptr
	Args []Arg // all must match
}

// Arg compares an argument of a call.
type Arg struct {
	Index  int    // 0 to 5
	Mask   uint32 // of the bits to compare; 0: all
	Values []uint32
}

// Offsets within struct seccomp_data (linux/seccomp.h).
const (
	offsetCall = 0
	offsetArch = 4
	offsetArgs = 16 // 8 bytes each, little-endian on the architectures supported
)

// Build writes the program.
func (f Filter) Build() ([]unix.SockFilter, error) {
	if auditArch == 0 {
		return nil, fmt.Errorf("filter system calls on this architecture: %w", errors.ErrUnsupported)
	}
	kill := bpf.RetConstant{Val: unix.SECCOMP_RET_KILL_PROCESS}
	program := []bpf.Instruction{
		bpf.LoadAbsolute{Off: offsetArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: auditArch, SkipTrue: 1},
		kill,
		bpf.LoadAbsolute{Off: offsetCall, Size: 4},
	}
	if foreign != 0 {
		program = append(program, bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: foreign, SkipFalse: 1}, kill)
	}
	for _, r := range f.Allow {
		program = append(program, r.compile()...)
	}
	for _, call := range f.Kill {
		program = append(program, bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(call), SkipFalse: 1}, kill)
	}
	if f.Otherwise == 0 {
		program = append(program, kill)
	} else {
		program = append(program, bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(f.Otherwise)})
	}
	raw, err := bpf.Assemble(program)
	if err != nil {
		return nil, fmt.Errorf("assemble filter: %w", err)
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, in := range raw {
		filter[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	return filter, nil
}

// compile expects the number of the call to be loaded, and leaves it so for the
// rules that follow.
func (r Rule) compile() []bpf.Instruction {
	allow := bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}
	if len(r.Args) == 0 {
		return []bpf.Instruction{bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(r.Call), SkipFalse: 1}, allow}
	}
	// From the end, so that the distance to it is known.
	body := []bpf.Instruction{allow, bpf.LoadAbsolute{Off: offsetCall, Size: 4}}
	for i := len(r.Args) - 1; i >= 0; i-- {
		body = append(r.Args[i].compile(len(body)-1), body...)
	}
	skip := bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(r.Call), SkipFalse: uint8(len(body))}
	return append([]bpf.Instruction{skip}, body...)
}

// compile's instructions fall through if the argument matches, and otherwise skip further
// ones from there.
func (a Arg) compile(skip int) []bpf.Instruction {
	list := []bpf.Instruction{bpf.LoadAbsolute{Off: offsetArgs + 8*uint32(a.Index), Size: 4}}
	if a.Mask != 0 {
		list = append(list, bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: a.Mask})
	}
	for i, v := range a.Values {
		list = append(list, bpf.JumpIf{Cond: bpf.JumpEqual, Val: v, SkipTrue: uint8(len(a.Values) - i)})
	}
	return append(list, bpf.Jump{Skip: uint32(skip)})
}
