package test

import (
	"fmt"
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// TestB12_PortsAreFreeAfterAReset: a client that resets its connection may connect
// again from the same port at once, as it may on the host. The reset and the SYN that
// follows it reach the helper together, now and then.
//
// On the device: for a moment after the reset a rule still leads to the socket that the guest's
// kernel had in our place (docs/manual.md, Bulk).
func TestB12_PortsAreFreeAfterAReset(t *testing.T) {
	const tries = 300
	eachCell(t, func(t *testing.T, w *world, f family) {
		server := serveTCP(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.server, "0"), echoTCP)
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IP(w.waitAddress(t, f.af).AsSlice()), Port: 33333}}
		refused := 0
		for i := range tries {
			c, err := w.DialWith(timeout(t, deadline), dialer, "tcp"+f.v, server.String())
			if isErrno(err, unix.EADDRINUSE) {
				continue // a program that another test starts still holds a copy of the socket
			}
			if isErrno(err, unix.ECONNREFUSED, unix.ECONNRESET) {
				refused++
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := says(c, fmt.Sprint(i)); err != nil {
				t.Errorf("try %d: %v", i, err)
			}
			if err := c.(*net.TCPConn).SetLinger(0); err != nil {
				t.Fatal(err)
			}
			c.Close()
		}
		if refused > 0 {
			t.Errorf("%d of %d connections were refused", refused, tries)
		}
	}, onDevice()...)
}
