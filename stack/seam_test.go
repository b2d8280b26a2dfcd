package stack_test

import (
	"bytes"
	"log/slog"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"epiphyte/internal/addressing"
	"epiphyte/internal/addressing/addressingtest"
	"epiphyte/internal/shard"
	"epiphyte/internal/shard/shardtest"
	"epiphyte/internal/testnet"
	"epiphyte/stack"
)

// seam is a stack that is driven frame by frame: what goes in is injected,
// what its handler is given and what it sends are kept.
type seam struct {
	t      testing.TB
	plan   addressing.Plan
	dev    *testnet.Device
	poller *shardtest.Poller
	shard  *shard.Shard
	stack  *stack.Stack

	syns    []*stack.SYN
	udp     []packet
	icmp    []packet
	flushes int
}

// packet is a copy of a stack.Packet.
type packet struct {
	Src, Dst    netip.Addr
	TTL         uint8
	Data        []byte // transport header and payload
	SegmentSize uint16
}

type seamConfig struct {
	device  testnet.DeviceConfig
	mtu     int
	adverts []byte
	noIPv6  bool
	plan    *addressing.Plan // the default one if nil
	guest4  netip.Addr
	guest6  netip.Addr
	clock   *shardtest.Clock // one that stands still if nil
	buffers int              // Config.BufferBytes

	neighbors func(netip.Addr) ([6]byte, bool)
}

func newSeam(t testing.TB, cfg seamConfig) *seam {
	t.Helper()
	s := &seam{t: t, plan: addressingtest.New(t), poller: new(shardtest.Poller)}
	if cfg.noIPv6 {
		s.plan = addressingtest.IPv4Only(t)
	}
	if cfg.plan != nil {
		s.plan = *cfg.plan
	}
	s.dev = testnet.NewDevice(t, cfg.device)
	if cfg.clock == nil {
		cfg.clock = new(shardtest.Clock)
	}
	var err error
	if s.shard, err = shard.New(shard.Config{Poller: s.poller, Clock: cfg.clock}); err != nil {
		t.Fatal(err)
	}
	s.stack, err = stack.New(stack.Config{
		Device: s.dev, Shard: s.shard, Plan: s.plan, Handler: s, MTU: cfg.mtu,
		RouterAdvertisement: cfg.adverts, GuestAddr4: cfg.guest4, GuestAddr6: cfg.guest6, BufferBytes: cfg.buffers,
		Neighbors: cfg.neighbors,
		Logger:    slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.stack.Close(); err != nil {
			t.Error(err)
		}
		s.shard.Close()
	})
	return s
}

func (s *seam) SYN(y *stack.SYN)     { s.syns = append(s.syns, y.Clone()) }
func (s *seam) UDP(p *stack.Packet)  { s.udp = append(s.udp, copyPacket(p)) }
func (s *seam) ICMP(p *stack.Packet) { s.icmp = append(s.icmp, copyPacket(p)) }
func (s *seam) Flush()               { s.flushes++ }

func copyPacket(p *stack.Packet) packet {
	return packet{p.Src, p.Dst, p.TTL, append(append([]byte(nil), p.Head...), p.Tail...), p.SegmentSize}
}

// handled is how often the handler was called since forget.
func (s *seam) handled() int { return len(s.syns) + len(s.udp) + len(s.icmp) }

func (s *seam) forget() { s.syns, s.udp, s.icmp = nil, nil, nil }

// run lets the stack read all that waits.
func (s *seam) run() {
	s.t.Helper()
	for s.dev.Waiting() > 0 {
		if !s.poller.Ready(s.dev.FD(), unix.EPOLLIN) {
			s.t.Fatal("the stack does not watch its device")
		}
		if err := s.shard.Turn(0); err != nil {
			s.t.Fatal(err)
		}
	}
}

// feed forgets the past, lets the stack read the frames and returns what it
// sent. All of it must be well-formed.
func (s *seam) feed(frames ...[]byte) []testnet.Packet {
	s.t.Helper()
	s.forget()
	for _, f := range frames {
		s.dev.Inject(f)
	}
	s.run()
	return s.sent()
}

func (s *seam) sent() []testnet.Packet {
	s.t.Helper()
	var packets []testnet.Packet
	for _, f := range s.dev.Sent() {
		if len(f.Data) > 13 && f.Data[12] == 8 && f.Data[13] == 6 {
			packets = append(packets, testnet.Packet{Payload: f.Data[14:], DstMAC: [6]byte(f.Data[:6]), SrcMAC: [6]byte(f.Data[6:12])})
			continue
		}
		p, err := f.Parse()
		if err != nil {
			s.t.Errorf("the stack sent a bad frame: %v\n%x", err, f.Data)
			continue
		}
		packets = append(packets, p)
	}
	return packets
}

// silent feeds frames that must have no effect at all.
func (s *seam) silent(what string, frames ...[]byte) {
	s.t.Helper()
	if sent := s.feed(frames...); len(sent) > 0 || s.handled() > 0 {
		s.t.Errorf("%s: %d frames sent, handled %d SYNs, %d datagrams, %d ICMP messages; want nothing\nfirst: %+v",
			what, len(sent), len(s.syns), len(s.udp), len(s.icmp), append(sent, testnet.Packet{})[0])
	}
}

// reassemble joins the fragments of one packet.
func reassemble(t testing.TB, mtu int, fragments []testnet.Packet) testnet.Packet {
	t.Helper()
	var whole testnet.Packet
	for i, f := range fragments {
		if i == 0 {
			whole = f
			whole.Payload = nil
		}
		header := 20
		if f.Src.Is6() {
			header = 40
			if f.More || f.Offset > 0 {
				header += 8
			}
		}
		if header+len(f.Payload) > mtu {
			t.Errorf("fragment %d has %d bytes of IP, the MTU is %d", i, header+len(f.Payload), mtu)
		}
		if f.ID != whole.ID || f.Src != whole.Src || f.Dst != whole.Dst || f.Proto != whole.Proto {
			t.Errorf("fragment %d is of another packet: %+v", i, f)
		}
		if f.Offset != len(whole.Payload) || f.More != (i < len(fragments)-1) {
			t.Errorf("fragment %d: offset %d, more %v, want offset %d", i, f.Offset, f.More, len(whole.Payload))
		}
		whole.Payload = append(whole.Payload, f.Payload...)
	}
	return whole
}

// Who talks in these tests.
var (
	guest4  = netip.MustParseAddrPort("10.0.2.100:5000")
	guest6  = netip.MustParseAddrPort("[fd00::100]:5000")
	remote4 = netip.MustParseAddrPort("198.51.100.7:53")
	remote6 = netip.MustParseAddrPort("[2001:db8::7]:53")
)

// families runs f for IPv4 and for IPv6.
func families(t *testing.T, f func(t *testing.T, guest, remote netip.AddrPort)) {
	t.Run("IPv4", func(t *testing.T) { f(t, guest4, remote4) })
	t.Run("IPv6", func(t *testing.T) { f(t, guest6, remote6) })
}

// devices runs f over each kind of device.
func devices(t *testing.T, f func(*testing.T, testnet.DeviceConfig)) {
	t.Run("bare frames", func(t *testing.T) { f(t, testnet.DeviceConfig{}) })
	t.Run("virtio header", func(t *testing.T) { f(t, testnet.DeviceConfig{VNetHdr: true}) })
	t.Run("offload", func(t *testing.T) { f(t, testnet.DeviceConfig{Offload: true}) })
	t.Run("USO", func(t *testing.T) { f(t, testnet.DeviceConfig{USO: true}) })
}

func (s *seam) oneDatagram(what string, guest, remote netip.AddrPort, data []byte) {
	s.t.Helper()
	if len(s.udp) != 1 || s.handled() != 1 {
		s.t.Fatalf("%s: handled %d datagrams of %d packets, want one", what, len(s.udp), s.handled())
	}
	got := s.udp[0]
	if got.Src != guest.Addr() || got.Dst != remote.Addr() || !bytes.Equal(got.Data[8:], data) {
		s.t.Errorf("%s: got %v to %v with %d bytes, want %v to %v with %d", what, got.Src, got.Dst, len(got.Data)-8, guest, remote, len(data))
	}
}
