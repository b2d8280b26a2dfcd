package bridge

import (
	"bytes"
	"log/slog"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"epiphyte/internal/addressing"
	"epiphyte/internal/addressing/addressingtest"
	"epiphyte/internal/shard"
	"epiphyte/internal/shard/shardtest"
	"epiphyte/internal/sockio"
	"epiphyte/internal/testnet"
)

// network is a bridge with members, driven frame by frame.
type network struct {
	t      testing.TB
	plan   addressing.Plan
	clock  *shardtest.Clock
	poller *shardtest.Poller
	shard  *shard.Shard
	bridge *Bridge
	reader *reader
	devs   []*testnet.Device
	ports  []*Port
}

// newNetwork makes a network of members 0 to members-1.
func newNetwork(t testing.TB, members int, cfg Config) *network {
	t.Helper()
	n := &network{t: t, plan: addressingtest.New(t), clock: new(shardtest.Clock), poller: new(shardtest.Poller)}
	if cfg.Plan.Prefix.IsValid() {
		n.plan = cfg.Plan
	}
	var err error
	if n.shard, err = shard.New(shard.Config{Clock: n.clock, Poller: n.poller}); err != nil {
		t.Fatal(err)
	}
	cfg.Shard, cfg.Plan = n.shard, n.plan
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if n.bridge, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	n.reader = newReader(n.bridge)
	n.bridge.Attach(n.reader)
	t.Cleanup(func() {
		if err := n.bridge.Close(); err != nil {
			t.Error(err)
		}
		n.shard.Close()
	})
	for i := range members {
		n.devs = append(n.devs, testnet.NewDevice(t, testnet.DeviceConfig{Offload: true, MAC: member(i).MAC}))
		a := member(i)
		if !n.plan.IPv6() {
			a.IPv6 = netip.Addr{}
		}
		p, err := n.bridge.Add(n.devs[i], a)
		if err != nil {
			t.Fatal(err)
		}
		n.ports = append(n.ports, p)
	}
	return n
}

// member is what member i has been given.
func member(i int) Address {
	host := byte(101 + i)
	return Address{
		MAC:  [6]byte{0x52, 0x56, 10, 0, 2, host},
		IPv4: netip.AddrFrom4([4]byte{10, 0, 2, host}),
		IPv6: netip.AddrFrom16([16]byte{0: 0xfd, 15: host}),
	}
}

func (a Address) slaac(prefix string) netip.Addr {
	return addressing.SLAAC(netip.MustParsePrefix(prefix), a.MAC)
}

// reader is what the stack is to the bridge: it reads batches, laid out as the stack
// does.
type reader struct {
	bridge *Bridge
	iov    []unix.Iovec
	got    [][]byte // from the virtio-net header on
	during func()   // called after each read, if not nil
}

func newReader(b *Bridge) *reader {
	r := &reader{bridge: b}
	for _, size := range []int{header.VirtioNetHeaderSize, header.EthernetMinimumSize, 2048, 65536} {
		r.iov = append(r.iov, sockio.Vec(make([]byte, size)))
	}
	return r
}

func (r *reader) Ready(uint32) {
	for {
		n, errno := r.bridge.Readv(r.iov)
		if errno == unix.EAGAIN {
			return
		}
		if errno == 0 {
			r.got = append(r.got, testnet.Gather(r.iov, n))
		}
		if r.during != nil {
			r.during()
		}
	}
}

// turn has the shard read what members have sent.
func (n *network) turn() {
	n.t.Helper()
	for _, d := range n.devs {
		if d.Waiting() > 0 {
			n.poller.Ready(d.FD(), unix.EPOLLIN)
		}
	}
	if err := n.shard.Turn(0); err != nil {
		n.t.Fatal(err)
	}
}

// forget drops what has arrived.
func (n *network) forget() {
	n.reader.got = nil
	for _, d := range n.devs {
		d.Sent()
	}
}

// stackItself stands for the stack in lists of who got a frame, beside members' numbers.
const stackItself = -1

// send lets a member send frames, and tells who got how many of them. They must arrive
// as they were sent.
func (n *network) send(from int, frames ...[]byte) map[int]int {
	n.t.Helper()
	for _, f := range frames {
		n.devs[from].Inject(f)
	}
	n.turn()
	got := map[int]int{}
	count := func(who int, f []byte) {
		got[who]++
		for _, sent := range frames {
			if bytes.Equal(sent, f) {
				return
			}
		}
		n.t.Errorf("%d got a frame that was not sent: %x", who, f)
	}
	for _, f := range n.reader.got {
		count(stackItself, f[header.VirtioNetHeaderSize:])
	}
	n.reader.got = nil
	for i, d := range n.devs {
		for _, f := range d.Sent() {
			count(i, f.Data)
		}
	}
	return got
}

// Ethernet addresses of the tests.
var broadcast = [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// ethernet sets the addresses of a frame.
func ethernet(src, dst [6]byte, frame []byte) []byte {
	copy(frame, dst[:])
	copy(frame[6:], src[:])
	return frame
}

func at(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

// udp is a datagram between addresses, in a frame from member i.
func udp(i int, dst [6]byte, from, to netip.AddrPort) []byte {
	return ethernet(member(i).MAC, dst, testnet.UDP(from, to, 64, []byte("hello")))
}

// solicitation is one for a target, from member i, and to the multicast address that
// belongs to the target.
func solicitation(i int, src, target netip.Addr, options ...byte) []byte {
	b := target.As16()
	dst := netip.AddrFrom16([16]byte{0: 0xff, 1: 2, 11: 1, 12: 0xff, 13: b[13], 14: b[14], 15: b[15]})
	return ndp(i, src, dst, header.ICMPv6NeighborSolicit, target, options...)
}

// ndp is a message with a target, from member i to a multicast address.
func ndp(i int, src, dst netip.Addr, typ header.ICMPv6Type, target netip.Addr, options ...byte) []byte {
	b, d := target.As16(), dst.As16()
	body := append(append(make([]byte, 4), b[:]...), options...)
	return ethernet(member(i).MAC, [6]byte{0x33, 0x33, d[12], d[13], d[14], d[15]}, testnet.ICMP(src, dst, uint8(typ), 0, body))
}

// linkLayer is an option of neighbour discovery: 1 for the source, 2 for the target.
func linkLayer(typ byte, mac [6]byte) []byte { return append([]byte{typ, 1}, mac[:]...) }

func same(a, b map[int]int) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return true
}
