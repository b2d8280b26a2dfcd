package bridge

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"epiphyte/internal/addressing/addressingtest"
	"epiphyte/internal/testnet"
	"epiphyte/stack"
)

// FuzzOneMember: whatever a member sends, what arrives anywhere is in its own name, as
// seen by eyes of another make than those of inspect.go, and is what it sent.
func FuzzOneMember(f *testing.F) {
	for _, frame := range lies(f) {
		f.Add(uint8(0), uint8(0), uint16(0), frame)
	}
	for _, frame := range [][]byte{
		udp(0, you.MAC, at(me.IPv4, 9), at(you.IPv4, 9)),
		destination(hopByHop(udp(0, you.MAC, at(me.IPv6, 9), at(you.IPv6, 9)))),
		testnet.ARP(1, me.MAC, me.IPv4, [6]byte{}, you.IPv4),
		solicitation(0, me.IPv6, you.IPv6, linkLayer(1, me.MAC)...),
		ndp(0, myLinkLocal, allNodes, 136, myLinkLocal, linkLayer(2, me.MAC)...),
	} {
		for mode := range uint8(8) {
			f.Add(mode, uint8(testnet.NeedsCsum), uint16(40), frame)
		}
	}
	for _, s := range []segment{
		{flags: flagSYN, options: slices.Concat(mss1460, sackOK, stamp(1), scale(7))},
		{seq: 1001, ack: 5001, options: stamp(2), data: []byte("hello")},
		{seq: 1003, ack: 5002, window: 9},
		{flags: flagFIN, seq: 1001, ack: 5001},
		{flags: flagRST, seq: 1001},
	} {
		for _, p := range []testnet.Packet{s.tcp(at(me.IPv4, 9), at(you.IPv4, 9)), s.tcp(at(me.IPv6, 9), at(you.IPv6, 9))} {
			for state := range uint8(4) {
				f.Add(state<<3|3, uint8(0), uint16(0), ethernet(me.MAC, you.MAC, p.Frame()))
			}
		}
	}
	gateway := addressingtest.New(f)
	f.Fuzz(func(t *testing.T, mode, flags uint8, at uint16, frame []byte) {
		if len(frame) < header.EthernetMinimumSize {
			return
		}
		if mode&1 != 0 {
			copy(frame[6:], me.MAC[:])
		}
		dst := [...][6]byte{[6]byte(frame), you.MAC, broadcast, gateway.MAC}[mode>>1&3]
		copy(frame, dst[:])
		n := newTalk(t, Config{})
		state := mode >> 3 & 3
		talking(n, state)
		n.devs[0].InjectVNet(testnet.VNetHdr{Flags: flags, CsumStart: at}, frame)
		n.turn()
		arrived := n.devs[0].Sent()
		if len(arrived) > 0 {
			t.Error("it came back")
		}
		for _, b := range n.reader.got {
			arrived = append(arrived, testnet.Frame{Data: b[header.VirtioNetHeaderSize:]})
		}
		for _, d := range n.devs[1:] {
			sent := d.Sent()
			if len(sent) > 0 && [6]byte(frame) == gateway.MAC {
				t.Error("a member got a frame for the gateway")
			}
			arrived = append(arrived, sent...)
		}
		checkFollowed(n)
		for _, a := range arrived {
			if string(a.Data) != string(frame) {
				t.Errorf("arrived as %x", a.Data)
			}
			if err := honest(a.Data); err != nil {
				t.Errorf("%v\n%x", err, a.Data)
			}
			if state == stateLeft && talks(a.Data) {
				t.Errorf("of a connection that has left: %x", a.Data)
			}
		}
	})
}

// States of two connections of member 0 with 1, one of either family.
const (
	stateNone = iota
	stateBusy // with each segment
	stateAwaited
	stateLeft
)

func talking(k *talk, state uint8) {
	if state == stateNone {
		return
	}
	k.follow(0, 0)
	for _, a := range [][2]netip.Addr{{me.IPv4, you.IPv4}, {me.IPv6, you.IPv6}} {
		k.addrs = [2]netip.AddrPort{at(a[0], 9), at(a[1], 9)}
		switch c := k.open(stamp(1), stamp(1)); state {
		case stateAwaited:
			c.Await(func() {})
			k.push(0, 2)
		case stateLeft:
			c.Leave(func(i int) {
				if i != 0 {
					k.t.Errorf("a segment of 0 has strayed from %d", i)
				}
			})
		}
	}
}

// talks reports whether a frame is a segment of these connections, as far as it is plain to see.
func talks(frame []byte) bool {
	ip := frame[header.EthernetMinimumSize:]
	p, err := testnet.ParseCut(ip)
	if err != nil || [6]byte(frame) != you.MAC || p.Proto != 6 || p.Fragment() || len(p.Payload) < header.TCPMinimumSize {
		return false
	}
	size := int(binary.BigEndian.Uint16(ip[2:]))
	if p.Src.Is6() {
		size = header.IPv6MinimumSize + int(binary.BigEndian.Uint16(ip[4:]))
	}
	return size == len(ip) && p.SrcPort() == 9 && p.DstPort() == 9 &&
		(p.Src == me.IPv4 && p.Dst == you.IPv4 || p.Src == me.IPv6 && p.Dst == you.IPv6)
}

// checkFollowed holds what the bridge follows against itself.
func checkFollowed(k *talk) {
	if n := len(k.bridge.conns); n > 6 { // one has been added
		k.t.Errorf("%d directions are followed", n)
	}
	for key, known := range k.bridge.conns {
		c := known.conn
		if reverse := k.bridge.conns[tuple{key.to, key.from}]; reverse.conn != c || c.Addr(known.from) != key.from || c.Ending() {
			k.t.Errorf("%v is followed as %+v, and the reverse direction as %+v", key, known, reverse)
		}
		if len(c.ends[0].kept)+len(c.ends[1].kept) > 2*mostKept {
			k.t.Error("more than enough is kept")
		}
		var f [2]stack.Frozen
		var ok [2]bool
		for i := range f {
			f[i], ok[i] = c.Frozen(i)
		}
		if err := agree(f); ok[0] != ok[1] || ok[0] && err != nil {
			k.t.Errorf("%v: the sockets can continue %v, %v", key, ok, err)
		}
	}
}

// honest says what of a frame is not in the name of member 0.
func honest(frame []byte) error {
	if [6]byte(frame[6:]) != me.MAC {
		return fmt.Errorf("from %x", frame[6:12])
	}
	ip := frame[14:]
	switch typ := binary.BigEndian.Uint16(frame[12:]); typ {
	case testnet.EtherARP:
		if [6]byte(ip[8:]) != me.MAC || [4]byte(ip[14:]) != me.IPv4.As4() && [4]byte(ip[14:]) != [4]byte{} {
			return fmt.Errorf("ARP from %x", ip[8:18])
		}
	case testnet.EtherIPv4:
		udp, ports := ip[9] == 17, ip[int(ip[0]&15)*4:]
		first := binary.BigEndian.Uint16(ip[6:])&0x1fff == 0
		switch src := [4]byte(ip[12:]); {
		case src == [4]byte{}:
			return fmt.Errorf("from 0.0.0.0")
		case src != [4]byte{} && src != me.IPv4.As4():
			return fmt.Errorf("from %v", src)
		case udp && first && string(ports[2:4]) == "\x00\x44":
			return fmt.Errorf("to a DHCP client")
		}
	case testnet.EtherIPv6:
		return honest6(ip)
	default:
		return fmt.Errorf("EtherType %x", typ)
	}
	return nil
}

func honest6(ip []byte) error {
	may := func(a netip.Addr) bool {
		switch a {
		case me.IPv6, me.slaac("fd00::/64"):
			return true
		case you.slaac("fe80::/64"), member(2).slaac("fe80::/64"), netip.MustParseAddr("fe80::2"), netip.MustParseAddr("fe80::3"):
			return false
		}
		return a.IsLinkLocalUnicast()
	}
	src := netip.AddrFrom16([16]byte(ip[8:]))
	next, rest, fragment, first := ip[6], ip[40:], false, true
	for next == 0 || next == 43 || next == 60 || next == 44 {
		size := 8
		if next == 44 {
			fragment, first = true, binary.BigEndian.Uint16(rest[2:])>>3 == 0
		} else {
			size += 8 * int(rest[1])
		}
		next, rest = rest[0], rest[size:]
		if !first {
			break
		}
	}
	switch {
	case next == 58 && first && (rest[0] == 134 || rest[0] == 137):
		return fmt.Errorf("message %d is the gateway's", rest[0])
	case next == 58 && first && fragment && rest[0] >= 133 && rest[0] <= 137:
		return fmt.Errorf("neighbour discovery in a fragment")
	case next == 58 && first && rest[0] == 136 && !may(netip.AddrFrom16([16]byte(rest[8:]))):
		return fmt.Errorf("advertisement of another's %x", rest[8:24])
	case next == 17 && first && string(rest[2:4]) == "\x02\x22":
		return fmt.Errorf("to a DHCPv6 client")
	case !may(src) && !(src.IsUnspecified() && next == 58 && !fragment):
		return fmt.Errorf("from %v", src)
	}
	return nil
}
