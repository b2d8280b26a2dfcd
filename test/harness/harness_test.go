package harness_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// env is set once, before any test runs.
var env *harness.Env

func TestMain(m *testing.M) {
	// No helper is started here, so none need be built.
	if os.Getenv(harness.EnvBinary) == "" {
		os.Setenv(harness.EnvBinary, "/proc/self/exe")
	}
	os.Exit(harness.Run(func(e *harness.Env) int {
		env = e
		code := m.Run()
		if err := e.Leaks(); err != nil {
			fmt.Fprintf(os.Stderr, "left behind: %v\n", err)
			return max(code, 1)
		}
		return code
	}))
}

// TestNetworkAnswersAsPromised dials from the host without a helper: what the
// end-to-end tests ask of a helper is only fair when the network does it.
func TestNetworkAnswersAsPromised(t *testing.T) {
	for dst, want := range map[string]error{
		harness.NetIPv4:             unix.ECONNREFUSED,
		harness.NetIPv6:             unix.ECONNREFUSED,
		harness.OtherIPv4:           unix.ECONNREFUSED,
		harness.OtherIPv6:           unix.ECONNREFUSED,
		harness.HostUnreachableIPv4: unix.EHOSTUNREACH,
		harness.HostUnreachableIPv6: unix.EHOSTUNREACH,
		harness.NetUnreachableIPv4:  unix.ENETUNREACH,
		harness.NetUnreachableIPv6:  unix.ENETUNREACH,
		harness.SilentIPv4:          context.DeadlineExceeded,
		harness.SilentIPv6:          context.DeadlineExceeded,
	} {
		// An ICMP error that arrives while connect(2) still holds the socket is
		// noticed when the SYN is sent again, a second later.
		patience := 3 * time.Second
		if want == context.DeadlineExceeded {
			patience = 300 * time.Millisecond
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		_, err := env.Host.Dial(ctx, "tcp", net.JoinHostPort(dst, "4"))
		cancel()
		var ne net.Error
		if want == context.DeadlineExceeded && errors.As(err, &ne) && ne.Timeout() {
			continue
		}
		if !errors.Is(err, want) {
			t.Errorf("dial %s: %v, want %v", dst, err, want)
		}
	}
}

// TestResetIsSeenAsReset: no helper, so that a helper's own loss of it shows.
func TestResetIsSeenAsReset(t *testing.T) {
	l, err := env.Net.Net.Listen("tcp", net.JoinHostPort(harness.NetIPv4, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := env.Host.Dial(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := errors.Join(c.(*net.TCPConn).SetLinger(0), c.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read gave %v, want ECONNRESET", err)
	}
}

// TestGuestIsEmptyAndGoes: no interface but lo, root of itself, and no process
// after Close.
func TestGuestIsEmptyAndGoes(t *testing.T) {
	g, err := env.NewGuest()
	if err != nil {
		t.Fatal(err)
	}
	links, err := g.Links()
	if err != nil || len(links) != 0 {
		t.Errorf("links of a new guest: %v, %v", links, err)
	}
	// Only a capability in the namespace allows a raw socket and a low port.
	if err := g.Sysctl("net/ipv4/ip_forward", "1"); err != nil {
		t.Error(err)
	}
	if c, err := g.ListenPacket("ip4:icmp", "0.0.0.0"); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	if err := unix.Kill(g.PID, 0); err != unix.ESRCH {
		t.Errorf("the guest's process still answers: %v", err)
	}
}

// TestCommandsHaveNoCapabilities of the runner's user namespace: what the
// helper does, a plain user can do.
func TestCommandsHaveNoCapabilities(t *testing.T) {
	g, err := env.NewGuest()
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	out, err := g.Run(t.Context(), "grep", "-E", "^(CapEff|CapPrm|CapAmb|Uid)", "/proc/self/status")
	if want := "Uid:\t1000\t1000\t1000\t1000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapAmb:\t0000000000000000\n"; err != nil || out != want {
		t.Errorf("a command runs with %q, %v, want %q", out, err, want)
	}
}
