package testnet

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds every wait that ought to end by itself.
const patience = 10 * time.Second

// NeedAddress skips the test when an address, as of a family that the host has not, is
// not there to listen on. Any other error is the test's.
func NeedAddress(t testing.TB, err error) {
	t.Helper()
	Need(t, "the host's address", err, unix.EADDRNOTAVAIL, unix.EAFNOSUPPORT)
}

// ListenTCP opens a listener on an address of the host, until the test ends.
// Where the host has no such address, the test is skipped.
func ListenTCP(t testing.TB, addr string) (*net.TCPListener, netip.AddrPort) {
	t.Helper()
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
	NeedAddress(t, err)
	t.Cleanup(func() { l.Close() })
	return l, l.Addr().(*net.TCPAddr).AddrPort()
}

// ListenUDP opens a UDP socket on an address of the host, as ListenTCP does. No
// read from it waits for more than 10 s.
func ListenUDP(t testing.TB, addr string) (*net.UDPConn, netip.AddrPort) {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
	NeedAddress(t, err)
	t.Cleanup(func() { c.Close() })
	c.SetReadBuffer(4 << 20)
	c.SetDeadline(time.Now().Add(patience))
	return c, c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// FreePort is a port of the host ("tcp" or "udp") that nobody has at the moment.
func FreePort(t testing.TB, network string, host netip.Addr) uint16 {
	t.Helper()
	any := netip.AddrPortFrom(host, 0).String()
	if network == "udp" {
		c, addr := ListenUDP(t, any)
		c.Close()
		return addr.Port()
	}
	l, addr := ListenTCP(t, any)
	l.Close()
	return addr.Port()
}

// SilentListener is a listener of the host's loopback that lets connects hang:
// its queue is full and stays so.
func SilentListener(t testing.TB) netip.AddrPort {
	t.Helper()
	l, addr := ListenTCP(t, "127.0.0.1:0")
	raw, err := l.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { err = unix.Listen(int(fd), 0) }) // a queue of length n holds n+1
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(addr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return addr
}
