package forwarder

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"epiphyte/internal/addressing/addressingtest"
	"epiphyte/internal/flow"
	"epiphyte/internal/policy"
	"epiphyte/internal/sockio"
	"epiphyte/internal/testnet"
	"epiphyte/stack"
)

// slow is a Decider that has what the guest sends wait until it is resolved.
type slow struct {
	policy.Pending
	rules policy.Rules
	asked int
}

func newSlow(t *testing.T) *slow { return &slow{rules: policy.Rules{Plan: addressingtest.New(t)}} }

func (s *slow) Decide(q policy.Request) policy.Decision {
	if q.Direction == policy.In {
		return s.rules.Decide(q)
	}
	s.asked++
	return policy.Decision{Action: policy.Wait, Pending: &s.Pending}
}

func allow(to netip.AddrPort) policy.Decision { return policy.Decision{Action: policy.Allow, To: to} }

func refuse(errno unix.Errno) policy.Decision {
	return policy.Decision{Action: policy.Refuse, Errno: errno}
}

// A connection that is allowed later is made then: until that the guest hears
// nothing, the host sees nothing, and one dial stands for all SYNs.
func TestConnectionIsAllowedLater(t *testing.T) {
	policy := newSlow(t)
	r := newRig(t, setup{Config: Config{Policy: policy}})
	l, addr := testnet.ListenTCP(t, "127.0.0.1:0")
	before := testnet.Descriptors(t)
	src, dst := at(guest4, 4000), at(netip.MustParseAddr("192.0.2.1"), 80)
	for range 5 {
		r.send(testnet.SYN(src, dst, 1))
	}
	r.wantCounts(counts{Dials: 1})
	if got := r.received(); len(got) != 0 || policy.asked != 1 {
		t.Errorf("asked %d times; the guest was told %+v", policy.asked, got)
	}
	if d := r.flows(flow.Dial)[0]; d.State != flow.Deciding || testnet.Descriptors(t) != before {
		t.Errorf("%v, %d descriptors, %d before", d.State, testnet.Descriptors(t), before)
	}
	policy.Resolve(allow(addr))
	answer := r.receiveFlags(header.TCPFlagSyn | header.TCPFlagAck)
	r.send(testnet.TCP(src, dst, ack|psh, 2, answer.SequenceNumber()+1, []byte("hello")))
	host := accept(t, l)
	r.until("bytes of the guest", func() bool {
		list := r.flows(flow.Conn)
		return len(list) == 1 && list[0].Out == 5
	})
	b := make([]byte, 16)
	if n, err := host.Read(b); err != nil || string(b[:n]) != "hello" {
		t.Errorf("the host read %q, %v", b[:n], err)
	}
	r.wantCounts(counts{TCP: 1})
}

// A connection that is not allowed after all ends in the way that the decision
// says, and leaves nothing.
func TestConnectionIsRefusedLater(t *testing.T) {
	src, dst := at(guest4, 4000), at(netip.MustParseAddr("192.0.2.1"), 80)
	for _, tt := range []struct {
		name      string
		decision  policy.Decision
		proto     uint8 // of the answer; zero: there is none
		typ, code byte  // of ICMP
	}{
		{"refused", refuse(unix.ECONNREFUSED), stack.ProtoTCP, 0, 0},
		{"unreachable", refuse(unix.ENETUNREACH), stack.ProtoICMP, 3, 0},
		{"prohibited", refuse(unix.EACCES), stack.ProtoICMP, 3, 13},
		{"dropped", policy.Decision{}, 0, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			policy := newSlow(t)
			r := newRig(t, setup{Config: Config{Policy: policy}})
			r.send(testnet.SYN(src, dst, 1))
			policy.Resolve(tt.decision)
			r.wantCounts(counts{})
			got := r.received()
			switch {
			case tt.proto == 0:
				if len(got) != 0 {
					t.Errorf("the guest was told %+v", got)
				}
			case len(got) != 1 || got[0].Proto != tt.proto:
				t.Errorf("the guest was told %+v", got)
			case tt.proto == stack.ProtoTCP:
				if got[0].TCPFlags() != header.TCPFlagRst|header.TCPFlagAck {
					t.Errorf("the guest was told flags %v, want a RST", got[0].TCPFlags())
				}
			case got[0].Payload[0] != tt.typ || got[0].Payload[1] != tt.code:
				t.Errorf("the guest was told type %d code %d", got[0].Payload[0], got[0].Payload[1])
			}
			r.send(testnet.SYN(src, dst, 1)) // may ask again
			r.wantCounts(counts{Dials: 1})
			if policy.asked != 2 {
				t.Errorf("asked %d times, want 2", policy.asked)
			}
		})
	}
}

// A dial that gave way while its decision was awaited is not made when that comes;
// nor is one of a table that is closed.
func TestDecisionForNobody(t *testing.T) {
	policy := newSlow(t)
	r := newRig(t, setup{Config: Config{Policy: policy}, limits: flow.Limits{Dials: 2}})
	l, addr := testnet.ListenTCP(t, "127.0.0.1:0")
	dst := at(netip.MustParseAddr("192.0.2.1"), 80)
	for port := range uint16(100) {
		r.send(testnet.SYN(at(guest4, 1000+port), dst, 1))
	}
	r.wantCounts(counts{Dials: 2})
	before := testnet.Descriptors(t)
	policy.Resolve(allow(addr))
	if n := testnet.Descriptors(t); n != before+2 {
		t.Errorf("%d descriptors opened for two dials", n-before)
	}
	for _, want := range []uint16{1098, 1099} {
		if p := r.receive(stack.ProtoTCP); p.DstPort() != want {
			t.Errorf("answer to port %d, want %d", p.DstPort(), want)
		}
		accept(t, l)
	}

	r.send(testnet.SYN(at(guest4, 3000), dst, 1))
	before = testnet.Descriptors(t)
	r.EndFlows()
	policy.Resolve(allow(addr))
	r.wantCounts(counts{})
	if n := testnet.Descriptors(t); n > before {
		t.Errorf("%d descriptors opened after the end", n-before)
	}
}

// Datagrams wait for their decision, whole and in order; what is too large to wait
// is lost, as are more than policy.Backlog takes.
func TestDatagramsAreAllowedLater(t *testing.T) {
	policy := newSlow(t)
	r := newRig(t, setup{Config: Config{Policy: policy}})
	host, addr := testnet.ListenUDP(t, "127.0.0.1:0")
	src, dst := at(guest4, 4000), at(netip.MustParseAddr("192.0.2.1"), 9)
	var want [][]byte
	for i, size := range []int{0, 1, 1400, 2019, 2020, 2021, 2040, 2041, 20000, 3} {
		payload := bytes.Repeat([]byte{byte(i + 1)}, size)
		if size <= 2040 { // with its header 2048
			want = append(want, payload)
		}
		r.send(testnet.UDP(src, dst, 64, payload))
	}
	for i := range 300 {
		payload := binary.BigEndian.AppendUint16(nil, uint16(i))
		if len(want) < 128 {
			want = append(want, payload)
		}
		r.send(testnet.UDP(src, dst, 64, payload))
	}
	r.wantCounts(counts{})
	policy.Resolve(allow(addr))
	r.wantCounts(counts{Mappings: 1})
	for i, w := range want {
		if got, _ := readDatagram(t, host); !bytes.Equal(got, w) {
			t.Fatalf("datagram %d has %d bytes, % x; want %d", i, len(got), got[:min(len(got), 4)], len(w))
		}
	}
	host.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if n, err := host.Read(make([]byte, 64)); err == nil {
		t.Errorf("a datagram of %d bytes more", n)
	}
	r.send(datagram(src, dst))
	policy.Resolve(allow(addr)) // there is room again
	if got, _ := readDatagram(t, host); string(got) != "hello" {
		t.Errorf("after the backlog: %q", got)
	}
}

// One guest whose datagrams wait does not take the place of another's.
func TestDatagramsOfEachGuestWait(t *testing.T) {
	policy := newSlow(t)
	many, one := new(flow.Guest), new(flow.Guest)
	guests := func(a netip.Addr) *flow.Guest {
		if a == guest4 {
			return one
		}
		return many
	}
	r := newRig(t, setup{Config: Config{Policy: policy, Guests: guests}})
	host, addr := testnet.ListenUDP(t, "127.0.0.1:0")
	dst := at(netip.MustParseAddr("192.0.2.1"), 9)
	for range 300 {
		r.send(testnet.UDP(at(netip.MustParseAddr("10.0.2.50"), 4000), dst, 64, []byte("many")))
	}
	r.send(testnet.UDP(at(guest4, 4000), dst, 64, []byte("one")))
	policy.Resolve(allow(addr))
	for {
		if got, _ := readDatagram(t, host); string(got) == "one" {
			return
		}
	}
}

// What is refused later quotes the datagram that was sent.
func TestDatagramIsRefusedLater(t *testing.T) {
	policy := newSlow(t)
	r := newRig(t, setup{Config: Config{Policy: policy}})
	src, dst := at(guest4, 4000), at(netip.MustParseAddr("192.0.2.1"), 9)
	r.send(datagram(src, dst), datagram(at(guest4, 4001), dst)) // the buffer is used again
	policy.Resolve(refuse(unix.ECONNREFUSED))
	for _, from := range []netip.AddrPort{src, at(guest4, 4001)} {
		p := r.receive(stack.ProtoICMP)
		quoted, ok := p.Quoted()
		if p.Payload[0] != 3 || p.Payload[1] != 3 || !ok || quoted.From() != from || quoted.Dst != dst.Addr() || quoted.DstPort() != 9 {
			t.Errorf("type %d code %d, quotes %+v, want %v", p.Payload[0], p.Payload[1], quoted, from)
		}
	}
	r.wantCounts(counts{})
}

// A query waits too, and is the resolver's if the decision says so.
func TestQueryIsServedLater(t *testing.T) {
	decider, dns := newSlow(t), new(fakeDNS)
	r := newRig(t, setup{Config: Config{Policy: decider, DNS: dns}})
	dns.shard = r.Shard
	dst := at(netip.MustParseAddr("10.0.2.3"), 53)
	r.send(testnet.UDP(at(guest4, 4000), dst, 64, []byte("query")))
	decider.Resolve(policy.Decision{Action: policy.ServeDNS})
	if p := r.receive(stack.ProtoUDP); p.From() != dst || string(p.Payload[8:]) != "answer:query" {
		t.Errorf("answer %q from %v", p.Payload[8:], p.From())
	}
}

// Pings wait in the same way.
func TestPingIsAllowedLater(t *testing.T) {
	ownNetwork(t, allGroups)
	policy := newSlow(t)
	r := newRig(t, setup{Config: Config{Policy: policy}})
	there := netip.MustParseAddr(there4)
	for seq := range uint16(200) {
		r.send(testnet.Echo(guest4, there, 77, seq, 64, []byte("payload")))
	}
	r.wantCounts(counts{})
	policy.Resolve(allow(at(there, 0)))
	for seq := range uint16(128) {
		p := r.receive(stack.ProtoICMP)
		if id, got := binary.BigEndian.Uint16(p.Payload[4:]), binary.BigEndian.Uint16(p.Payload[6:]); p.Payload[0] != 0 || id != 77 || got != seq {
			t.Fatalf("type %d, id %d, sequence %d; want the reply to %d", p.Payload[0], id, got, seq)
		}
	}
	r.turn()
	if got := r.received(); len(got) != 0 {
		t.Errorf("%d replies more", len(got))
	}
	r.send(testnet.Echo(guest4, there, 77, 1000, 64, nil))
	policy.Resolve(refuse(unix.ENETUNREACH))
	if p := r.receive(stack.ProtoICMP); p.Payload[0] != 3 || p.Payload[1] != 0 {
		t.Errorf("type %d code %d", p.Payload[0], p.Payload[1])
	}
}

// answering is the owner of a peer's socket: it remembers whom to answer.
type answering struct{ from sockio.Addr }

func (a *answering) Received(from *sockio.Addr, _ []byte, _ int, _ [][]byte) { a.from = *from }
func (a *answering) SendFailed(*sockio.Datagram, unix.Errno)                 {}

// A datagram of a mapping that stands costs nothing that is to be collected, either
// way: the decision, the mapping, the socket.
func TestNoAllocationPerDatagram(t *testing.T) {
	r := newRig(t, setup{})
	host, addr := testnet.ListenUDP(t, "127.0.0.1:0")
	file, err := host.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	peer := new(answering)
	socket := &sockio.DatagramSocket{FD: int(file.Fd()), Owner: peer}
	unix.SetNonblock(socket.FD, true)
	frame := datagram(at(guest4, 4000), at(gateway4, addr.Port()))
	r.send(frame)
	m := r.flows(flow.Mapping)[0]

	p := &stack.Packet{Src: guest4, Dst: gateway4, Proto: stack.ProtoUDP, TTL: 64, Head: frame[34:], Fresh: true}
	batch := new(sockio.Batch)
	answer := sockio.Datagram{Payload: [2][]byte{[]byte("answer")}}
	r.Device.Discard()
	begun := time.Now()
	step := func() {
		r.f.UDP(p)
		r.f.Flush()
		for n := 0; n == 0 && time.Since(begun) < 5*time.Second; {
			n, _ = batch.Read(socket)
		}
		answer.To = peer.from
		batch.Send(socket, &answer)
		for in := m.In; m.In == in && time.Since(begun) < 5*time.Second; {
			if err := r.Shard.Turn(0); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := testing.AllocsPerRun(100, step); n > 0 {
		t.Errorf("%v allocations", n)
	}
	if m.Out != 102*5 || m.In != 101*6 { // one is sent first, and one step warms up
		t.Errorf("%d bytes out, %d in", m.Out, m.In)
	}
}

// reader is a Decider whose watch passes datagrams that begin with '+', forbids those with
// '-', and has others wait.
type reader struct {
	slow
	to netip.AddrPort
}

func (w *reader) Decide(q policy.Request) policy.Decision {
	if q.Direction == policy.In {
		return w.rules.Decide(q)
	}
	return policy.Decision{Action: policy.Allow, To: w.to, Watch: w, Pending: &w.Pending}
}

func (w *reader) Flow(*flow.Flow, netip.AddrPort) {}

func (w *reader) Sees(b []byte, _ bool) policy.Sight {
	switch b[0] {
	case '+':
		return policy.Passed
	case '-':
		return policy.Forbidden
	}
	return policy.Undecided
}

// Each datagram of a super-datagram is judged by itself: what waits takes none with it that
// may not leave, and holds up none that may.
func TestSuperDatagramIsSeenInParts(t *testing.T) {
	host, addr := testnet.ListenUDP(t, "127.0.0.1:0")
	w := &reader{slow: *newSlow(t), to: addr}
	r := newRigOn(t, setup{Config: Config{Policy: w}}, true)
	src, dst := at(guest4, 4000), at(netip.MustParseAddr("192.0.2.1"), 443)
	if err := r.Port.WriteSegments(3, testnet.UDP(src, dst, 64, []byte("?1.+2.+3.-4.?5.+6"))); err != nil {
		t.Fatal(err)
	}
	r.turn()
	want := func(list ...string) {
		t.Helper()
		for _, datagram := range list {
			if got, _ := readDatagram(t, host); string(got) != datagram {
				t.Fatalf("arrived: %q, want %q", got, datagram)
			}
		}
	}
	want("+2.", "+3.", "+6")
	if p := r.receive(stack.ProtoICMP); p.Payload[0] != 3 || p.Payload[1] != 13 {
		t.Errorf("the guest was told %d, %d", p.Payload[0], p.Payload[1])
	}
	w.Resolve(allow(addr))
	want("?1.", "?5.")
	r.send(testnet.UDP(src, dst, 64, []byte("+end")))
	want("+end")
}
