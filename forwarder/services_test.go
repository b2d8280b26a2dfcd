package forwarder

import (
	"bytes"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"epiphyte/internal/addressing/addressingtest"
	"epiphyte/internal/dhcp"
	"epiphyte/internal/policy"
	"epiphyte/internal/shard"
	"epiphyte/internal/testnet"
	"epiphyte/stack"
)

// fakeDNS answers a query with itself behind "answer:", in the next turn of the
// shard, with bytes that are good for no longer.
type fakeDNS struct {
	shard      *shard.Shard
	overloaded bool
	streams    []int // ends that the forwarder is given
}

func (d *fakeDNS) Submit(query []byte, from, to netip.AddrPort, reply func(netip.AddrPort, netip.AddrPort, []byte)) bool {
	if d.overloaded {
		return false
	}
	answer := append([]byte("answer:"), query...)
	d.shard.Again(shard.TaskFunc(func() {
		reply(from, to, answer)
		clear(answer)
	}))
	return true
}

func (d *fakeDNS) Stream(netip.AddrPort) (int, error) {
	if len(d.streams) == 0 {
		return -1, unix.EMFILE
	}
	fd := d.streams[0]
	d.streams = d.streams[1:]
	return fd, nil
}

// TestB27_QueryByUDP: the bytes pass unchanged, whatever they are and however
// many, and the answer comes from where the query went.
func TestB27_QueryByUDP(t *testing.T) {
	for _, tt := range []struct{ guest, dns string }{
		{"10.0.2.100", "10.0.2.3"}, {"fd00::64", "fd00::3"}, {"fe80::64", "fe80::3"},
	} {
		for _, size := range []int{0, 1, 12, 512, 2019, 2020, 2021, 4096, 20000} {
			dns := new(fakeDNS)
			r := newRig(t, setup{Config: Config{DNS: dns}})
			dns.shard = r.Shard
			query := bytes.Repeat([]byte{0xa5}, size)
			src, dst := at(netip.MustParseAddr(tt.guest), 4000), at(netip.MustParseAddr(tt.dns), 53)
			r.send(testnet.UDP(src, dst, 64, query))
			p := r.receiveWhole(stack.ProtoUDP)
			if p.From() != dst || p.Dst != src.Addr() || p.DstPort() != src.Port() {
				t.Errorf("answer from %v to %v port %d", p.From(), p.Dst, p.DstPort())
			}
			if want := append([]byte("answer:"), query...); !bytes.Equal(p.Payload[8:], want) {
				t.Errorf("query of %d bytes to %v came back as %d bytes", size, dst, len(p.Payload)-8)
			}
			r.wantCounts(counts{}) // no mapping is made of it
		}
	}
}

// receiveWhole waits for a packet and puts its fragments together, which come
// in order here.
func (r *rig) receiveWhole(proto uint8) testnet.Packet {
	r.T.Helper()
	var p testnet.Packet
	r.until("packet for the guest", func() bool {
		for _, next := range r.received() {
			if next.Proto != proto {
				continue
			}
			if !p.Src.IsValid() {
				p = next
				p.Payload = nil
			}
			p.Payload = append(p.Payload, next.Payload...)
			if !next.More {
				return true
			}
		}
		return false
	})
	return p
}

// An overloaded resolver is silent, as a lost query is; none at all says that
// the port is closed.
func TestQueryWithoutResolver(t *testing.T) {
	query := testnet.UDP(at(guest4, 4000), at(netip.MustParseAddr("10.0.2.3"), 53), 64, []byte("query"))
	r := newRig(t, setup{Config: Config{DNS: &fakeDNS{overloaded: true}}})
	r.send(query)
	if got := r.received(); len(got) != 0 {
		t.Errorf("overloaded: the guest was told %+v", got)
	}
	r = newRig(t, setup{})
	r.send(query)
	if p := r.receive(stack.ProtoICMP); p.Payload[0] != 3 || p.Payload[1] != 3 {
		t.Errorf("no resolver: type %d code %d", p.Payload[0], p.Payload[1])
	}
	r.send(testnet.SYN(at(guest4, 4000), at(netip.MustParseAddr("10.0.2.3"), 53), 1))
	if p := r.receive(stack.ProtoTCP); p.TCPFlags()&4 == 0 {
		t.Errorf("no resolver, by TCP: flags %v, want a RST", p.TCPFlags())
	}
}

// Where the resolver has no room for another stream the guest is told at once, and
// may come again; it does not look as if nobody served the port.
func TestB27_NoStreamLeft(t *testing.T) {
	r := newRig(t, setup{Config: Config{DNS: new(fakeDNS)}})
	r.send(testnet.SYN(at(guest4, 4000), at(netip.MustParseAddr("10.0.2.3"), 53), 1))
	if p := r.receive(stack.ProtoICMP); p.Payload[0] != 3 || p.Payload[1] != 1 {
		t.Errorf("type %d code %d, want host unreachable", p.Payload[0], p.Payload[1])
	}
	r.wantCounts(counts{})
}

// TestB27_StreamByTCP: a connection to the DNS address is one of the resolver's
// streams, in both directions, and gone when either end is.
func TestB27_StreamByTCP(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, setup{Config: Config{DNS: &fakeDNS{streams: fds[:1]}}})
	src, dst := at(guest4, 4000), at(netip.MustParseAddr("10.0.2.3"), 53)
	ack := r.establish(src, dst, 1)
	r.send(testnet.TCP(src, dst, 0x18, 2, ack, []byte("\x00\x05query")))
	b := make([]byte, 64)
	r.until("query", func() bool {
		n, err := unix.Read(fds[1], b)
		if err == nil && string(b[:n]) != "\x00\x05query" {
			t.Errorf("the resolver read %q", b[:n])
		}
		return err == nil
	})
	if _, err := unix.Write(fds[1], []byte("\x00\x06answer")); err != nil {
		t.Fatal(err)
	}
	r.until("answer", func() bool {
		for _, p := range r.received() {
			if p.Proto == stack.ProtoTCP && bytes.HasSuffix(p.Payload, []byte("\x00\x06answer")) {
				return true
			}
		}
		return false
	})
	r.send(testnet.TCP(src, dst, 0x14, 2+7, ack, nil)) // RST
	r.until("end of the flow", func() bool { return r.counts() == counts{} })
	if n, err := unix.Read(fds[1], b); n != 0 && err == nil {
		t.Errorf("the resolver's end reads %d bytes, %v; want the end", n, err)
	}
	unix.Close(fds[1])
}

// TestDHCPAnswersByBroadcast: whoever asks has no address yet, so the answer
// goes to all, from the gateway, to the client's port.
func TestDHCPAnswersByBroadcast(t *testing.T) {
	p := addressingtest.New(t)
	for _, tt := range []struct{ src, dst netip.Addr }{
		{netip.IPv4Unspecified(), broadcast4},
		{netip.MustParseAddr("10.0.2.15"), p.Gateway},
	} {
		for _, disabled := range []bool{false, true} {
			r := newRig(t, setup{
				rules:  policy.Rules{DisableHostLoopback: disabled, DisableDNS: disabled},
				Config: Config{DHCP: dhcp.New(dhcp.Config{Plan: p, MTU: 1500, MAC: p.MAC})},
			})
			r.send(testnet.UDP(at(tt.src, 68), at(tt.dst, 67), 64, discover()))
			got := r.receive(stack.ProtoUDP)
			if got.From() != at(p.Gateway, 67) || got.Dst != broadcast4 || got.DstPort() != 68 {
				t.Errorf("answer from %v to %v port %d", got.From(), got.Dst, got.DstPort())
			}
			offer := got.Payload[8:]
			if len(offer) < 240 || offer[0] != 2 || !bytes.Equal(offer[4:8], []byte{1, 2, 3, 4}) {
				t.Errorf("answer of %d bytes is no reply to the request", len(offer))
			} else if a := netip.AddrFrom4([4]byte(offer[16:20])); a.Less(p.DHCPStart) || p.DHCPEnd.Less(a) {
				t.Errorf("offers %v, not in %v-%v", a, p.DHCPStart, p.DHCPEnd)
			}
			r.wantCounts(counts{})
		}
	}
}

// discover is a DHCPDISCOVER (RFC 2131, section 2).
func discover() []byte {
	b := make([]byte, 240)
	b[0], b[1], b[2] = 1, 1, 6
	copy(b[4:], []byte{1, 2, 3, 4}) // xid
	mac := testnet.GuestMAC()
	copy(b[28:], mac[:])
	copy(b[236:], []byte{99, 130, 83, 99})
	return append(b, 53, 1, 1, 255)
}

// TestDHCPv6AnswersTheAsker: an INFORMATION-REQUEST to the servers' group is
// answered from the gateway's link-local address.
func TestDHCPv6AnswersTheAsker(t *testing.T) {
	p := addressingtest.New(t)
	r := newRig(t, setup{Config: Config{DHCP: dhcp.New(dhcp.Config{Plan: p, MTU: 1500, MAC: p.MAC})}})
	src := at(netip.MustParseAddr("fe80::64"), 546)
	r.send(testnet.UDP(src, at(dhcp6Servers, 547), 64, []byte{11, 1, 2, 3}))
	got := r.receive(stack.ProtoUDP)
	if got.From() != at(p.GatewayLinkLocal, 547) || got.Dst != src.Addr() || got.DstPort() != 546 {
		t.Errorf("answer from %v to %v port %d", got.From(), got.Dst, got.DstPort())
	}
	if b := got.Payload[8:]; len(b) < 4 || b[0] != 7 || !bytes.Equal(b[1:4], []byte{1, 2, 3}) {
		t.Errorf("answer begins % x", b[:min(4, len(b))])
	}
}

// A server that is not there is silent: DHCP clients ask again.
func TestDHCPWithoutServer(t *testing.T) {
	r := newRig(t, setup{})
	r.send(
		testnet.UDP(at(netip.IPv4Unspecified(), 68), at(broadcast4, 67), 64, discover()),
		testnet.UDP(at(netip.MustParseAddr("fe80::64"), 546), at(dhcp6Servers, 547), 64, []byte{11, 1, 2, 3}),
	)
	if got := r.received(); len(got) != 0 {
		t.Errorf("the guest was told %+v", got)
	}
	r.wantCounts(counts{})
}
