package forwarder

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// listenTCP opens a listener on the host's loopback.
func listenTCP(t *testing.T, addr string) (*net.TCPListener, netip.AddrPort) {
	t.Helper()
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
	if err != nil {
		t.Skipf("listen on %s: %v", addr, err)
	}
	t.Cleanup(func() { l.Close() })
	return l, l.Addr().(*net.TCPAddr).AddrPort()
}

// closedPort is a port of the loopback where nobody listens.
func closedPort(t *testing.T, addr string) uint16 {
	t.Helper()
	l, a := listenTCP(t, addr)
	l.Close()
	return a.Port()
}

// listenUDP opens a UDP socket on the host's loopback. No read waits for ever.
func listenUDP(t *testing.T, addr string) (*net.UDPConn, netip.AddrPort) {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
	if err != nil {
		t.Skipf("listen on %s: %v", addr, err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetReadBuffer(4 << 20)
	c.SetDeadline(time.Now().Add(patience))
	return c, c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// silentListener returns a TCP listener that lets connects hang: its queue is
// full and stays so.
func silentListener(t *testing.T) netip.AddrPort {
	t.Helper()
	l, addr := listenTCP(t, "127.0.0.1:0")
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

func listenUDPPort(addr string, port uint16) (*net.UDPConn, error) {
	return net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(addr), port)))
}

func listenTCPPort(addr string, port uint16) (*net.TCPListener, error) {
	return net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(addr), port)))
}

// acceptAll reports connections until the listener is closed.
func acceptAll(l *net.TCPListener, to chan<- string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		report(to, fmt.Sprintf("TCP to %v from %v", l.Addr(), c.RemoteAddr()))
		c.Close()
	}
}

// readAll reports datagrams until the socket is closed.
func readAll(c *net.UDPConn, to chan<- string) {
	b := make([]byte, 2048)
	for {
		_, from, err := c.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		report(to, fmt.Sprintf("UDP to %v from %v", c.LocalAddr(), from))
	}
}

func report(to chan<- string, what string) {
	select {
	case to <- what:
	default:
	}
}
