package test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"epiphyte/test/harness"
)

// hostAddress gives an interface of the host one more address for the test.
func hostAddress(t testing.TB, link, cidr string) {
	t.Helper()
	lendAddress(t, env.Host, link, cidr, netlink.AddrAdd)
}

// lendAddress gives an interface of a namespace one more address for the test.
func lendAddress(t testing.TB, ns *harness.NetNS, link, cidr string, add func(netlink.Link, *netlink.Addr) error) {
	t.Helper()
	if err := harness.ChangeAddress(ns, link, cidr, add); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = harness.ChangeAddress(ns, link, cidr, netlink.AddrDel) })
}

// sourceSeen is the address from which the internet sees the guest's next TCP
// connection and its next datagram.
func (w *world) sourceSeen(t *testing.T, f family) (tcp, udp string) {
	t.Helper()
	seen := make(chan net.Addr, 2)
	tcpAddr := serveTCP(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.server, "0"), func(c *net.TCPConn) { seen <- c.RemoteAddr() })
	c := w.dial(t, "tcp"+f.v, hostPort(f.server, tcpAddr))
	tcp = netip.MustParseAddrPort((<-seen).String()).Addr().String()
	c.Close()
	s := servePacket(t, env.Net.Net, "udp"+f.v, net.JoinHostPort(f.server, "0"), func(_ []byte, from net.Addr) []byte {
		seen <- from
		return nil
	})
	p := w.listenPacket(t, f)
	if _, err := p.WriteTo([]byte("x"), udpAddr(f.server, s.LocalAddr())); err != nil {
		t.Fatal(err)
	}
	udp = netip.MustParseAddrPort((<-seen).String()).Addr().String()
	return tcp, udp
}

// TestOutboundAddress: the sockets of the host leave from the address chosen,
// by itself or by an interface's, and a wrong choice is refused.
func TestOutboundAddress(t *testing.T) {
	const alt4, alt6 = "192.0.2.7", "2001:db8:1::7"
	hostAddress(t, "up0", alt4+"/24")
	hostAddress(t, "up0", alt6+"/64")
	w := serve(t, "--outbound-addr="+alt4, "--outbound-addr6="+alt6)
	for i, want := range []string{alt4, alt6} {
		f := families()[i]
		if tcp, udp := w.sourceSeen(t, f); tcp != want || udp != want {
			t.Errorf("%s: seen from %s by TCP and %s by UDP, want %s", f.name, tcp, udp, want)
		}
	}
	h, err := env.Start(timeout(t, deadline), harness.HelperConfig{
		Args: []string{"--outbound-addr=nonsense", fmt.Sprint(w.PID), "tap9"}, NoWait: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	code, _, err := h.Exit(timeout(t, deadline))
	if err != nil || code != 1 || !strings.Contains(fmt.Sprint(h.Stderr), "outbound-addr has to be valid ipv4 address or interface name.") {
		t.Errorf("exit code %d, %v, stderr %q", code, err, fmt.Sprint(h.Stderr))
	}
}

// TestOutboundInterface: the address of the interface counts when the socket is
// made, and without one nothing leaves from another.
func TestOutboundInterface(t *testing.T) {
	ours(t, "following of interfaces")
	if err := env.Host.Do(func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "alt0"}, PeerName: "alt1"})
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = env.Host.Do(func() error {
			l, err := netlink.LinkByName("alt0")
			if err != nil {
				return err
			}
			return netlink.LinkDel(l)
		})
	})
	w := serve(t, "--outbound-addr=alt0")
	f := families()[0]
	addr := serveTCP(t, env.Net.Net, "tcp4", net.JoinHostPort(f.server, "0"), echoTCP)
	if c, err := w.Dial(timeout(t, deadline), "tcp4", hostPort(f.server, addr)); !isErrno(err, syscall.ENETUNREACH) {
		if c != nil {
			c.Close()
		}
		t.Fatalf("without an address: %v, want ENETUNREACH", err)
	}
	hostAddress(t, "alt0", "192.0.2.9/32")
	soon(t, 3*time.Second, func() error {
		c, err := w.Dial(context.Background(), "tcp4", hostPort(f.server, addr))
		if err == nil {
			c.Close()
		}
		return err
	})
	if tcp, udp := w.sourceSeen(t, f); tcp != "192.0.2.9" || udp != "192.0.2.9" {
		t.Errorf("seen from %s by TCP and %s by UDP, want the interface's 192.0.2.9", tcp, udp)
	}
}

// request makes one request on a control socket.
func request(t *testing.T, path, what string) map[string]any {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte(what)); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.UnixConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	var reply map[string]any
	if err := json.NewDecoder(c).Decode(&reply); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	return reply
}

// TestControlSocket on the running program: a port is added, listed, used and
// removed, and the socket goes with the program.
func TestControlSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api")
	w := serveWith(t, harness.HelperConfig{}, "--api-socket="+path)
	server := serveTCP(t, w.NetNS, "tcp4", net.JoinHostPort(guest4, "0"), echoTCP)
	free := must(env.Host.Listen("tcp4", "127.0.0.1:0"))(t)
	hostPortNumber := port(free.Addr())
	free.Close()
	added := request(t, path, fmt.Sprintf(`{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_addr":"127.0.0.1","host_port":%s,"guest_addr":"","guest_port":%s}}`, hostPortNumber, port(server)))
	ret, _ := added["return"].(map[string]any)
	if ret["id"] != 1.0 || added["error"] != nil {
		t.Fatalf("add_hostfwd: %v", added)
	}
	c, err := env.Host.Dial(timeout(t, deadline), "tcp4", "127.0.0.1:"+hostPortNumber)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	if _, err := c.Read(b); err != nil || string(b) != "hello" {
		t.Fatalf("through the port: %q, %v", b, err)
	}
	if entries, _ := request(t, path, `{"execute":"list_hostfwd"}`)["entries"].([]any); len(entries) != 1 {
		t.Errorf("list_hostfwd: %v", entries)
	}
	if reply := request(t, path, `{"execute":"remove_hostfwd","arguments":{"id":1}}`); reply["error"] != nil {
		t.Errorf("remove_hostfwd: %v", reply)
	}
	if c, err := env.Host.Dial(timeout(t, deadline), "tcp4", "127.0.0.1:"+hostPortNumber); err == nil {
		c.Close()
		t.Error("the port still takes clients")
	}
	if _, err := c.Write([]byte("still")); err != nil {
		t.Errorf("the connection made before: %v", err)
	}
	if _, err := c.Read(b); err != nil || string(b) != "still" {
		t.Errorf("the connection made before: %q, %v", b, err)
	}
	if err := w.helper.CloseExitFD(); err != nil {
		t.Fatal(err)
	}
	if code, _, err := w.helper.Exit(timeout(t, deadline)); code != 0 || err != nil {
		t.Errorf("exit code %d, %v", code, err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("the socket file is left")
	}
}

// TestBess: a client of the socket is the guest, frame by message.
func TestBess(t *testing.T) {
	oneQueue(t)
	path := filepath.Join(t.TempDir(), "bess")
	h, err := env.Start(timeout(t, deadline), harness.HelperConfig{
		Args: []string{"-r", harness.ReadyFD, "-e", harness.ExitFD, "--target-type=bess", path}, NoWait: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Kill)
	var c net.Conn
	eventually(t, deadline, func() (err error) {
		c, err = net.Dial("unixpacket", path)
		return err
	})
	defer c.Close()
	if err := h.WaitReady(timeout(t, deadline)); err != nil {
		t.Fatal(err)
	}
	whoHas := []byte{
		0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x08, 0x06,
		0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 2, 100, 0, 0, 0, 0, 0, 0, 10, 0, 2, 2,
	}
	if _, err := c.Write(whoHas); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(deadline)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 2048)
	for {
		n, err := c.Read(b)
		if err != nil {
			t.Fatalf("no ARP reply: %v", err)
		}
		if n >= 42 && b[12] == 8 && b[13] == 6 && b[21] == 2 && netip.AddrFrom4([4]byte(b[28:32])).String() == gateway4 {
			return
		}
	}
}
