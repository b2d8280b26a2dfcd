package bridge

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"epiphyte/internal/testnet"
	"epiphyte/stack"
)

// talk is a network of three members that are followed, and a connection that the first one
// asks the second one for, segment by segment.
type talk struct {
	*network
	addrs [2]netip.AddrPort
	first [2]uint32 // the sequence numbers of either's SYN, from which those of segments count
	busy  []*Conn   // Busy was called with
}

// segment is what a member sends to the other one; ACK, if it has no other flags.
type segment struct {
	flags    header.TCPFlags
	seq, ack uint32
	window   uint16
	options  []byte
	data     []byte
}

const (
	flagSYN    = header.TCPFlagSyn
	flagSYNACK = header.TCPFlagSyn | header.TCPFlagAck
	flagFIN    = header.TCPFlagFin | header.TCPFlagAck
	flagRST    = header.TCPFlagRst
)

func newTalk(t testing.TB, cfg Config) *talk {
	t.Helper()
	k := &talk{addrs: [2]netip.AddrPort{at(me.IPv4, 1000), at(you.IPv4, 80)}, first: [2]uint32{1000, 5000}}
	cfg.Busy = func(c *Conn) { k.busy = append(k.busy, c) }
	k.network = newNetwork(t, 3, cfg)
	for _, p := range k.ports {
		p.Follow(1 << 30)
	}
	return k
}

// tcp is a segment in a packet.
func (s segment) tcp(src, dst netip.AddrPort) testnet.Packet {
	if s.flags == 0 {
		s.flags = header.TCPFlagAck
	}
	size := header.TCPMinimumSize + (len(s.options)+3)&^3
	h := make(header.TCP, size, size+len(s.data))
	h.Encode(&header.TCPFields{
		SrcPort: src.Port(), DstPort: dst.Port(), SeqNum: s.seq, AckNum: s.ack,
		DataOffset: uint8(size), Flags: s.flags, WindowSize: s.window,
	})
	copy(h[header.TCPMinimumSize:], s.options)
	b := append(h, s.data...)
	testnet.FixTransport(src.Addr(), dst.Addr(), unix.IPPROTO_TCP, b)
	return testnet.Packet{Src: src.Addr(), Dst: dst.Addr(), Proto: unix.IPPROTO_TCP, Payload: b}
}

// frame is a segment of the connection.
func (k *talk) frame(from int, s segment) []byte {
	s.seq += k.first[from]
	s.ack += k.first[1-from]
	return ethernet(member(from).MAC, member(1-from).MAC, s.tcp(k.addrs[from], k.addrs[1-from]).Frame())
}

// passes sends a segment, and reports whether it arrives.
func (k *talk) passes(from int, s segment) bool {
	k.t.Helper()
	got := k.send(from, k.frame(from, s))
	if len(got) > 0 && !same(got, map[int]int{1 - from: 1}) {
		k.t.Errorf("a segment of %d was got by %v", from, got)
	}
	return len(got) > 0
}

// say sends a segment, which must arrive.
func (k *talk) say(from int, s segment) {
	k.t.Helper()
	if !k.passes(from, s) {
		k.t.Errorf("a segment of %d was dropped: %+v", from, s)
	}
}

// open has the members shake hands, with options, and say something else. The windows are 500
// and 300.
func (k *talk) open(options ...[]byte) *Conn {
	k.t.Helper()
	options = append(options, nil, nil)
	k.say(0, segment{flags: flagSYN, window: 65535, options: options[0]})
	k.say(1, segment{flags: flagSYNACK, ack: 1, window: 65535, options: options[1]})
	k.say(0, segment{seq: 1, ack: 1, window: 500})
	k.say(1, segment{seq: 1, ack: 1, window: 300})
	c := k.conn()
	if c == nil {
		k.t.Fatal("the connection is not followed")
	}
	return c
}

// conn is the connection; nil: it is not followed.
func (k *talk) conn() *Conn {
	k.t.Helper()
	a, b := k.bridge.conns[tuple{k.addrs[0], k.addrs[1]}], k.bridge.conns[tuple{k.addrs[1], k.addrs[0]}]
	if a.conn != b.conn || a.conn != nil && a.from == b.from {
		k.t.Errorf("either direction is of another connection: %+v, %+v", a, b)
	}
	return a.conn
}

// frozen is the state of either socket, which must agree.
func (k *talk) frozen(c *Conn) (f [2]stack.Frozen) {
	k.t.Helper()
	for i := range f {
		var ok bool
		if f[i], ok = c.Frozen(i); !ok {
			k.t.Fatalf("the socket of %d cannot continue it", i)
		}
	}
	if err := agree(f); err != nil {
		k.t.Error(err)
	}
	return f
}

// agree says in what two sockets do not continue one connection: what one has received, the
// other one must have sent, and the other way round.
func agree(f [2]stack.Frozen) error {
	for i := range f {
		own, other := &f[i], &f[1-i]
		if sent := other.SendNext + uint32(len(other.Unacknowledged)); own.RecvNext != sent {
			return fmt.Errorf("the socket of %d has received up to %d, and the other one has sent up to %d", i, own.RecvNext, sent)
		}
		if own.Guest != other.Outside || own.SACK != other.SACK || own.Timestamps != other.Timestamps || own.SendScale != other.RecvScale {
			return fmt.Errorf("sockets of different connections: %+v, %+v", own, other)
		}
	}
	return nil
}

// Options of a SYN, as kernels write them.
var (
	mss1460 = []byte{header.TCPOptionMSS, 4, 0x05, 0xb4}
	mss1400 = []byte{header.TCPOptionMSS, 4, 0x05, 0x78}
	sackOK  = []byte{header.TCPOptionSACKPermitted, 2, header.TCPOptionNOP, header.TCPOptionNOP}
)

func scale(n uint8) []byte {
	return []byte{header.TCPOptionNOP, header.TCPOptionWS, 3, n}
}

func stamp(value uint32) []byte {
	b := []byte{header.TCPOptionNOP, header.TCPOptionNOP, header.TCPOptionTS, header.TCPOptionTSLength}
	return append(binary.BigEndian.AppendUint32(b, value), 0, 0, 0, 0)
}

func TestFollowedBetweenFollowedPorts(t *testing.T) {
	for _, tc := range [][2]bool{{false, false}, {true, false}, {false, true}, {true, true}} {
		k := newTalk(t, Config{})
		for i, followed := range tc {
			if !followed {
				k.ports[i].asked = nil
			}
		}
		k.say(0, segment{flags: flagSYN})
		c := k.conn()
		if want := tc[0] && tc[1]; (c != nil) != want {
			t.Errorf("ports followed %v: connection followed %v", tc, c != nil)
		}
		if c == nil {
			continue
		}
		for i := range 2 {
			if c.Port(i) != k.ports[i] || c.Addr(i) != k.addrs[i] {
				t.Errorf("member %d is %v at %v", i, c.Addr(i), c.Port(i).Address())
			}
		}
	}
}

// Addresses of a member are its own, whether they were given or made, and also behind extension
// headers.
func TestFollowedOverIPv6(t *testing.T) {
	for name, tc := range map[string]struct {
		from, to netip.Addr
		wrap     func([]byte) []byte
	}{
		"given":             {me.IPv6, you.IPv6, nil},
		"SLAAC":             {me.slaac("fd00::/64"), you.slaac("fd00::/64"), nil},
		"extension headers": {me.IPv6, you.IPv6, func(f []byte) []byte { return destination(hopByHop(f)) }},
	} {
		k := newTalk(t, Config{})
		k.addrs = [2]netip.AddrPort{at(tc.from, 1000), at(tc.to, 80)}
		frame := k.frame(0, segment{flags: flagSYN})
		if tc.wrap != nil {
			frame = tc.wrap(frame)
		}
		if got := k.send(0, frame); !same(got, map[int]int{1: 1}) || k.conn() == nil {
			t.Errorf("%s: got by %v, followed %v", name, got, k.conn() != nil)
		}
	}
}

// What does not begin a connection between the two members themselves passes as ever.
func TestNotFollowed(t *testing.T) {
	syn := segment{flags: flagSYN}
	linkLocal := func(a Address) netip.AddrPort { return at(a.slaac("fe80::/64"), 9) }
	with := func(p testnet.Packet, change func(*testnet.Packet)) testnet.Packet { change(&p); return p }
	first := func(p *testnet.Packet) { p.More, p.Payload = true, append(slices.Clone(p.Payload), make([]byte, 4)...) }
	cut := func(p *testnet.Packet) { p.Payload = p.Payload[:header.TCPMinimumSize-1] }
	offset := func(words byte) func(*testnet.Packet) {
		return func(p *testnet.Packet) { p.Payload[header.TCPDataOffset] = words << 4 }
	}
	four, six := syn.tcp(at(me.IPv4, 9), at(you.IPv4, 9)), syn.tcp(at(me.IPv6, 9), at(you.IPv6, 9))
	for name, p := range map[string]testnet.Packet{
		"a first fragment":         with(four, first),
		"a later fragment":         with(four, func(p *testnet.Packet) { p.Offset = 8 }),
		"a first IPv6 fragment":    with(six, first),
		"a later IPv6 fragment":    with(six, func(p *testnet.Packet) { p.Offset = 8 }),
		"a header cut short":       with(four, cut),
		"no header":                with(four, func(p *testnet.Packet) { p.Payload = nil }),
		"an IPv6 header cut short": with(six, cut),
		"a small data offset":      with(syn.tcp(at(me.IPv4, 9), at(you.IPv4, 9)), offset(4)),
		"a data offset of nothing": with(syn.tcp(at(me.IPv4, 9), at(you.IPv4, 9)), offset(0)),
		"a data offset beyond":     with(syn.tcp(at(me.IPv4, 9), at(you.IPv4, 9)), offset(6)),
		"UDP":                      {Src: me.IPv4, Dst: you.IPv4, Proto: unix.IPPROTO_UDP, Payload: four.Payload},
		"for another member":       syn.tcp(at(me.IPv4, 9), at(member(2).IPv4, 9)),
		"for nobody":               syn.tcp(at(me.IPv4, 9), at(netip.MustParseAddr("10.0.2.200"), 9)),
		"for outside":              syn.tcp(at(me.IPv4, 9), at(outside4, 9)),
		"for outside over IPv6":    syn.tcp(at(me.IPv6, 9), at(outside6, 9)),
		"between link-local":       syn.tcp(linkLocal(me), linkLocal(you)),
		"to link-local":            syn.tcp(at(me.IPv6, 9), linkLocal(you)),
		"from link-local":          syn.tcp(linkLocal(me), at(you.IPv6, 9)),
		"from another link-local":  syn.tcp(at(netip.MustParseAddr("fe80::abcd"), 9), at(you.IPv6, 9)),
		"an answer to a SYN":       segment{flags: flagSYNACK}.tcp(at(me.IPv4, 9), at(you.IPv4, 9)),
		"data":                     segment{data: []byte("hello")}.tcp(at(me.IPv4, 9), at(you.IPv4, 9)),
		"an end":                   segment{flags: flagFIN}.tcp(at(me.IPv4, 9), at(you.IPv4, 9)),
		"a reset":                  segment{flags: flagRST}.tcp(at(me.IPv4, 9), at(you.IPv4, 9)),
		"a header behind the first": with(six, func(p *testnet.Packet) {
			p.ExtensionType, p.Extensions = 60, append([]byte{0, 249}, make([]byte, 1998)...)
		}),
	} {
		k := newTalk(t, Config{})
		if got := k.send(0, ethernet(me.MAC, you.MAC, p.Frame())); !same(got, map[int]int{1: 1}) {
			t.Errorf("%s: got by %v", name, got)
		}
		if n := len(k.bridge.conns); n > 0 {
			t.Errorf("%s: followed", name)
		}
	}
}

// What is taken of the handshake is what both have offered; the MSS is either's own.
func TestHandshake(t *testing.T) {
	type taken struct {
		mss        [2]uint16
		scale      [2]uint8
		sack       bool
		timestamps bool
	}
	all := slices.Concat(mss1460, sackOK, stamp(7), scale(7))
	for name, tc := range map[string]struct {
		offers [2][]byte
		want   taken
	}{
		"nothing":             {[2][]byte{}, taken{mss: [2]uint16{536, 536}}},
		"all":                 {[2][]byte{all, slices.Concat(mss1400, sackOK, stamp(9), scale(9))}, taken{[2]uint16{1460, 1400}, [2]uint8{7, 9}, true, true}},
		"by the first alone":  {[2][]byte{all, mss1400}, taken{mss: [2]uint16{1460, 1400}}},
		"by the second alone": {[2][]byte{mss1400, all}, taken{mss: [2]uint16{1400, 1460}}},
		"a scale":             {[2][]byte{scale(3), scale(0)}, taken{mss: [2]uint16{536, 536}, scale: [2]uint8{3, 0}}},
		"scales beyond 14":    {[2][]byte{scale(15), scale(255)}, taken{mss: [2]uint16{536, 536}, scale: [2]uint8{14, 14}}}, // RFC 7323 section 2.3
		"SACK":                {[2][]byte{sackOK, sackOK}, taken{mss: [2]uint16{536, 536}, sack: true}},
		"timestamps":          {[2][]byte{stamp(1), stamp(1)}, taken{mss: [2]uint16{536, 536}, timestamps: true}},
		"options cut short":   {[2][]byte{{header.TCPOptionNOP, header.TCPOptionNOP, header.TCPOptionWS, 3}, scale(7)}, taken{mss: [2]uint16{536, 536}}},
		"options of length 0": {[2][]byte{append([]byte{header.TCPOptionTS, 0}, scale(7)...), scale(7)}, taken{mss: [2]uint16{536, 536}}},
		"options behind EOL":  {[2][]byte{append([]byte{header.TCPOptionEOL}, sackOK...), sackOK}, taken{mss: [2]uint16{536, 536}}},
	} {
		k := newTalk(t, Config{})
		f := k.frozen(k.open(tc.offers[0], tc.offers[1]))
		for i := range f {
			got := taken{[2]uint16{f[0].MSS, f[1].MSS}, [2]uint8{f[i].SendScale, f[i].RecvScale}, f[i].SACK, f[i].Timestamps}
			want := tc.want
			if i == 1 {
				slices.Reverse(want.scale[:])
			}
			if got != want {
				t.Errorf("%s: the socket of %d has %+v, want %+v", name, i, got, want)
			}
			// The windows of the handshake itself are not scaled, and do not count.
			if windows := [2]uint32{500 << tc.want.scale[0], 300 << tc.want.scale[1]}; f[i].SendWindow != windows[i] || f[i].RecvWindow != windows[1-i] {
				t.Errorf("%s: the socket of %d has windows of %d and %d", name, i, f[i].SendWindow, f[i].RecvWindow)
			}
		}
	}
}

// What both members use and a socket cannot be told, as Multipath TCP, keeps a connection on the
// bridge; what is only offered does not.
func TestOnlyPlainConnections(t *testing.T) {
	multipath := append([]byte{30, 12, 1}, make([]byte, 9)...)
	for name, tc := range map[string]struct {
		offer, answer []byte
		want          bool
	}{
		"nothing":                  {nil, nil, true},
		"as kernels do":            {slices.Concat(mss1460, sackOK, stamp(1), scale(7)), slices.Concat(mss1460, sackOK, stamp(1), scale(7)), true},
		"behind EOL":               {nil, append([]byte{header.TCPOptionEOL}, multipath...), true},
		"multipath":                {multipath, multipath, false},
		"multipath, too":           {slices.Concat(mss1460, multipath), slices.Concat(mss1460, scale(7), multipath), false},
		"multipath not granted":    {slices.Concat(mss1460, multipath), mss1460, true},
		"a signature":              {nil, append([]byte{19, 18}, make([]byte, 16)...), false},
		"authentication":           {nil, append([]byte{29, 16}, make([]byte, 14)...), false},
		"an experiment":            {nil, []byte{254, 6, 0xe2, 0xd4, 0xc3, 0xd9}, false},
		"a cookie":                 {[]byte{34, 2}, append([]byte{34, 10}, make([]byte, 8)...), true},
		"options without a length": {nil, []byte{1, 1, 1, header.TCPOptionMSS}, false},
		"options of length 1":      {nil, []byte{header.TCPOptionMSS, 1, 1, 1}, false},
		"options cut short":        {nil, []byte{header.TCPOptionNOP, header.TCPOptionNOP, header.TCPOptionWS, 3}, false},
	} {
		k := newTalk(t, Config{})
		k.say(0, segment{flags: flagSYN, options: tc.offer})
		c, told := k.conn(), 0
		c.Await(func() { told++ })
		k.say(1, segment{flags: flagSYNACK, ack: 1, options: tc.answer})
		k.say(0, segment{seq: 1, ack: 1})
		k.say(1, segment{seq: 1, ack: 1})
		if _, ok := c.Frozen(0); ok != tc.want || (k.conn() == c) != tc.want || c.Ending() == tc.want {
			t.Errorf("%s: it can be continued %v, is followed %v, want %v", name, ok, k.conn() == c, tc.want)
		}
		if !tc.want && told != 1 {
			t.Errorf("%s: told %d times", name, told)
		}
	}
}

// A member that has said nothing but its SYN may know nothing of the connection yet.
func TestNotFrozenBeforeBothTalk(t *testing.T) {
	k := newTalk(t, Config{})
	for _, step := range []struct {
		from int
		segment
		want bool
	}{
		{0, segment{flags: flagSYN}, false},
		{1, segment{flags: flagSYNACK, ack: 1}, false},
		{1, segment{flags: flagSYNACK, ack: 1}, false},
		{0, segment{seq: 1, ack: 1}, false},
		{0, segment{seq: 1, ack: 1, data: []byte("hello")}, false},
		{1, segment{flags: flagSYNACK, ack: 1}, false},
		{1, segment{seq: 1, ack: 6}, true},
	} {
		k.say(step.from, step.segment)
		for i := range 2 {
			if _, ok := k.conn().Frozen(i); ok != step.want {
				t.Errorf("after %+v by %d, the socket of %d: %v", step.segment, step.from, i, ok)
			}
		}
	}
}

// What does not reach anybody is no connection: isolated members could otherwise shake hands in
// frames that are dropped, and be given the sockets.
func TestNotFollowedWhatDoesNotPass(t *testing.T) {
	isolated, alone := newTalk(t, Config{Isolate: true}), newTalk(t, Config{})
	alone.addrs[1] = at(me.IPv4, 80)
	for name, k := range map[string]*talk{"isolated": isolated, "to itself": alone} {
		k.follow(0, 0)
		ends := [2]*Port{k.bridge.Port(k.addrs[0].Addr()), k.bridge.Port(k.addrs[1].Addr())}
		for i, s := range []segment{{flags: flagSYN}, {flags: flagSYNACK, ack: 1}, {seq: 1, ack: 1}, {seq: 1, ack: 1}, {seq: 1, ack: 1, data: []byte("hello")}} {
			from, to := i%2, 1-i%2
			frame := ethernet(ends[from].addr.MAC, ends[to].addr.MAC, s.tcp(k.addrs[from], k.addrs[to]).Frame())
			if got := k.send(slices.Index(k.ports, ends[from]), frame); len(got) > 0 {
				t.Errorf("%s: got by %v", name, got)
			}
		}
		if len(k.bridge.conns) > 0 || len(k.busy) > 0 {
			t.Errorf("%s: followed in %d directions, and Busy was called %d times", name, len(k.bridge.conns), len(k.busy))
		}
	}
}

// The numbers of both sockets after an exchange, wherever sequence numbers and timestamps begin.
func TestFrozen(t *testing.T) {
	for _, tc := range []struct{ first, stamps [2]uint32 }{
		{[2]uint32{1000, 5000}, [2]uint32{1, 1}},
		{[2]uint32{0, 1<<31 - 1}, [2]uint32{1<<31 - 1, 1 << 31}},
		{[2]uint32{1<<32 - 1, 1<<32 - 2}, [2]uint32{1<<31 + 1, 3 << 30}},
		{[2]uint32{1<<32 - 101, 1<<32 - 50}, [2]uint32{1<<32 - 1, 1<<32 - 2}},
		{[2]uint32{1<<31 - 50, 1 << 31}, [2]uint32{1<<32 - 3, 0}},
	} {
		k := newTalk(t, Config{})
		k.first = tc.first
		when := func(i int, later uint32) []byte { return stamp(tc.stamps[i] + later) }
		c := k.open(slices.Concat(mss1460, sackOK, when(0, 0), scale(7)), slices.Concat(mss1400, sackOK, when(1, 0), scale(9)))
		c.Await(func() {})
		k.say(0, segment{seq: 1, ack: 1, window: 500, options: when(0, 3), data: make([]byte, 100)})
		k.say(1, segment{seq: 1, ack: 101, window: 301, options: when(1, 5)})
		k.say(1, segment{seq: 1, ack: 101, window: 302, options: when(1, 6), data: []byte("answer")})
		k.say(0, segment{seq: 101, ack: 1, window: 501, options: when(0, 4), data: []byte("more")})
		// What is late, or sent again, changes nothing.
		k.say(1, segment{seq: 1, ack: 51, window: 9, options: when(1, 2)})
		k.say(0, segment{seq: 0, ack: 1, window: 501, options: when(0, 2)})
		k.say(0, segment{seq: 101, ack: 1, window: 501, data: []byte("more")})
		want := [2]stack.Frozen{
			{
				SendNext: tc.first[1] + 1, Unacknowledged: []byte("answer"), RecvNext: tc.first[0] + 105, SendWindow: 501 << 7, RecvWindow: 302<<9 - 4,
				SendScale: 7, RecvScale: 9, MSS: 1460, Timestamp: tc.stamps[1] + 6,
			},
			{
				SendNext: tc.first[0] + 101, Unacknowledged: []byte("more"), RecvNext: tc.first[1] + 7, SendWindow: 302 << 9, RecvWindow: 501<<7 - 6,
				SendScale: 9, RecvScale: 7, MSS: 1400, Timestamp: tc.stamps[0] + 4,
			},
		}
		check := func(when string) {
			t.Helper()
			for i := range want {
				want[i].Guest, want[i].Outside, want[i].SACK, want[i].Timestamps = k.addrs[i], k.addrs[1-i], true, true
			}
			if got := k.frozen(c); !reflect.DeepEqual(got, want) {
				t.Errorf("from %d and %d, stamps from %d and %d, %s:\n%+v, want\n%+v", tc.first[0], tc.first[1], tc.stamps[0], tc.stamps[1], when, got, want)
			}
		}
		check("with data on its way")
		if c.Acknowledged(0) || c.Acknowledged(1) {
			t.Error("all is acknowledged before it is")
		}
		k.say(0, segment{seq: 105, ack: 7, window: 503, options: when(0, 8)})
		if c.Acknowledged(0) || !c.Acknowledged(1) {
			t.Errorf("the first one has acknowledged all: %v and %v", c.Acknowledged(0), c.Acknowledged(1))
		}
		k.say(1, segment{seq: 7, ack: 105, window: 304, options: when(1, 9)})
		if !c.Acknowledged(0) || !c.Acknowledged(1) {
			t.Error("all is acknowledged, and it says otherwise")
		}
		for i := range want {
			w := &want[i]
			w.SendNext += uint32(len(w.Unacknowledged))
			w.Unacknowledged = nil
		}
		want[0].SendWindow, want[0].RecvWindow, want[0].Timestamp = 503<<7, 304<<9, tc.stamps[1]+9
		want[1].SendWindow, want[1].RecvWindow, want[1].Timestamp = 304<<9, 503<<7, tc.stamps[0]+8
		c.Await(nil)
		check("with nothing on its way")
	}
}

// A member may have sent more than the other one's window, which ends at zero then.
func TestFrozenBeyondTheWindow(t *testing.T) {
	k := newTalk(t, Config{})
	c := k.open()
	c.Await(func() {})
	k.say(0, segment{seq: 1, ack: 1, data: make([]byte, 301)})
	if f := k.frozen(c); f[0].RecvWindow != 0 || f[1].SendWindow != 300 {
		t.Errorf("windows of %d and %d", f[0].RecvWindow, f[1].SendWindow)
	}
}

// What a member has sent and the other one has not acknowledged is kept while somebody waits, if
// it is without a gap and not much. Without it no socket can continue the connection: the other
// one may have received it.
func TestUnacknowledged(t *testing.T) {
	const missing = "missing"
	await := func(c *Conn) { c.Await(func() {}) }
	letters := func(from, n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = 'a' + byte((from+i)%26)
		}
		return string(b)
	}
	// step is data of the alphabet, or an acknowledgement, or an order.
	type step struct {
		seq, size int
		ack       uint32
		do        func(*Conn)
	}
	for name, tc := range map[string]struct {
		steps []step
		want  string
	}{
		"nobody waits":                       {[]step{{seq: 1, size: 3}}, missing},
		"sent before":                        {[]step{{seq: 1, size: 3}, {do: await}}, missing},
		"sent since":                         {[]step{{do: await}, {seq: 1, size: 3}, {seq: 4, size: 3}}, "abcdef"},
		"some sent before":                   {[]step{{seq: 1, size: 3}, {do: await}, {seq: 4, size: 3}}, missing},
		"some sent before, and acknowledged": {[]step{{seq: 1, size: 3}, {do: await}, {seq: 4, size: 3}, {ack: 4}}, "def"},
		"a part acknowledged":                {[]step{{do: await}, {seq: 1, size: 6}, {ack: 3}}, "cdef"},
		"all acknowledged":                   {[]step{{do: await}, {seq: 1, size: 6}, {ack: 7}}, ""},
		"acknowledged before it is sent":     {[]step{{do: await}, {seq: 1, size: 6}, {ack: 8}}, missing},
		"sent again":                         {[]step{{do: await}, {seq: 1, size: 3}, {seq: 4, size: 3}, {seq: 1, size: 3}, {seq: 2, size: 5}}, "abcdef"},
		"sent again with more":               {[]step{{do: await}, {seq: 1, size: 3}, {seq: 1, size: 6}}, missing},
		"sent again with more, acknowledged": {[]step{{do: await}, {seq: 1, size: 3}, {seq: 1, size: 6}, {seq: 7, size: 2}, {ack: 7}}, "gh"},
		"a gap":                              {[]step{{do: await}, {seq: 1, size: 3}, {seq: 5, size: 3}}, missing},
		"a gap that is filled":               {[]step{{do: await}, {seq: 1, size: 3}, {seq: 5, size: 3}, {seq: 4, size: 1}}, missing},
		"a gap that is acknowledged":         {[]step{{do: await}, {seq: 1, size: 3}, {seq: 5, size: 3}, {seq: 8, size: 2}, {ack: 8}}, "hi"},
		"a gap without data":                 {[]step{{do: await}, {seq: 1, size: 3}, {seq: 5}}, missing},
		"a probe":                            {[]step{{do: await}, {seq: 1, size: 3}, {seq: 3, size: 0}, {seq: 3, size: 1}}, "abc"},
		"more in all than is kept":           {[]step{{do: await}, {seq: 1, size: mostKept - 5}, {ack: mostKept - 6}, {seq: mostKept - 4, size: 9}}, letters(mostKept-7, 11)},
		"in two pieces":                      {[]step{{do: await}, {seq: 1, size: 5000}}, letters(0, 5000)},
		"all that is kept":                   {[]step{{do: await}, {seq: 1, size: mostKept - 1}, {seq: mostKept, size: 1}}, letters(0, mostKept)},
		"all that is kept at once":           {[]step{{do: await}, {seq: 1, size: mostKept}}, letters(0, mostKept)},
		"too much":                           {[]step{{do: await}, {seq: 1, size: mostKept}, {seq: mostKept + 1, size: 3}}, missing},
		"too much at once":                   {[]step{{do: await}, {seq: 1, size: mostKept + 1}}, missing},
		"too much, acknowledged":             {[]step{{do: await}, {seq: 1, size: mostKept}, {seq: mostKept + 1, size: 3}, {ack: mostKept + 1}}, letters(mostKept, 3)},
		"nobody waits any longer":            {[]step{{do: await}, {seq: 1, size: 3}, {do: func(c *Conn) { c.Await(nil) }}, {seq: 4, size: 3}}, missing},
		"somebody else waits":                {[]step{{do: await}, {seq: 1, size: 3}, {do: await}, {seq: 4, size: 3}}, missing},
		"it stays":                           {[]step{{do: await}, {seq: 1, size: 3}, {do: (*Conn).Stay}}, missing},
	} {
		t.Run(name, func(t *testing.T) {
			for from := range 2 {
				k := newTalk(t, Config{})
				c := k.open()
				for _, s := range tc.steps {
					switch {
					case s.do != nil:
						s.do(c)
					case s.ack > 0:
						k.say(1-from, segment{seq: 1, ack: s.ack})
					default:
						k.say(from, segment{seq: uint32(s.seq), ack: 1, data: []byte(letters(s.seq-1, s.size))})
					}
				}
				if kept := len(c.ends[from].kept); kept > mostKept {
					t.Errorf("%d bytes are kept", kept)
				}
				if tc.want == missing {
					for i := range 2 {
						if _, ok := c.Frozen(i); ok {
							t.Errorf("what %d has sent is not kept, and the socket of %d continues without it", from, i)
						}
					}
					continue
				}
				f := k.frozen(c)
				if got := string(f[1-from].Unacknowledged); got != tc.want {
					t.Errorf("of what %d has sent, %.50q is kept, want %.50q", from, got, tc.want)
				}
				if rest := f[from].Unacknowledged; len(rest) > 0 {
					t.Errorf("%q of the other one is kept", rest)
				}
			}
		})
	}
}

// Whatever is lost, sent again or late, the two sockets agree, and what is kept is what was sent.
func TestSocketsAgree(t *testing.T) {
	continued, kept := 0, 0
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 0))
		k := newTalk(t, Config{})
		k.first = [2]uint32{r.Uint32(), r.Uint32()}
		c := k.open()
		letter := func(from int, seq uint32) byte { return byte(seq*7 + seq>>8 + uint32(from)) }
		sent, acked := [2]uint32{1, 1}, [2]uint32{1, 1} // and which of it the other one has acknowledged
		for range 200 {
			from := r.IntN(2)
			seq, size := sent[from], uint32(r.IntN(2000))
			switch n := r.IntN(40); {
			case n == 0:
				seq += uint32(r.IntN(1000)) // something was lost before it came to the bridge
			case n == 1:
				c.Await(nil)
			case n < 4:
				c.Await(func() {})
			case n < 8:
				seq = acked[from] + uint32(r.IntN(int(seq-acked[from]+1))) // sent again
			case n < 20:
				size = 0
			}
			if r.IntN(4) == 0 {
				acked[1-from] = sent[1-from]
			} else {
				acked[1-from] += uint32(r.IntN(int(sent[1-from] - acked[1-from] + 1)))
			}
			s := segment{seq: seq, ack: acked[1-from], window: uint16(r.Uint32()), data: make([]byte, size)}
			for i := range s.data {
				s.data[i] = letter(from, seq+uint32(i))
			}
			k.say(from, s)
			sent[from] = max(sent[from], seq+size)
			if c.Acknowledged(from) != (acked[from] == sent[from]) {
				t.Fatalf("seed %d: all of %d is acknowledged: %v", seed, from, c.Acknowledged(from))
			}
			if _, ok := c.Frozen(from); !ok {
				if c.Acknowledged(0) && c.Acknowledged(1) {
					t.Fatalf("seed %d: nothing is on its way, and no socket can continue", seed)
				}
				continue
			}
			continued++
			for i, f := range k.frozen(c) {
				kept = max(kept, len(f.Unacknowledged))
				if want := k.first[1-i] + acked[1-i]; f.SendNext != want {
					t.Fatalf("seed %d: the socket of %d sends from %d on, want %d", seed, i, f.SendNext, want)
				}
				for j, b := range f.Unacknowledged {
					if b != letter(1-i, acked[1-i]+uint32(j)) {
						t.Fatalf("seed %d: byte %d of what %d has not acknowledged is another one", seed, j, i)
					}
				}
			}
		}
	}
	if continued < 5000 || kept < 5000 {
		t.Errorf("sockets could continue %d times, with %d bytes at most", continued, kept)
	}
}
