package test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// ICMP types and codes used here (RFC 792, RFC 4443).
const (
	icmpEchoReply, icmpUnreachable, icmpEcho, icmpTimeExceeded     = 0, 3, 8, 11
	icmp6Unreachable, icmp6TimeExceeded, icmp6Echo, icmp6EchoReply = 1, 3, 128, 129
	icmpProtocol, icmp6Protocol                                    = "ip4:icmp", "ip6:ipv6-icmp"
)

// pinger is a raw ICMP socket in the guest: it sees what ping's own socket
// would hide.
type pinger struct {
	net.PacketConn
	f family
}

func (w *world) pinger(t testing.TB, f family) *pinger {
	t.Helper()
	network, any := icmpProtocol, "0.0.0.0"
	if f.af == unix.AF_INET6 {
		network, any = icmp6Protocol, "::"
	}
	c := must(w.ListenPacket(network, any))(t)
	t.Cleanup(func() { c.Close() })
	return &pinger{c, f}
}

// setTTL sets the TTL or hop limit of what is sent from now on.
func (p *pinger) setTTL(t testing.TB, ttl int) { setTTL(t, p.PacketConn.(*net.IPConn), p.f, ttl) }

func setTTL(t testing.TB, c syscall.Conn, f family, ttl int) {
	t.Helper()
	level, opt := unix.IPPROTO_IP, unix.IP_TTL
	if f.af == unix.AF_INET6 {
		level, opt = unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS
	}
	setOption(t, c, func(fd int) error { return unix.SetsockoptInt(fd, level, opt, ttl) })
}

// setOption calls set with the socket of a connection.
func setOption(t testing.TB, c syscall.Conn, set func(fd int) error) {
	t.Helper()
	raw := must(c.SyscallConn())(t)
	var err error
	if ctlErr := raw.Control(func(fd uintptr) { err = set(int(fd)) }); ctlErr != nil || err != nil {
		t.Fatal(ctlErr, err)
	}
}

func (p *pinger) echo(t testing.TB, dst string, id, seq uint16, payload []byte) {
	t.Helper()
	if _, err := p.WriteTo(echoRequest(p.f, id, seq, payload), &net.IPAddr{IP: net.ParseIP(dst)}); err != nil {
		t.Fatal(err)
	}
}

// echoRequest is an ICMP echo request; over IPv6 the kernel adds the checksum.
func echoRequest(f family, id, seq uint16, payload []byte) []byte {
	b := append(make([]byte, 8), payload...)
	b[0] = icmpEcho
	if f.af == unix.AF_INET6 {
		b[0] = icmp6Echo
	}
	binary.BigEndian.PutUint16(b[4:], id)
	binary.BigEndian.PutUint16(b[6:], seq)
	if f.af == unix.AF_INET {
		binary.BigEndian.PutUint16(b[2:], checksum(b))
	}
	return b
}

// checksum is the internet checksum (RFC 1071).
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// wait gives the next message of one of the types, and who sent it; nil when
// there is none for d.
func (p *pinger) wait(t testing.TB, d time.Duration, types ...byte) (msg []byte, from string) {
	t.Helper()
	for end := time.Now().Add(d); ; {
		b, addr, err := receive(p.PacketConn, time.Until(end))
		if err != nil {
			return nil, ""
		}
		if len(b) >= 8 && bytes.IndexByte(types, b[0]) >= 0 {
			return b, strings.Split(addr.String(), "%")[0]
		}
	}
}

func (p *pinger) types() (reply, exceeded, unreachable byte) {
	if p.f.af == unix.AF_INET6 {
		return icmp6EchoReply, icmp6TimeExceeded, icmp6Unreachable
	}
	return icmpEchoReply, icmpTimeExceeded, icmpUnreachable
}

// TestB26_PingKeepsWhatItSent: id, sequence and payload, small and large, from
// our own addresses and from the internet.
func TestB26_PingKeepsWhatItSent(t *testing.T) {
	for _, mtu := range []string{"1500", "65520"} {
		t.Run(mtu, func(t *testing.T) {
			t.Parallel()
			w := serve(t, "--mtu="+mtu, "--disable-host-loopback")
			eachFamily(t, func(t *testing.T, f family) {
				p := w.pinger(t, f)
				reply, _, _ := p.types()
				for _, dst := range []string{f.gateway, f.dns, f.server, f.other} {
					for seq, size := range []int{0, 56, 1400, 4000} {
						if f.af == unix.AF_INET6 && size > 1400 && !env.Product {
							continue
						}
						payload := random(uint64(size), size)
						p.echo(t, dst, 0xbeef, uint16(seq), payload)
						got, from := p.wait(t, deadline, reply)
						if got == nil {
							t.Errorf("ping %s with %d bytes: no reply", dst, size)
							continue
						}
						id, s := binary.BigEndian.Uint16(got[4:]), binary.BigEndian.Uint16(got[6:])
						if from != dst || id != 0xbeef || s != uint16(seq) || !bytes.Equal(got[8:], payload) {
							t.Errorf("ping %s with %d bytes: reply from %s, id %#x, sequence %d, payload equal: %v",
								dst, size, from, id, s, bytes.Equal(got[8:], payload))
						}
					}
				}
			})
		})
	}
}

// TestB26_TwoPingsDoNotMix: two ids at once each get their own replies.
func TestB26_TwoPingsDoNotMix(t *testing.T) {
	w := serve(t)
	eachFamily(t, func(t *testing.T, f family) {
		p := w.pinger(t, f)
		reply, _, _ := p.types()
		want := map[string]bool{}
		for id := uint16(1); id <= 5; id++ {
			for seq := uint16(1); seq <= 5; seq++ {
				payload := fmt.Sprint(id, "/", seq)
				p.echo(t, f.server, id, seq, []byte(payload))
				want[payload] = true
			}
		}
		for range len(want) {
			got, _ := p.wait(t, deadline, reply)
			if got == nil {
				t.Fatalf("no reply to %v", want)
			}
			text := string(got[8:])
			if !want[text] || text != fmt.Sprint(binary.BigEndian.Uint16(got[4:]), "/", binary.BigEndian.Uint16(got[6:])) {
				t.Errorf("reply %q with id %d", text, binary.BigEndian.Uint16(got[4:]))
			}
			delete(want, text)
		}
	})
}

// TestB26_UnreachableNeverAnswers: no echo reply is made up, and the error that
// the host saw arrives.
func TestB26_UnreachableNeverAnswers(t *testing.T) {
	w := serve(t)
	eachFamily(t, func(t *testing.T, f family) {
		p := w.pinger(t, f)
		reply, _, unreachable := p.types()
		p.echo(t, f.silent, 1, 1, nil)
		if got, from := p.wait(t, 500*time.Millisecond, reply); got != nil {
			t.Errorf("%s answered for the silent %s", from, f.silent)
		}
		if !env.Product {
			return
		}
		for _, dst := range []string{f.noHost, f.noNet} {
			p.echo(t, dst, 2, 1, nil)
			if got, _ := p.wait(t, deadline, reply, unreachable); got == nil || got[0] != unreachable {
				t.Errorf("ping %s gave % x, want destination unreachable", dst, got)
			}
		}
	})
}

// TestB26_EveryHopShowsItself, for echo and for UDP: the gateway, the host's
// router, then the target.
func TestB26_EveryHopShowsItself(t *testing.T) {
	w := serve(t)
	eachFamily(t, func(t *testing.T, f family) {
		router := harness.RouterIPv4
		if f.af == unix.AF_INET6 {
			router = harness.RouterIPv6
		}
		p := w.pinger(t, f)
		reply, exceeded, unreachable := p.types()
		hops := []struct {
			from      string
			echo, udp byte
		}{{f.gateway, exceeded, exceeded}, {router, exceeded, exceeded}, {f.server, reply, unreachable}}
		sender := w.listenPacket(t, f).(*net.UDPConn)
		for i, hop := range hops {
			if env.Product { // slirp4netns ignores the TTL of echo requests
				p.setTTL(t, i+1)
				p.echo(t, f.server, 7, uint16(i), []byte("hop"))
				got, from := p.wait(t, deadline, reply, exceeded, unreachable)
				if got == nil || got[0] != hop.echo || !sameHop(f, from, hop.from) {
					t.Errorf("echo with TTL %d: % x from %q, want type %d from %s", i+1, got, from, hop.echo, hop.from)
				}
			}
			if f.af == unix.AF_INET6 && !env.Product {
				continue
			}
			setTTL(t, sender, f, i+1)
			if _, err := sender.WriteTo([]byte("hop"), &net.UDPAddr{IP: net.ParseIP(f.server), Port: 33434 + i}); err != nil {
				t.Fatal(err)
			}
			got, from := p.wait(t, deadline, reply, exceeded, unreachable)
			if got == nil || got[0] != hop.udp || !sameHop(f, from, hop.from) {
				t.Errorf("UDP with TTL %d: % x from %q, want type %d from %s", i+1, got, from, hop.udp, hop.from)
			}
		}
	})
}

// sameHop allows the gateway its link-local address: either is where an IPv6
// router sends errors from (RFC 4443, section 2.2).
func sameHop(f family, got, want string) bool {
	return got == want || want == f.gateway && f.af == unix.AF_INET6 && got == "fe80::2"
}

// TestB26_RefusedPingSocketIsExplainedOnce, with the sysctl to set.
func TestB26_RefusedPingSocketIsExplainedOnce(t *testing.T) {
	ours(t, "word about ping sockets")
	host := must(env.NewNS())(t)
	t.Cleanup(func() { host.Close() })
	w := serveWith(t, harness.HelperConfig{Host: host})
	eachFamily(t, func(t *testing.T, f family) {
		p := w.pinger(t, f)
		reply, _, _ := p.types()
		for seq := range uint16(5) {
			p.echo(t, f.server, 9+seq, seq, nil)
		}
		p.echo(t, f.gateway, 1, 1, nil)
		if got, _ := p.wait(t, deadline, reply); got == nil {
			t.Error("the gateway does not answer without ping sockets")
		}
	})
	saysOnce(t, w.helper, "ping_group_range")
}

// TestB26_RawSocketWhereThereIsNoPingSocket: a helper that may open raw sockets, as
// root may, answers pings although ping sockets are refused.
func TestB26_RawSocketWhereThereIsNoPingSocket(t *testing.T) {
	ours(t, "word about ping sockets")
	host := must(env.NewNS())(t)
	t.Cleanup(func() { host.Close() })
	if err := host.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		for _, f := range families() {
			a, parseErr := netlink.ParseAddr(fmt.Sprintf("%s/%d", f.server, netip.MustParseAddr(f.server).BitLen()))
			if err == nil && parseErr == nil {
				a.Flags = unix.IFA_F_NODAD
				err = netlink.AddrAdd(lo, a)
			}
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	w := serveWith(t, harness.HelperConfig{Host: host, Caps: []uintptr{unix.CAP_NET_RAW}})
	eachFamily(t, func(t *testing.T, f family) {
		p := w.pinger(t, f)
		reply, _, unreachable := p.types()
		for id := range uint16(5) {
			payload := fmt.Appendf(nil, "ping %d", id)
			p.echo(t, f.server, id, 100+id, payload)
			got, from := p.wait(t, deadline, reply)
			if from != f.server || got == nil || !bytes.Equal(got[4:], echoRequest(f, id, 100+id, payload)[4:]) {
				t.Errorf("ping %d: % x from %q", id, got, from)
			}
		}
		p.echo(t, f.noNet, 2, 1, nil)
		if got, _ := p.wait(t, deadline, reply, unreachable); got == nil || got[0] != unreachable {
			t.Errorf("ping %s gave % x, want destination unreachable", f.noNet, got)
		}
	})
	if said := w.helper.Stderr.String(); strings.Contains(said, "ping_group_range") {
		t.Errorf("it says: %s", said)
	}
}
