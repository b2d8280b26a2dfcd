package stack

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/tcpip"
)

// The inline path leans on unexported functions of this very version.
func TestGVisorPin(t *testing.T) {
	mod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	const path = "gvisor.dev/gvisor"
	var versions []string
	for line := range strings.Lines(string(mod)) {
		f := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require "))
		if len(f) > 0 && (f[0] == path || f[0] == "replace" && len(f) > 1 && f[1] == path) {
			versions = append(versions, strings.Join(f[1:], " "))
		}
	}
	if len(versions) != 1 || versions[0] != GVisorVersion {
		t.Fatalf("go.mod has %s at %v, inline.go was written against %s: read handleConnected in transport/tcp/dispatcher.go anew, then move the constant", path, versions, GVisorVersion)
	}
}

func TestToErrno(t *testing.T) {
	for _, c := range []struct {
		err  tcpip.Error
		want unix.Errno
	}{
		{nil, 0},
		{&tcpip.ErrWouldBlock{}, unix.EAGAIN},
		{&tcpip.ErrClosedForSend{}, unix.EPIPE},
		{&tcpip.ErrClosedForReceive{}, unix.EPIPE},
		{&tcpip.ErrConnectionRefused{}, unix.ECONNREFUSED},
		{&tcpip.ErrConnectionReset{}, unix.ECONNRESET},
		{&tcpip.ErrAborted{}, unix.ECONNABORTED},
		{&tcpip.ErrConnectionAborted{}, unix.ECONNABORTED},
		{&tcpip.ErrTimeout{}, unix.ETIMEDOUT},
		{&tcpip.ErrHostUnreachable{}, unix.EHOSTUNREACH},
		{&tcpip.ErrHostDown{}, unix.EHOSTUNREACH},
		{&tcpip.ErrNetworkUnreachable{}, unix.ENETUNREACH},
		{&tcpip.ErrNoNet{}, unix.ENETUNREACH},
		{&tcpip.ErrNotConnected{}, unix.ENOTCONN},
		{&tcpip.ErrInvalidEndpointState{}, unix.ENOTCONN},
		{&tcpip.ErrNoBufferSpace{}, unix.ENOBUFS},
		{&tcpip.ErrPortInUse{}, unix.EADDRINUSE},
		{&tcpip.ErrMessageTooLong{}, unix.EMSGSIZE},
		{&tcpip.ErrMalformedHeader{}, unix.EIO},
	} {
		if got := toErrno(c.err); got != c.want {
			t.Errorf("toErrno(%T) = %v, want %v", c.err, got, c.want)
		}
	}
}

// B42: a guest that makes up sources does not grow the table for ever.
func TestB42_NeighborsAreBounded(t *testing.T) {
	var n neighbors
	n.learn(netip.MustParseAddr("10.0.2.100"), [6]byte{2, 0, 0, 0, 0, 1})
	if got := n.lookup(netip.MustParseAddr("10.0.2.7")); got != [6]byte{2, 0, 0, 0, 0, 1} {
		t.Errorf("the first sender is not the TAP's own: %x", got)
	}
	for i := range 10 * maxNeighbors {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		mac := [6]byte{2, 1, 0, byte(i >> 16), byte(i >> 8), byte(i)}
		n.learn(a, mac)
		if n.lookup(a) != mac {
			t.Fatalf("%v was not learned", a)
		}
		if len(n.table) > maxNeighbors || int(n.extra.Load()) != len(n.table) {
			t.Fatalf("%d entries, counted as %d, at most %d", len(n.table), n.extra.Load(), maxNeighbors)
		}
	}
}

// gVisor warns once per packet in places; the log must not.
func TestLogIsBounded(t *testing.T) {
	var lines bytes.Buffer
	e := &emitter{log: slog.New(slog.NewTextHandler(&lines, nil)), limit: rate.NewLimiter(rate.Every(time.Hour), 5)}
	for i := range 1000 {
		e.Emit(0, log.Warning, time.Time{}, "packet %d is odd", i)
		e.Emit(0, log.Debug, time.Time{}, "packet %d", i)
	}
	if n := strings.Count(lines.String(), "\n"); n != 5 || !strings.Contains(lines.String(), `level=WARN msg="netstack: packet 0 is odd"`) {
		t.Errorf("%d lines:\n%s", n, lines.String())
	}
}

func TestPackKeepsTheAddress(t *testing.T) {
	for _, mac := range [][6]byte{{}, {1, 2, 3, 4, 5, 6}, {255, 255, 255, 255, 255, 255}, {0, 0, 0, 0, 0, 1}, {128}} {
		if got := unpack(pack(mac)); got != mac {
			t.Error(fmt.Errorf("unpack(pack(%x)) = %x", mac, got))
		}
	}
}
