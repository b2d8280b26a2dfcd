package test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// linkLocal gives the IPv6 link-local address of a namespace's interface.
func linkLocal(t testing.TB, ns *harness.NetNS, name string) (addr string) {
	t.Helper()
	if err := ns.Do(func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		addrs, err := netlink.AddrList(l, unix.AF_INET6)
		for _, a := range addrs {
			if a.IP.IsLinkLocalUnicast() {
				addr = a.IP.String()
				return nil
			}
		}
		return errors.Join(err, fmt.Errorf("%s has no link-local address", name))
	}); err != nil {
		t.Fatal(err)
	}
	return addr
}

// TestB31_LinkLocalClient: a client on the host's link that has and asks for a
// link-local address is the gateway, as the guest has another link; and it is
// answered.
func TestB31_LinkLocalClient(t *testing.T) {
	ours(t, "--publish")
	w := serve(t, "-p", "[::]:18021:8080", "-p", "[::]:18021:8080/udp")
	serveTCP(t, w.NetNS, "tcp6", "[::]:8080", echoTCP)
	servePacket(t, w.NetNS, "udp6", "[::]:8080", func(_ []byte, from net.Addr) []byte { return []byte(from.String()) })
	at := net.JoinHostPort(linkLocal(t, env.Host, "up0")+"%down0", "18021")
	if err := says(client(t, env.Net.Router, "tcp6", at), "hello"); err != nil {
		t.Errorf("TCP: %v", err)
	}
	c := client(t, env.Net.Router, "udp6", at)
	if _, err := c.Write([]byte("who am I?")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	n, err := c.Read(b)
	if want := net.JoinHostPort(gateway6, port(c.LocalAddr())); err != nil || string(b[:n]) != want {
		t.Errorf("seen as %q, %v, want %s", b[:n], err, want)
	}
}

// TestB23_PublishedSizes: large datagrams pass both ways, and replies that the
// guest's kernel leaves to the TAP to cut (udp(7), UDP_SEGMENT) arrive cut.
func TestB23_PublishedSizes(t *testing.T) {
	for _, mtu := range []string{"1500", "65520"} {
		t.Run(mtu, func(t *testing.T) {
			w := published(t, "18022", "/udp", "--mtu="+mtu)
			eachFamily(t, func(t *testing.T, f family) {
				server := servePacket(t, w.NetNS, "udp"+f.v, f.anyHost()+":"+guestPort, echoPacket).(*net.UDPConn)
				c := client(t, env.Net.Net, "udp"+f.v, net.JoinHostPort(f.host(), "18022"))
				for _, size := range []int{1, 1400, 9000, 60000} {
					if err := says(c, string(bytes.Repeat([]byte{'x'}, size))); err != nil {
						t.Errorf("%d bytes: %v", size, err)
					}
				}
				raw := must(server.SyscallConn())(t)
				const segment, total = 1000, 10_500
				var sockErr error
				if err := raw.Control(func(fd uintptr) {
					sockErr = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, segment)
				}); err != nil || sockErr != nil {
					t.Fatalf("set UDP_SEGMENT: %v, %v", err, sockErr)
				}
				if _, err := c.Write(random(23, total)); err != nil {
					t.Fatal(err)
				}
				var got []byte
				b := make([]byte, 1<<16)
				for len(got) < total {
					n, err := c.Read(b)
					if err != nil || n != min(segment, total-len(got)) {
						t.Fatalf("a datagram of %d bytes after %d of %d, %v", n, len(got), total, err)
					}
					got = append(got, b[:n]...)
				}
				if !bytes.Equal(got, random(23, total)) {
					t.Error("other bytes arrived")
				}
			})
		})
	}
}

// TestB24_PublishedBurst: 200 datagrams in a row are all carried in, in order,
// and so are the replies.
func TestB24_PublishedBurst(t *testing.T) {
	w := published(t, "18023", "/udp")
	eachFamily(t, func(t *testing.T, f family) {
		servePacket(t, w.NetNS, "udp"+f.v, f.anyHost()+":"+guestPort, echoPacket)
		c := client(t, env.Net.Net, "udp"+f.v, net.JoinHostPort(f.host(), "18023"))
		if err := c.SetDeadline(time.Now().Add(deadline)); err != nil {
			t.Fatal(err)
		}
		// The client reads only when it has written everything.
		if err := c.(*net.UDPConn).SetReadBuffer(4 << 20); err != nil {
			t.Fatal(err)
		}
		// A kernel that has yet to resolve the gateway keeps only some of the
		// replies (neigh/unres_qlen_bytes).
		if err := says(c, "hello"); err != nil {
			t.Fatal(err)
		}
		for i := range 200 {
			if _, err := fmt.Fprintf(c, "%03d%0500d", i, 0); err != nil {
				t.Fatal(err)
			}
		}
		b := make([]byte, 1000)
		for i := range 200 {
			if n, err := c.Read(b); err != nil || n != 503 || string(b[:3]) != fmt.Sprintf("%03d", i) {
				t.Fatalf("reply %d: %d bytes, %.3s, %v", i, n, b, err)
			}
		}
	})
}
