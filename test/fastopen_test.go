package test

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestB13_FastOpen: a client whose SYN carries as much data as a segment holds (TCP
// Fast Open, RFC 7413) is connected at once, and all of it arrives.
func TestB13_FastOpen(t *testing.T) {
	eachCell(t, func(t *testing.T, w *world, f family) {
		data := random(13, 100_000)
		got := make(chan []byte, 1)
		server := serveTCP(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.server, "0"), func(c *net.TCPConn) {
			b, _ := io.ReadAll(c) // what is missing shows
			got <- b
		})
		// A second SYN would follow after a second. A busy machine may send one, but not always.
		const again = 700 * time.Millisecond
		took := again
		for try := 0; try < 3 && took >= again; try++ {
			fd := must(w.Socket(f.af, unix.SOCK_STREAM, 0))(t)
			if err := unix.SetNonblock(fd, false); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			sendInSYN(t, fd, server.(*net.TCPAddr).AddrPort(), data)
			took = time.Since(start)
			if err := unix.Close(fd); err != nil {
				t.Fatal(err)
			}
			select {
			case b := <-got:
				if !bytes.Equal(b, data) {
					t.Errorf("%d bytes arrived, not the %d sent", len(b), len(data))
				}
			case <-time.After(deadline):
				t.Fatal("nothing arrived")
			}
		}
		if took >= again {
			t.Errorf("connecting took %v: the SYN was sent twice", took)
		}
	})
}

// sendInSYN connects, the first of the data in the SYN, and sends all of it.
func sendInSYN(t *testing.T, fd int, to netip.AddrPort, data []byte) {
	t.Helper()
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN_NO_COOKIE, 1); err != nil {
		t.Fatal(err)
	}
	var sa unix.Sockaddr
	if to.Addr().Unmap().Is4() {
		sa = &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().Unmap().As4()}
	} else {
		sa = &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	}
	for flags := unix.MSG_FASTOPEN; len(data) > 0; flags = 0 {
		n, err := unix.SendmsgN(fd, data, nil, sa, flags)
		if err != nil {
			t.Fatal(err)
		}
		data, sa = data[n:], nil
	}
}
