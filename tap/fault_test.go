package tap

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"golang.org/x/sys/unix"
)

func TestFault_CrossesTheProcessBoundary(t *testing.T) {
	sent := &reply{Fault: fail("ioctl(TUNSETIFF)", &fs.PathError{Op: "open", Path: "x", Err: unix.EBUSY}, "stop it")}
	msg, err := json.Marshal(sent)
	if err != nil {
		t.Fatal(err)
	}
	_, err = decode(msg, &join{})
	wantError(t, err, unix.EBUSY, "ioctl(TUNSETIFF): device or resource busy (stop it)")

	msg, err = json.Marshal(&reply{Fault: asFault("make TAP", errors.New("broken"))})
	if err != nil {
		t.Fatal(err)
	}
	_, err = decode(msg, &join{})
	wantError(t, err, 0, "make TAP: broken")
	if errors.Is(err, unix.Errno(0)) {
		t.Error("an error without errno wraps one")
	}
}

func TestDecode_FailureBeforeExec(t *testing.T) {
	j := &join{steps: []setns{{0, unix.CLONE_NEWUSER | unix.CLONE_NEWNET}, {0, unix.CLONE_NEWNET}}}
	for _, tt := range []struct {
		report [reportLen]byte
		errno  unix.Errno
		text   string
	}{
		{[reportLen]byte{stageSetns, 0, 0, 0, byte(unix.ESRCH)}, unix.ESRCH, "setns(CLONE_NEWUSER|CLONE_NEWNET): no such process (the process has ended)"},
		{[reportLen]byte{stageSetns, 1, 0, 0, byte(unix.EPERM)}, unix.EPERM, "setns(CLONE_NEWNET): operation not permitted (joining a network namespace needs"},
		{[reportLen]byte{stageSetns, 9, 0, 0, byte(unix.EPERM)}, unix.EPERM, "prepare child"},
		{[reportLen]byte{stageExec, 0, 0, 0, byte(unix.ENOENT)}, unix.ENOENT, "execve /proc/self/exe: no such file or directory (mount /proc"},
		{[reportLen]byte{stageDup, 0, 0, 0, byte(unix.EMFILE)}, unix.EMFILE, "prepare child: too many open files"},
	} {
		_, err := decode(tt.report[:], j)
		wantError(t, err, tt.errno, tt.text)
	}
	_, err := decode([]byte("{"), j)
	wantError(t, err, 0, "decode answer")
}

// A child that fails before it reads its request leaves a reset connection, with
// its report in the queue behind the reset.
func TestReceive_ReportBehindReset(t *testing.T) {
	for _, report := range [][]byte{{stageDup, 0, 0, 0, byte(unix.EMFILE), 0, 0, 0}, nil} {
		ours, theirs, err := socketPair()
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(ours)
		if _, err := unix.Write(ours, []byte("{}")); err != nil {
			t.Fatal(err)
		}
		if report != nil {
			if _, err := unix.Write(theirs, report); err != nil {
				t.Fatal(err)
			}
		}
		unix.Close(theirs)
		_, _, err = receive(ours, &join{})
		if report != nil {
			wantError(t, err, unix.EMFILE, "prepare child")
		} else if !errors.Is(err, errSilent) {
			t.Errorf("error %v", err)
		}
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
		{hintListen(unix.EACCES), "ports below 1024 are closed to us there: choose another guest port"},
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
