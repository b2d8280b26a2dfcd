package seccomp

import (
	"encoding/binary"
	"errors"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// run is what the program answers to a call.
func run(t *testing.T, f Filter, arch, call uint32, args ...uint32) uint32 {
	t.Helper()
	filter, err := f.Build()
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skipf("no filters for this processor: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	raw := make([]bpf.RawInstruction, len(filter))
	for i, in := range filter {
		raw[i] = bpf.RawInstruction{Op: in.Code, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	program, _ := bpf.Disassemble(raw)
	vm, err := bpf.NewVM(program)
	if err != nil {
		t.Fatal(err)
	}
	// The VM reads as from the network, the kernel in its own byte order.
	data := make([]byte, 64)
	binary.BigEndian.PutUint32(data[offsetCall:], call)
	binary.BigEndian.PutUint32(data[offsetArch:], arch)
	for i, a := range args {
		binary.BigEndian.PutUint32(data[offsetArgs+8*i:], a)
	}
	answer, err := vm.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(answer)
}

func TestFilter(t *testing.T) {
	f := Filter{
		Allow: []Rule{
			{Call: 1},
			{Call: 2, Args: []Arg{{Index: 0, Values: []uint32{10, 20}}, {Index: 1, Mask: 0xf, Values: []uint32{3}}}},
			{Call: 2, Args: []Arg{{Index: 0, Values: []uint32{30}}}},
			{Call: 3},
		},
		Kill:      []uintptr{4},
		Otherwise: unix.EPERM,
	}
	const (
		allow = unix.SECCOMP_RET_ALLOW
		kill  = unix.SECCOMP_RET_KILL_PROCESS
		eperm = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	)
	for _, tc := range []struct {
		name string
		call uint32
		args []uint32
		want uint32
	}{
		{"any arguments", 1, []uint32{7, 7}, allow},
		{"first value", 2, []uint32{10, 3}, allow},
		{"second value, bits outside the mask", 2, []uint32{20, 0x83}, allow},
		{"first argument differs", 2, []uint32{11, 3}, eperm},
		{"second argument differs", 2, []uint32{10, 4}, eperm},
		{"second rule", 2, []uint32{30, 4}, allow},
		{"after rules with arguments", 3, nil, allow},
		{"killed", 4, nil, kill},
		{"not listed", 5, nil, eperm},
	} {
		if got := run(t, f, auditArch, tc.call, tc.args...); got != tc.want {
			t.Errorf("%s: %#x, want %#x", tc.name, got, tc.want)
		}
	}
	if got := run(t, f, unix.AUDIT_ARCH_I386, 1); got != kill {
		t.Errorf("call of another architecture: %#x", got)
	}
	if foreign != 0 {
		if got := run(t, f, auditArch, foreign|1); got != kill {
			t.Errorf("call of another convention: %#x", got)
		}
	}
	f.Otherwise = 0
	if got := run(t, f, auditArch, 5); got != kill {
		t.Errorf("not listed, without an errno: %#x", got)
	}
}
