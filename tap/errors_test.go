package tap

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOpError_WrapsTheErrno(t *testing.T) {
	wantError(t, fail("ioctl(TUNSETIFF)", &fs.PathError{Op: "open", Path: "x", Err: unix.EBUSY}, "stop it"),
		unix.EBUSY, "ioctl(TUNSETIFF): device or resource busy (stop it)")
	wantError(t, fail("make TAP", errors.New("broken"), ""), 0, "make TAP: broken")
}

func TestDecode_Reports(t *testing.T) {
	j := &join{steps: []setns{{0, unix.CLONE_NEWUSER}, {0, unix.CLONE_NEWNET}}}
	for _, tt := range []struct {
		report [reportLen]byte
		errno  unix.Errno
		text   string
	}{
		{[reportLen]byte{stageSetns, 0, 0, 0, byte(unix.ESRCH)}, unix.ESRCH, "setns(CLONE_NEWUSER): no such process"},
		{[reportLen]byte{stageSetns, 1, 0, 0, byte(unix.EPERM)}, unix.EPERM, "setns(CLONE_NEWNET): operation not permitted (joining a network namespace needs"},
		{[reportLen]byte{stageSetns, 9, 0, 0, byte(unix.EPERM)}, unix.EPERM, "prepare child"},
		{[reportLen]byte{stageDup, 0, 0, 0, byte(unix.EMFILE)}, unix.EMFILE, "prepare child: too many open files"},
	} {
		_, err := decode(tt.report[:], j, 1, nil)
		wantError(t, err, tt.errno, tt.text)
	}
}

func TestDecode_Answers(t *testing.T) {
	j := &join{}
	answer := make([]byte, answerLen)
	answer[4] = byte(unix.ENOENT)
	all, err := decode(answer, j, 3, []int{7, 8})
	want := []result{{7, nil}, {-1, unix.ENOENT}, {8, nil}}
	if err != nil || !slices.Equal(all, want) {
		t.Errorf("%v, %v, want %v", all, err, want)
	}
	// What the limit of open files cut off.
	_, err = decode(answer, j, 3, []int{7})
	wantError(t, err, 0, "a descriptor is missing")
	// What nobody would close.
	_, err = decode(answer, j, 3, []int{7, 8, 9})
	wantError(t, err, 0, "more descriptors")
	_, err = decode(answer[:5], j, 3, []int{7, 8})
	wantError(t, err, 0, "no answer of ours")
	if _, err = decode(nil, j, 3, nil); !errors.Is(err, errSilent) {
		t.Errorf("error %v", err)
	}
}

func TestHints_NameTheRemedy(t *testing.T) {
	for _, tt := range []struct{ got, want string }{
		{hintTunDevice(unix.ENOENT), "load the tun module, or give this container the device: --device /dev/net/tun"},
		{hintTunDevice(unix.ENODEV), "load the tun module as root: modprobe tun"},
		{hintTunDevice(unix.EACCES), "let users open it, as root: chmod 0666 /dev/net/tun"},
		{hintTunDevice(unix.EMFILE), ""},
		{hintProcess(1<<30, unix.EINVAL), "give the PID of a process, not of one of its threads"},
		{hintFork(unix.EAGAIN), "the limit of processes is reached: ulimit -u, pids.max"},
		{hintPath(unix.ENOENT), "the namespace file must exist before we start"},
		{hintConfigure(unix.EPERM), "configuring needs CAP_NET_ADMIN in the user namespace that owns the network namespace"},
	} {
		if tt.got != tt.want {
			t.Errorf("hint %q, want %q", tt.got, tt.want)
		}
	}
	if s := fmt.Sprint(setns{0, unix.CLONE_NEWUSER}); s != "setns(CLONE_NEWUSER)" {
		t.Errorf("setns prints as %q", s)
	}
}
