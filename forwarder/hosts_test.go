package forwarder

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"epiphyte/internal/testnet"
)

// closedPort is a port where nobody listens.
func closedPort(t *testing.T, addr string) uint16 {
	t.Helper()
	return testnet.FreePort(t, "tcp", netip.MustParseAddrPort(addr).Addr())
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
