package bridge

import (
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"epiphyte/internal/testnet"
)

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
