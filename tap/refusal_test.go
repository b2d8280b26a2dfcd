package tap

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"epiphyte/internal/testnet"

	"golang.org/x/sys/unix"
)

func TestOpen_ConfigureErrors(t *testing.T) {
	g := newGuest(t, nesting{})
	for _, tt := range []struct {
		net  Network
		err  unix.Errno
		text string
	}{
		{Network{MTU: 67}, unix.EINVAL, "cannot set MTU: invalid argument"},
		{Network{MTU: 65522}, unix.EINVAL, "cannot set MTU: invalid argument"},
		{Network{MAC: net.HardwareAddr{1, 0, 0, 0, 0, 1}}, unix.EADDRNOTAVAIL, "cannot set MAC address"},
	} {
		_, err := Open(t.Context(), Config{Target: Target{PID: g.pid}, Name: "tap0", Configure: &tt.net})
		wantError(t, err, tt.err, tt.text)
	}
}

func TestOpen_NoTAP(t *testing.T) {
	g := newGuest(t, nesting{})
	_, err := Open(t.Context(), Config{Target: Target{PID: g.pid}, Name: "lo"})
	wantError(t, err, unix.EINVAL, "attach to lo", "not a TAP")
}

// A second program must not become a second queue of the first one's device.
func TestOpen_NameInUse(t *testing.T) {
	g := newGuest(t, nesting{})
	cfg := Config{Target: Target{PID: g.pid}, Name: "tap0"}
	open(t, cfg)
	_, err := Open(t.Context(), cfg)
	wantError(t, err, unix.EBUSY, "attached to tap0")
}

func TestOpen_PermissionErrors(t *testing.T) {
	g := newGuest(t, nesting{})
	gone := missingPID(t)
	for _, tt := range []struct {
		name   string
		target Target
		err    unix.Errno
		text   []string
	}{
		{"no such process", Target{PID: gone}, unix.ESRCH, []string{fmt.Sprintf("process %d: no such process", gone), "has ended"}},
		{"no such path", Target{NetNS: "/nonexistent"}, unix.ENOENT, []string{"open network namespace /nonexistent: no such file"}},
		{"no namespace", Target{NetNS: "/dev/null"}, 0, []string{"/dev/null: this is not a network namespace"}},
		{"another kind", Target{NetNS: g.path("user")}, 0, []string{"this is not a network namespace"}},
		{"user path of another kind", Target{NetNS: g.path("net"), UserNS: g.path("net")}, 0, []string{"this is not a user namespace"}},
		{"nothing given", Target{}, 0, []string{"no target"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Open(t.Context(), Config{Target: tt.target, Name: "tap0"})
			wantError(t, err, tt.err, tt.text...)
		})
	}
	t.Run("our own network", func(t *testing.T) {
		if os.Geteuid() == 0 {
			t.Skip("root may; make test runs this as an unprivileged user")
		}
		_, err := Open(t.Context(), Config{Target: Target{PID: os.Getpid()}, Name: "tap0"})
		wantError(t, err, unix.EPERM, "TUNSETIFF", "unshare -Urn")
	})
	t.Run("another user's namespaces", func(t *testing.T) {
		if os.Getenv(envForeign) == "" {
			t.Skip("takes root to set up, as make test does when root calls it")
		}
		_, err := Open(t.Context(), Config{Target: Target{NetNS: foreignUserNet}, Name: "tap0"})
		wantError(t, err, unix.EPERM, "setns(CLONE_NEWUSER): operation not permitted", "belongs to user 0 and we are user")
		_, err = Open(t.Context(), Config{Target: Target{NetNS: foreignNet}, Name: "tap0"})
		wantError(t, err, unix.EPERM, "setns(CLONE_NEWNET): operation not permitted", "CAP_SYS_ADMIN")
	})
	t.Run("another user's process", func(t *testing.T) {
		var st unix.Stat_t
		testnet.Need(t, "process 1", unix.Stat("/proc/1", &st), unix.ENOENT) // hidepid of proc(5)
		if int(st.Uid) == os.Geteuid() {
			t.Skip("process 1 is ours")
		}
		_, err := Open(t.Context(), Config{Target: Target{PID: 1}, Name: "tap0"})
		wantError(t, err, unix.EACCES, fmt.Sprintf("belongs to user %d", st.Uid), "run as its user")
	})
	t.Run("outside of our user namespace", func(t *testing.T) {
		// From inside the guest, our own network namespace is the ancestor's.
		a := g.try(command{Do: "open", Config: Config{Target: Target{PID: os.Getpid()}, Name: "tap0"}})
		if !strings.Contains(a.Err, "permission denied") && !strings.Contains(a.Err, "not permitted") || strings.Contains(a.Err, "\n") {
			t.Errorf("error %q", a.Err)
		}
	})
}

func TestOpen_InvalidName(t *testing.T) {
	for name, text := range map[string]string{
		"a/b":              "not a valid interface name",
		"a:b":              "not a valid interface name",
		"a b":              "not a valid interface name",
		"\u00e0":           "not a valid interface name", // ends in 0xa0
		"..":               "not a valid interface name",
		"sixteen-bytes-xx": "longer than 15 bytes",
	} {
		_, err := Open(t.Context(), Config{Target: Target{PID: os.Getpid()}, Name: name})
		wantError(t, err, 0, text)
	}
}

// wantError insists on one line with the given texts that wraps errno.
func wantError(t *testing.T, err error, errno unix.Errno, texts ...string) {
	t.Helper()
	if err == nil {
		t.Error("no error")
		return
	}
	if errno != 0 && !errors.Is(err, errno) {
		t.Errorf("error %q does not wrap %q", err, errno)
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("error %q is more than a line", err)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error %q does not say %q", err, text)
		}
	}
}

// missingPID returns the number of a process that has ended.
func missingPID(t *testing.T) int {
	t.Helper()
	p, err := os.StartProcess("/proc/self/exe", []string{guestName}, &os.ProcAttr{})
	if err != nil {
		t.Fatal(err)
	}
	p.Kill()
	if _, err := p.Wait(); err != nil {
		t.Fatal(err)
	}
	return p.Pid
}
