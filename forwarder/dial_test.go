package forwarder

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"epiphyte/internal/flow"
	"epiphyte/internal/sockio"
	"epiphyte/internal/testnet"
	"epiphyte/stack"
)

// establish plays a guest's handshake and returns the sequence number that the
// other side expects acknowledged.
func (r *rig) establish(src, dst netip.AddrPort, seq uint32) (ack uint32) {
	r.T.Helper()
	r.send(testnet.SYN(src, dst, seq))
	p := r.receive(stack.ProtoTCP)
	// Not those of other connections, or of a former one of the same ports: a
	// kernel that has sent a SYN looks at nothing else either.
	for p.DstPort() != src.Port() || header.TCP(p.Payload).AckNumber() != seq+1 {
		p = r.receive(stack.ProtoTCP)
	}
	if p.TCPFlags() != header.TCPFlagSyn|header.TCPFlagAck {
		r.T.Fatalf("answer to the SYN has flags %v", p.TCPFlags())
	}
	ack = header.TCP(p.Payload).SequenceNumber() + 1
	before := r.counts().TCP
	r.send(testnet.TCP(src, dst, header.TCPFlagAck, seq+1, ack, nil))
	r.until("connection", func() bool { return r.counts().TCP == before+1 })
	return ack
}

// TestB13_RefusedIsReset: the guest gets the RST that the host got, with the
// numbers that make its kernel believe it, and no SYN-ACK before.
func TestB13_RefusedIsReset(t *testing.T) {
	for _, tt := range []struct {
		name           string
		host           string
		guest, gateway netip.Addr
	}{
		{"IPv4", "127.0.0.1:0", guest4, gateway4},
		{"IPv6", "[::1]:0", guest6, gateway6},
		{"IPv6 link-local gateway", "[::1]:0", netip.MustParseAddr("fe80::64"), gatewayLL},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, setup{})
			src, dst := at(tt.guest, 4000), at(tt.gateway, closedPort(t, tt.host))
			r.send(testnet.SYN(src, dst, 12345))
			p := r.receive(stack.ProtoTCP)
			if p.TCPFlags() != header.TCPFlagRst|header.TCPFlagAck || header.TCP(p.Payload).AckNumber() != 12346 {
				t.Errorf("flags %v, ack %d; want a RST of 12346", p.TCPFlags(), header.TCP(p.Payload).AckNumber())
			}
			if p.From() != dst || p.Dst != tt.guest || p.DstPort() != 4000 {
				t.Errorf("from %v to %v port %d", p.From(), p.Dst, p.DstPort())
			}
			r.wantCounts(counts{})
		})
	}
}

// TestB14_SilentDestination: no answer, one dial however often the SYN comes,
// and the answer when there is one at last.
func TestB14_SilentDestination(t *testing.T) {
	r := newRig(t, setup{})
	silent := testnet.SilentListener(t)
	syn := testnet.SYN(at(guest4, 4000), at(gateway4, silent.Port()), 1)
	for range 5 {
		r.send(syn)
	}
	r.wantCounts(counts{Dials: 1})
	if got := r.received(); len(got) != 0 {
		t.Errorf("the guest was told %+v of a silent host", got)
	}
	// A different sequence number with the same ports is a new attempt, and
	// shares the dial.
	r.send(testnet.SYN(at(guest4, 4000), at(gateway4, silent.Port()), 99))
	r.wantCounts(counts{Dials: 1})
}

// TestB14_FairDials: a guest address that scans cannot push out the dials of
// another one.
func TestB14_FairDials(t *testing.T) {
	const limit = 256
	r := newRig(t, setup{limits: flow.Limits{Dials: limit}})
	silent := at(gateway4, testnet.SilentListener(t).Port())
	before := testnet.Descriptors(t)
	quiet := netip.MustParseAddr("10.0.2.101")
	for port := range uint16(3) {
		r.send(testnet.SYN(at(quiet, 1000+port), silent, 1))
	}
	for port := range uint16(4096) {
		r.send(testnet.SYN(at(guest4, 1000+port), silent, 1))
	}
	r.wantCounts(counts{Dials: limit})
	if n := r.countOf(flow.Dial, quiet); n != 3 {
		t.Errorf("%d dials of the quiet address left, want 3", n)
	}
	if n := r.countOf(flow.Dial, guest4); n != limit-3 {
		t.Errorf("%d dials of the scanning address, want %d", n, limit-3)
	}
	// Of the scan, those asked for last are left.
	oldest := r.flows(flow.Dial)[3]
	if want := uint16(1000 + 4096 - (limit - 3)); oldest.Src.Port() != want {
		t.Errorf("oldest dial of the scan is from port %d, want %d", oldest.Src.Port(), want)
	}
	if n := testnet.Descriptors(t); n != before+limit {
		t.Errorf("%d descriptors with %d dials, %d before", n, limit, before)
	}
	// The quiet address gets more, at the cost of the other, up to its share.
	for port := range uint16(20) {
		r.send(testnet.SYN(at(quiet, 2000+port), silent, 1))
	}
	if n := r.countOf(flow.Dial, quiet); n != 23 {
		t.Errorf("%d dials of the quiet address, want 23", n)
	}
	r.wantCounts(counts{Dials: limit})
}

// Many addresses, each with its share, do not displace one another for ever: a
// new one always finds room.
func TestDialVictimAmongEquals(t *testing.T) {
	r := newRig(t, setup{limits: flow.Limits{Dials: 8}})
	silent := at(gateway4, testnet.SilentListener(t).Port())
	for i := range byte(20) {
		r.send(testnet.SYN(at(netip.AddrFrom4([4]byte{10, 0, 2, 110 + i}), 1000), silent, 1))
	}
	r.wantCounts(counts{Dials: 8})
	if n := r.countOf(flow.Dial, netip.AddrFrom4([4]byte{10, 0, 2, 129})); n != 1 {
		t.Error("the last address to ask found no room")
	}
	for i := range byte(8) {
		if a := netip.AddrFrom4([4]byte{10, 0, 2, 122 + i}); r.countOf(flow.Dial, a) != 1 {
			t.Errorf("%v has %d of 8 dials, want one", a, r.countOf(flow.Dial, a))
		}
	}
}

// A dial that was given up says nothing: the guest's own retransmission starts
// the next one.
func TestRetransmissionRevivesCancelledDial(t *testing.T) {
	r := newRig(t, setup{limits: flow.Limits{Dials: 1}})
	silent := at(gateway4, testnet.SilentListener(t).Port())
	first := testnet.SYN(at(guest4, 1), silent, 1)
	r.send(first)
	r.send(testnet.SYN(at(guest4, 2), silent, 1))
	if got := r.received(); len(got) != 0 {
		t.Errorf("the guest was told %+v", got)
	}
	r.send(first)
	r.wantCounts(counts{Dials: 1})
	if d := r.flows(flow.Dial)[0]; d.Src.Port() != 1 {
		t.Errorf("dial of port %d, want 1", d.Src.Port())
	}
}

// A guest that never acknowledges our SYN-ACK holds a dial, and the bound holds
// for it too.
func TestHandshakesAreBounded(t *testing.T) {
	r := newRig(t, setup{limits: flow.Limits{Dials: 16}})
	_, addr := testnet.ListenTCP(t, "127.0.0.1:0")
	for port := range uint16(100) {
		r.send(testnet.SYN(at(guest4, 1000+port), at(gateway4, addr.Port()), 1))
	}
	r.until("dials within the bound", func() bool { return r.counts().Dials <= 16 })
	for _, d := range r.flows(flow.Dial) {
		if r.Table.Find(flow.Dial, stack.ProtoTCP, d.Src, d.Remote) != d {
			t.Error("a dial under another's key")
		}
	}
	if c := r.counts(); c.TCP != 0 {
		t.Errorf("%d connections without a handshake", c.TCP)
	}
}

// A guest that resets instead of acknowledging leaves nothing behind.
func TestResetDuringHandshake(t *testing.T) {
	r := newRig(t, setup{})
	_, addr := testnet.ListenTCP(t, "127.0.0.1:0")
	before := testnet.Descriptors(t)
	src, dst := at(guest4, 4000), at(gateway4, addr.Port())
	r.send(testnet.SYN(src, dst, 1))
	p := r.receive(stack.ProtoTCP)
	if p.TCPFlags()&header.TCPFlagSyn == 0 {
		t.Fatalf("answer has flags %v", p.TCPFlags())
	}
	r.send(testnet.TCP(src, dst, header.TCPFlagRst, 2, 0, nil))
	r.until("end of the dial", func() bool { return r.counts() == counts{} })
	if n := testnet.Descriptors(t); n != before {
		t.Errorf("%d descriptors, %d before", n, before)
	}
}

// TestB19_DescriptorLimit: at the limit a new flow takes the place of a dial or
// a mapping; with connections alone left, it is refused by ICMP at once; those
// live on; and it recovers by itself.
func TestB19_DescriptorLimit(t *testing.T) {
	r := newRig(t, setup{})
	l, addr := testnet.ListenTCP(t, "127.0.0.1:0")
	dst := at(gateway4, addr.Port())
	silent := at(gateway4, testnet.SilentListener(t).Port())

	src := at(guest4, 4000)
	ack := r.establish(src, dst, 1)
	host, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()

	lift := limitDescriptors(t, 3)
	defer lift()
	r.send(datagram(at(guest4, 1), dst))
	r.send(testnet.SYN(at(guest4, 2), silent, 1))
	r.send(datagram(at(guest4, 3), dst))
	r.wantCounts(counts{TCP: 1, Dials: 1, Mappings: 2})
	r.send(datagram(at(guest4, 4), dst)) // in the place of the dial
	r.wantCounts(counts{TCP: 1, Mappings: 3})
	for port := range uint16(3) {
		r.establish(at(guest4, 4001+port), dst, 1) // in the places of the mappings
	}
	r.wantCounts(counts{TCP: 4})
	r.received()
	r.inbox = nil

	q := at(guest4, 5000)
	r.send(testnet.SYN(q, dst, 77))
	p := r.receive(stack.ProtoICMP)
	if p.Payload[0] != 3 || p.Payload[1] != 1 || p.Src != gateway4 {
		t.Errorf("told type %d code %d by %v, want host unreachable by the gateway", p.Payload[0], p.Payload[1], p.Src)
	}
	if quoted, ok := p.Quoted(); !ok || quoted.From() != q || quoted.Dst != gateway4 || quoted.DstPort() != dst.Port() ||
		binary.BigEndian.Uint32(quoted.Payload[4:]) != 77 {
		t.Errorf("quotes %+v", quoted)
	}
	r.send(datagram(at(guest4, 5001), dst))
	r.wantCounts(counts{TCP: 4})

	r.send(testnet.TCP(src, dst, header.TCPFlagAck|header.TCPFlagPsh, 2, ack, []byte("still here")))
	b := make([]byte, 64)
	if n, err := host.Read(b); err != nil || !bytes.Equal(b[:n], []byte("still here")) {
		t.Errorf("old connection: %q, %v", b[:n], err)
	}

	lift()
	r.establish(at(guest4, 5002), dst, 1)
	r.wantCounts(counts{TCP: 5})
}

// limitDescriptors leaves the process n descriptors to open.
func limitDescriptors(t *testing.T, n int) (lift func()) {
	t.Helper()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	// The limit is about numbers, so fill the gaps below the highest first.
	probe, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	fill := []int{probe}
	for testnet.Descriptors(t) <= fill[len(fill)-1] {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		fill = append(fill, fd)
	}
	limit := unix.Rlimit{Cur: uint64(fill[len(fill)-1] + 1 + n), Max: old.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	return func() {
		unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
		for _, fd := range fill {
			unix.Close(fd)
		}
		fill = nil
	}
}

// The number of connections has a bound of its own.
func TestConnectionLimit(t *testing.T) {
	r := newRig(t, setup{limits: flow.Limits{TCP: 3, Dials: 8}})
	_, addr := testnet.ListenTCP(t, "127.0.0.1:0")
	dst := at(gateway4, addr.Port())
	for port := range uint16(3) {
		r.establish(at(guest4, 4000+port), dst, 1)
	}
	r.send(testnet.SYN(at(guest4, 5000), dst, 1))
	for range 50 {
		r.turn()
	}
	if got := r.counts(); got.TCP+got.Dials > 3 {
		t.Errorf("%+v with a limit of 3 connections", got)
	}
}

// A connect that meets itself is refused.
func TestConnectThatMetItself(t *testing.T) {
	r := newRig(t, setup{})
	r.send(testnet.SYN(at(guest4, 40000), at(gateway4, testnet.SilentListener(t).Port()), 1))
	r.wantCounts(counts{Dials: 1})
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	for _, r := range r.flows(flow.Dial) {
		d := r.Owner.(*dial)
		d.host.Close()
		d.host.Start(fd, sockio.LocalAddr(fd), 0)
	}
	if p := r.receive(stack.ProtoTCP); header.TCP(p.Payload).Flags()&header.TCPFlagRst == 0 {
		t.Errorf("the guest was told %+v, want a reset", p)
	}
	r.wantCounts(counts{})
}
