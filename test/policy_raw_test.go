package test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// tcpFlags of a segment, RFC 9293 section 3.1.
const (
	flagFIN = 1 << iota
	flagSYN
	flagRST
	flagPSH
	flagACK
)

// segment is a TCP packet with anything in it.
func segment(src, dst netip.AddrPort, seq, ack uint32, flags byte, data []byte) []byte {
	b := make([]byte, 20, 20+len(data))
	binary.BigEndian.PutUint16(b, src.Port())
	binary.BigEndian.PutUint16(b[2:], dst.Port())
	binary.BigEndian.PutUint32(b[4:], seq)
	binary.BigEndian.PutUint32(b[8:], ack)
	b[12], b[13] = 5<<4, flags
	binary.BigEndian.PutUint16(b[14:], 65535)
	return ipPacket(src.Addr(), dst.Addr(), unix.IPPROTO_TCP, withChecksum(src.Addr(), dst.Addr(), unix.IPPROTO_TCP, append(b, data...), 16))
}

// stranger is a TCP of our own at an address of the guest's subnet that its kernel knows
// nothing of, and so does not reset.
type stranger struct {
	t        testing.TB
	w        *wire
	src, dst netip.AddrPort
	seq, ack uint32
}

// connectRaw opens a connection; syn is data that the SYN carries.
func connectRaw(t testing.TB, w *wire, dst netip.AddrPort, sport uint16, syn []byte) (*stranger, error) {
	t.Helper()
	from := netip.MustParseAddr("10.0.2.77")
	if dst.Addr().Is6() {
		from = netip.MustParseAddr("fd00::77")
	}
	s := &stranger{t: t, w: w, src: netip.AddrPortFrom(from, sport), dst: dst, seq: 1000}
	w.send(t, segment(s.src, dst, s.seq, 0, flagSYN, syn))
	flags, seq, ack, _, err := s.next()
	switch {
	case err != nil:
		return nil, err
	case flags&flagRST != 0:
		return nil, unix.ECONNREFUSED
	case flags&flagSYN == 0:
		return nil, fmt.Errorf("answered with flags %#x", flags)
	}
	s.ack, s.seq = seq+1, ack
	w.send(t, segment(s.src, dst, s.seq, s.ack, flagACK, nil))
	return s, nil
}

// send sends data at an offset from what has been acknowledged.
func (s *stranger) send(offset int, data []byte) {
	s.t.Helper()
	s.w.send(s.t, segment(s.src, s.dst, s.seq+uint32(offset), s.ack, flagACK|flagPSH, data))
}

// next is the next segment of the connection, or what ICMP says of it.
func (s *stranger) next() (flags byte, seq, ack uint32, data []byte, err error) {
	b := make([]byte, 1<<16)
	err = harness.Eventually(deadline, func() error {
		for {
			n, from, err := unix.Recvfrom(s.w.fd, b, unix.MSG_DONTWAIT)
			if err != nil {
				return err
			}
			if from.(*unix.SockaddrLinklayer).Pkttype == unix.PACKET_OUTGOING {
				continue
			}
			var src, dst netip.Addr
			rest := b[14:n]
			protocol := byte(0)
			switch {
			case len(rest) >= 20 && rest[0] == 0x45:
				src, dst, protocol = netip.AddrFrom4([4]byte(rest[12:])), netip.AddrFrom4([4]byte(rest[16:])), rest[9]
				rest = rest[20:binary.BigEndian.Uint16(rest[2:])]
			case len(rest) >= 40 && rest[0]>>4 == 6:
				src, dst, protocol = netip.AddrFrom16([16]byte(rest[8:])), netip.AddrFrom16([16]byte(rest[24:])), rest[6]
				rest = rest[40 : 40+int(binary.BigEndian.Uint16(rest[4:]))]
			}
			if dst != s.src.Addr() {
				continue
			}
			if protocol == unix.IPPROTO_ICMP && rest[0] == 3 || protocol == unix.IPPROTO_ICMPV6 && rest[0] == 1 {
				flags = flagRST
				return nil
			}
			if protocol != unix.IPPROTO_TCP || src != s.dst.Addr() || binary.BigEndian.Uint16(rest[2:]) != s.src.Port() {
				continue
			}
			flags, seq, ack = rest[13], binary.BigEndian.Uint32(rest[4:]), binary.BigEndian.Uint32(rest[8:])
			data = slices.Clone(rest[rest[12]>>4*4:])
			return nil
		}
	})
	return flags, seq, ack, data, err
}

// read reads until there are n bytes, the end or a reset.
func (s *stranger) read(n int) (got []byte, err error) {
	s.t.Helper()
	for len(got) < n {
		flags, seq, _, data, err := s.next()
		if err != nil {
			return got, err
		}
		if flags&flagRST != 0 {
			return got, unix.ECONNRESET
		}
		if seq == s.ack && len(data) > 0 {
			got = append(got, data...)
			s.ack += uint32(len(data))
			s.w.send(s.t, segment(s.src, s.dst, s.seq, s.ack, flagACK, nil))
		}
		if flags&flagFIN != 0 {
			return got, io.EOF
		}
	}
	return got, nil
}

// arrivals are what servers have got.
type arrivals struct {
	mu   sync.Mutex
	seen []string
}

func (a *arrivals) note(s string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen = append(a.seen, s)
}

func (a *arrivals) clear() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen = nil
}

// about are those that hold a text.
func (a *arrivals) about(text string) (list []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.seen {
		if strings.Contains(s, text) {
			list = append(list, s)
		}
	}
	return list
}

// rawAttacks are packets of a text to a server's ports of UDP and TCP, as only root sends
// them; each by how it is made.
func rawAttacks(src, dst netip.Addr, udp, tcp uint16, text string) map[string][][]byte {
	datagram := udpPacket(src, dst, 4000, int(udp), text)
	syn := func(from uint16) []byte {
		return segment(netip.AddrPortFrom(src, from), netip.AddrPortFrom(dst, tcp), 1, 0, flagSYN, []byte(text))
	}
	all := map[string][][]byte{
		"datagram":      {datagram},
		"SYN with data": {syn(4001)},
		"no SYN":        {segment(netip.AddrPortFrom(src, 4002), netip.AddrPortFrom(dst, tcp), 1, 1, flagACK|flagPSH, []byte(text))},
		"SYN and FIN":   {segment(netip.AddrPortFrom(src, 4003), netip.AddrPortFrom(dst, tcp), 1, 0, flagSYN|flagFIN, []byte(text))},
	}
	if src.Is4() {
		all["fragments"] = fragments4(datagram)
		all["fragments of a SYN"] = fragments4(syn(4004))
		all["IP options"] = [][]byte{withOptions4(datagram, []byte{1, 1, 1, 0})}
		// Loose source route by way of the destination (RFC 791 section 3.1).
		all["source route"] = [][]byte{withOptions4(datagram, append([]byte{131, 7, 4}, append(dst.AsSlice(), 0)...))}
		return all
	}
	all["fragments"] = fragments6(datagram)
	all["fragments of a SYN"] = fragments6(syn(4004))
	for name, header := range map[string][]byte{
		"hop-by-hop options":  {0, 0, 1, 4, 0, 0, 0, 0}, // PadN
		"destination options": {60, 0, 1, 4, 0, 0, 0, 0},
		"routing header":      {43, 2, 0, 1, 0, 0, 0, 0},
	} {
		kind, h := header[0], slices.Clone(header)
		if kind == 43 {
			h = append(h, dst.AsSlice()...)
		}
		all[name] = [][]byte{withHeader6(datagram, kind, h)}
	}
	return all
}

func fragments4(packet []byte) [][]byte {
	const first = 16 // bytes of the transport header in the first of them
	var parts [][]byte
	for i, cut := range [][]byte{packet[20 : 20+first], packet[20+first:]} {
		p := append(slices.Clone(packet[:20]), cut...)
		binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
		binary.BigEndian.PutUint16(p[4:], 77)
		binary.BigEndian.PutUint16(p[6:], map[int]uint16{0: 0x2000, 1: first / 8}[i])
		p[10], p[11] = 0, 0
		binary.BigEndian.PutUint16(p[10:], checksum(p[:20]))
		parts = append(parts, p)
	}
	return parts
}

func withOptions4(packet, options []byte) []byte {
	p := append(append(slices.Clone(packet[:20]), options...), packet[20:]...)
	p[0] += byte(len(options) / 4)
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	p[10], p[11] = 0, 0
	binary.BigEndian.PutUint16(p[10:], checksum(p[:20+len(options)]))
	return p
}

// withHeader6 puts an extension header before the transport's; its next header is filled in.
func withHeader6(packet []byte, kind byte, header []byte) []byte {
	p := append(append(slices.Clone(packet[:40]), header...), packet[40:]...)
	p[6], p[40] = kind, packet[6]
	binary.BigEndian.PutUint16(p[4:], uint16(len(p)-40))
	return p
}

func fragments6(packet []byte) [][]byte {
	const kind, first = 44, 16
	var parts [][]byte
	for i, cut := range [][]byte{packet[40 : 40+first], packet[40+first:]} {
		p := append(slices.Clone(packet[:40]), cut...)
		parts = append(parts, withHeader6(p, kind, []byte{0, 0, 0, map[int]byte{0: 1, 1: first}[i], 0, 0, 0, 77}))
	}
	return parts
}

// TestPolicyRawFrames: whatever root in the guest puts on the wire, with addresses and
// headers of its own, nothing reaches a server that is not allowed. The same packets reach
// one that is, where anything does.
func TestPolicyRawFrames(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, f family) {
		var got arrivals
		listen := func(addr string) (udp, tcp uint16) {
			u := servePacket(t, env.Net.Net, "udp"+f.v, net.JoinHostPort(addr, "0"), func(b []byte, _ net.Addr) []byte {
				got.note(addr + " udp " + string(b))
				return nil
			})
			l := serveTCP(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(addr, "0"), func(*net.TCPConn) { got.note(addr + " tcp") })
			return netip.MustParseAddrPort(u.LocalAddr().String()).Port(), netip.MustParseAddrPort(l.String()).Port()
		}
		udp, tcp := listen(f.server)
		openUDP, openTCP := listen(f.other)
		p := underPolicy(t, "allow "+f.other+"\nallow bound.example\n")
		w := p.wire(t)
		own := netip.MustParseAddr(map[string]string{"4": "10.0.2.55", "6": "fd00::55"}[f.v])
		allowed := netip.MustParseAddr(f.other)
		for name, packets := range rawAttacks(own, allowed, openUDP, openTCP, "a text that is long enough") {
			for _, packet := range packets {
				w.send(t, packet)
			}
			reaches := !slices.Contains([]string{"no SYN", "SYN and FIN", "source route", "routing header"}, name)
			if !reaches {
				continue
			}
			eventually(t, deadline, func() error {
				if len(got.about(f.other)) == 0 {
					return fmt.Errorf("%s to a server that is allowed does not reach it", name)
				}
				return nil
			})
			got.clear()
		}
		denied := []netip.Addr{netip.MustParseAddr(f.server), netip.MustParseAddr(map[string]string{"4": "198.18.7.7", "6": "fd3b:91c7:5e2a:1::707"}[f.v])}
		if f.v == "6" {
			denied = append(denied, netip.MustParseAddr("::ffff:"+harness.NetIPv4), netip.MustParseAddr("::"+harness.NetIPv4),
				netip.MustParseAddr("64:ff9b::"+harness.NetIPv4))
		}
		sources := []netip.Addr{own, netip.MustParseAddr(f.gateway), netip.MustParseAddr(f.other), netip.MustParseAddr(f.loop), denied[0], denied[1]}
		for _, src := range sources {
			for _, dst := range denied {
				for _, packets := range rawAttacks(src, dst, udp, tcp, "forbidden text") {
					for _, packet := range packets {
						w.send(t, packet)
					}
				}
			}
		}
		// What is sent last arrives last.
		if c := p.dial(t, "udp"+f.v, net.JoinHostPort(f.other, fmt.Sprint(openUDP))); c != nil {
			eventually(t, deadline, func() error {
				if _, err := c.Write([]byte("the end")); err != nil {
					return err
				}
				if len(got.about("the end")) == 0 {
					return errors.New("the guest is not served any more")
				}
				return nil
			})
		}
		if seen := got.about(f.server); len(seen) > 0 {
			t.Errorf("reached what is not allowed: %q", seen)
		}
		if seen := got.about("forbidden"); len(seen) > 0 {
			t.Errorf("left the guest: %q", seen)
		}
	})
}

// TestPolicyHelloInAnyOrder: a hello whose segments come out of order, twice and overlapping
// is read as the server would have it.
func TestPolicyHelloInAnyOrder(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, f family) {
		server := serveTCP(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.server, "0"), echoTCP)
		p := underPolicy(t, "allow good.example\n")
		p.zone.lead(f, "good.example", f.server)
		addr, _ := p.find(t, "good.example", f.kind())
		w := p.wire(t)
		for i, tt := range []struct {
			sni  string
			want bool
		}{{"good.example", true}, {"evil.example", false}} {
			s, err := connectRaw(t, w, netip.MustParseAddrPort(hostPort(addr, server)), uint16(5000+i), nil)
			if err != nil {
				t.Fatal(err)
			}
			b := clientHello(t, tt.sni)
			// The last part first, a part in the middle twice, with other bytes the second time.
			third := len(b) / 3
			s.send(2*third, b[2*third:])
			s.send(third, b[third:2*third+5])
			s.send(third, []byte(strings.Repeat("x", third)))
			s.send(0, b[:third])
			got, err := s.read(len(b))
			if tt.want && (err != nil || string(got) != string(b)) {
				t.Errorf("SNI %s: %d of %d bytes came back, %v", tt.sni, len(got), len(b), err)
			}
			if !tt.want && (len(got) > 0 || !errors.Is(err, unix.ECONNRESET)) {
				t.Errorf("SNI %s: %d bytes came back, %v", tt.sni, len(got), err)
			}
		}
	})
}

// kind and record are the type of a name's addresses of the family.
func (f family) kind() uint16 {
	if f.v == "6" {
		return dns.TypeAAAA
	}
	return dns.TypeA
}

func (f family) record() string { return dns.TypeToString[f.kind()] }

// TestPolicyHalfAHello: what begins like TLS and does not go on is held for three seconds,
// and then both sides are reset: nothing of it leaves.
func TestPolicyHalfAHello(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, f family) {
		var got arrivals
		server := serveTCP(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.server, "0"), func(c *net.TCPConn) {
			b, err := io.ReadAll(c)
			got.note(fmt.Sprintf("%q, then %v", b, err))
		})
		p := underPolicy(t, "allow good.example\n")
		p.zone.lead(f, "good.example", f.server)
		c, err := p.connect(t, "good.example", f.kind(), port(server))
		if err != nil {
			t.Fatal(err)
		}
		whole := clientHello(t, "good.example")
		begin := time.Now()
		if _, err := c.Write(whole[:len(whole)-1]); err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(deadline))
		if n, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("read %d, %v, want a reset", n, err)
		}
		if took := time.Since(begin); took < 2*time.Second || os.IsTimeout(err) {
			t.Errorf("held for %v", took)
		}
		eventually(t, deadline, func() error {
			if seen := got.about(`"", then read `); len(seen) != 1 || !strings.Contains(seen[0], "reset") {
				return fmt.Errorf("the server got %q, want nothing and a reset", got.about(""))
			}
			return nil
		})
		p.wantRecord(t, "good.example", "deny", "hello not readable")
	})
}
