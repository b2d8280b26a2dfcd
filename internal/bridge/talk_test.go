package bridge

import (
	"encoding/binary"
	"fmt"
	"net/netip"
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
