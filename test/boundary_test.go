package test

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// visitors collects who reached a trap: a TCP and a UDP socket on one port of
// every address of the host.
type visitors struct {
	port int
	mu   sync.Mutex
	seen []string // guarded by mu
}

func (v *visitors) note(what string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.seen = append(v.seen, what)
}

func (v *visitors) list() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return append([]string{}, v.seen...)
}

// trap listens on a port of all addresses of the host, of both families.
func trap(t testing.TB) *visitors {
	t.Helper()
	v := &visitors{}
	addr := serveTCP(t, env.Host, "tcp", "[::]:0", func(c *net.TCPConn) { v.note("TCP from " + c.RemoteAddr().String()) })
	v.port = addr.(*net.TCPAddr).Port
	servePacket(t, env.Host, "udp", net.JoinHostPort("::", fmt.Sprint(v.port)), func(b []byte, from net.Addr) []byte {
		v.note(fmt.Sprintf("UDP %q from %v", b, from))
		return []byte("caught")
	})
	return v
}

// TestB40_HostLoopbackByTheGateway is reachable, and with
// --disable-host-loopback it is not: connect and send fail as unreachable.
func TestB40_HostLoopbackByTheGateway(t *testing.T) {
	for _, disabled := range []bool{false, true} {
		t.Run(fmt.Sprint("disabled=", disabled), func(t *testing.T) {
			var flags []string
			if disabled {
				flags = append(flags, "--disable-host-loopback")
			}
			w := serve(t, flags...)
			eachFamily(t, func(t *testing.T, f family) {
				reached := make(chan struct{}, 10)
				addr := serveTCP(t, env.Host, "tcp"+f.v, net.JoinHostPort(f.loop, "0"), func(*net.TCPConn) { reached <- struct{}{} })
				u := servePacket(t, env.Host, "udp"+f.v, net.JoinHostPort(f.loop, "0"), func(b []byte, _ net.Addr) []byte {
					reached <- struct{}{}
					return b
				})
				c, err := w.Dial(timeout(t, deadline), "tcp"+f.v, hostPort(f.gateway, addr))
				if err == nil {
					c.Close()
				}
				if disabled && !isErrno(err, unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EACCES, unix.ECONNREFUSED) || !disabled && err != nil {
					t.Errorf("TCP to the gateway: %v", err)
				}
				s := w.listenPacket(t, f)
				if _, err := s.WriteTo([]byte("x"), udpAddr(f.gateway, u.LocalAddr())); err != nil {
					t.Fatal(err)
				}
				wait := deadline
				if disabled {
					wait = 500 * time.Millisecond
				}
				_, from, err := receive(s, wait)
				if disabled != (err != nil) {
					t.Errorf("UDP to the gateway: answer from %v, %v", from, err)
				}
				want := 2
				if disabled {
					want = 0
				}
				if len(reached) != want {
					t.Errorf("%d of 2 attempts reached loopback, want %d", len(reached), want)
				}
			})
		})
	}
}

// forbidden lists what no packet of a guest may reach on the host, whatever the
// flags: it is all the host's own, or nobody's.
func forbidden() []string {
	return []string{
		"127.0.0.1", "127.0.0.53", "127.1.2.3", "127.255.255.255", "0.0.0.0", "0.1.2.3",
		"255.255.255.255", "224.0.0.1", "239.1.2.3", "10.0.2.255", "10.0.2.0", "10.0.2.1", "10.0.2.4", "10.0.2.50",
		"192.0.2.255", "240.0.0.1",
		"::", "::1", "::ffff:127.0.0.1", "::ffff:0.0.0.0", "::127.0.0.1", "::ffff:10.0.2.2", "::ffff:192.0.2.1",
		"ff02::1", "ff01::1", "ff05::1", "ff0e::1", "fd00::", "fd00::1", "fd00::4", "fd00::ffff", "fe80::1", "fe80::4",
		"64:ff9b::7f00:1",
	}
}

// TestB40_HostLoopbackByRawPackets: TCP, UDP and echo to every address that
// could mean the host, from the guest's own and from forged sources, as root of
// the guest. Nothing arrives, nothing answers, and the network still works.
func TestB40_HostLoopbackByRawPackets(t *testing.T) {
	ours(t, "boundary at every address")
	for _, flags := range [][]string{nil, {"--disable-host-loopback"}} {
		t.Run(strings.Join(append(flags, "default")[:1], ""), func(t *testing.T) {
			v := trap(t)
			w := serve(t, flags...)
			own := map[bool]netip.Addr{true: w.waitAddress(t, unix.AF_INET), false: w.waitAddress(t, unix.AF_INET6)}
			forged := map[bool][]string{
				true:  {"127.0.0.1", "192.0.2.1", "10.0.2.2", "0.0.0.0"},
				false: {"::1", "2001:db8:1::1", "fd00::2", "::"},
			}
			wire := w.wire(t)
			wire.senders()
			for i, dst := range forbidden() {
				to := parseWire(dst)
				sources := []netip.Addr{own[to.Is4()]}
				for _, s := range forged[to.Is4()] {
					sources = append(sources, netip.MustParseAddr(s))
				}
				for j, src := range sources {
					sport := 20000 + 100*i + j
					wire.send(t, udpPacket(src, to, sport, v.port, fmt.Sprintf("to %s from %s", dst, src)))
					wire.send(t, synPacket(src, to, sport, v.port))
					wire.send(t, echoPacketTo(src, to, uint16(sport)))
				}
			}
			// The host's own address is allowed: what goes there last arrives last.
			eachFamily(t, func(t *testing.T, f family) {
				host := map[int]string{unix.AF_INET: harness.HostIPv4, unix.AF_INET6: harness.HostIPv6}[f.af]
				c := w.listenPacket(t, f)
				if _, err := c.WriteTo([]byte("fence"), &net.UDPAddr{IP: net.ParseIP(host), Port: v.port}); err != nil {
					t.Fatal(err)
				}
				if _, _, err := receive(c, deadline); err != nil {
					t.Errorf("the host's own address does not answer after the flood: %v", err)
				}
			})
			for _, who := range v.list() {
				if !strings.Contains(who, `"fence"`) {
					t.Errorf("reached the host: %s", who)
				}
			}
			answered := wire.senders()
			for _, dst := range forbidden() {
				if a := parseWire(dst); answered[a] {
					t.Errorf("%s answered", dst)
				}
			}
		})
	}
}

// parseWire keeps a v4-mapped address IPv6, as it is on the wire.
func parseWire(s string) netip.Addr { return netip.MustParseAddr(s) }

// TestB40_OrdinarySocketsCannotReachLoopback: the guest's own loopback is its
// own, also where its kernel is told to route 127/8 to the TAP.
func TestB40_OrdinarySocketsCannotReachLoopback(t *testing.T) {
	v := trap(t)
	w := serve(t)
	if err := w.Sysctl("net/ipv4/conf/"+tapName+"/route_localnet", "1"); err != nil {
		t.Fatal(err)
	}
	for _, dst := range []string{"127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]"} {
		c, err := w.Dial(timeout(t, time.Second), "tcp", fmt.Sprint(dst, ":", v.port))
		if err == nil {
			c.Close()
			t.Errorf("connected to %s", dst)
		}
	}
	if seen := v.list(); len(seen) > 0 {
		t.Errorf("reached the host: %v", seen)
	}
}

// TestB43_NoApplicationGateway: arbitrary bytes pass on the ports that helpers
// like to understand.
func TestB43_NoApplicationGateway(t *testing.T) {
	w := serve(t)
	eachFamily(t, func(t *testing.T, f family) {
		for _, port := range []string{"21", "113", "6667", "554"} {
			addr := serveTCP(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.server, port), echoTCP)
			c := w.dial(t, "tcp"+f.v, addr.String())
			text := "PORT 10,0,2,100,4,1\r\n12 , 34\r\n\x01DCC CHAT chat 167772772 1\x01\r\n"
			if _, err := c.Write([]byte(text)); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(text))
			if n, err := c.Read(got); err != nil || string(got[:n]) != text {
				t.Errorf("port %s: %q came back, %v", port, got[:n], err)
			}
		}
		for _, port := range []string{"69"} {
			s := servePacket(t, env.Net.Net, "udp"+f.v, net.JoinHostPort(f.server, port), echoPacket)
			c := w.listenPacket(t, f)
			if _, err := c.WriteTo([]byte("\x00\x01file\x00octet\x00"), udpAddr(f.server, s.LocalAddr())); err != nil {
				t.Fatal(err)
			}
			if got, _, err := receive(c, deadline); err != nil || string(got) != "\x00\x01file\x00octet\x00" {
				t.Errorf("port %s: %q came back, %v", port, got, err)
			}
		}
	})
}
