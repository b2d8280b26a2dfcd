package stack

import (
	"cmp"
	"container/list"
	"fmt"
	"log/slog"
	"math/bits"
	"net/netip"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	gvisor "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"epiphyte/internal/addressing"
	"epiphyte/internal/shard"
)

const nicID tcpip.NICID = 1

// Handler decides about what the guest starts. Its methods are called on the
// shard's thread and must not block. It bounds the handshakes in flight.
type Handler interface {
	// SYN is called for a first SYN and for retransmissions until Accept.
	SYN(*SYN)
	// UDP is called for each datagram, those to our own addresses and to
	// broadcast and multicast addresses included.
	UDP(*Packet)
	// ICMP is called for each ICMP or ICMPv6 message that is not neighbour
	// discovery, an echo request to our own addresses, or an error about TCP.
	ICMP(*Packet)
	// Flush ends a batch. Heads of packets marked Fresh are stable until then.
	Flush()
}

// Claims directs what the guest sends in a flow to the stack that began it, where
// several stacks share the guest. A flow is released as often as it was claimed.
type Claims interface {
	Claim(proto uint8, guest, outside netip.AddrPort)
	Release(proto uint8, guest, outside netip.AddrPort)
}

// Config of a Stack. Device, Shard, Plan and Handler are required.
type Config struct {
	Device  Device
	Shard   *shard.Shard
	Plan    addressing.Plan
	Handler Handler
	// MTU of the guest's link in bytes, 1500 if zero.
	MTU int
	// RouterAdvertisement is the ICMPv6 message sent to a guest that solicits
	// it; none if empty.
	RouterAdvertisement []byte
	// DisableNDP leaves neighbour discovery unanswered; the caller has given the guest
	// its neighbours.
	DisableNDP bool
	// GuestAddr4 and GuestAddr6 are the guest's addresses, where they are fixed. If one is
	// not valid, the stack finds out; see Stack.GuestAddr4 and Stack.GuestAddr6.
	GuestAddr4, GuestAddr6 netip.Addr
	// Neighbors returns the Ethernet address of one of several guests, false for an
	// address that none has; frames for that go to 00:00:00:00:00:00, which is
	// nobody's. Any goroutine may call it, for each frame. nil: there is one guest, and
	// the stack learns what is behind it.
	Neighbors func(netip.Addr) ([6]byte, bool)
	// Workers is how many stacks share the guest, and Worker the number of this one,
	// from 0 on; zero values: it is alone. They keep the stacks' fragments apart.
	Worker, Workers int
	// Claims is told of the connections that Dial makes. It is nil for a stack that is
	// alone.
	Claims Claims
	// BufferBytes of TCP buffers are shared by all connections; zero means
	// DefaultBufferBytes.
	BufferBytes int
	// Logger receives gVisor's warnings. The default is slog's.
	Logger *slog.Logger
}

// Stack is the guest's network up to the transport layer.
type Stack struct {
	dev           Device
	shard         *shard.Shard
	plan          addressing.Plan
	handler       Handler
	claims        Claims
	advertisement []byte
	disableNDP    bool
	gv            *gvisor.Stack
	link          *link
	listen        *listenContext
	tcp           queuedProtocol
	handshakeAt   uintptr // see forgetHandshake
	sendQueueAt   uintptr // see unacknowledged
	neigh         neighbors
	watch         *shard.Watch

	// The shard's thread only:
	in        receiver
	out       sender
	echo      []byte
	peek      vectors  // of the current call, like source: passed to gVisor
	source    fdSource // as interfaces, they would be allocated for each
	accepting map[Tuple]*Handshake
	conns     map[Tuple]*Conn
	orphans   list.List // of *Conn, closed longest ago first
	budget    budget
	held      []*Conn // with an acknowledgement that waits; see ack.go
	ackTimer  shard.Timer
	guest     guestAddrs

	mostConns    int           // since memory was given back; see release.go
	resident     atomic.Uint64 // bytes of the heap then
	releaseTimer shard.Timer
	releases     sync.WaitGroup

	failed chan error // at most one
}

// New builds the stack and starts to watch the device. It must be called
// before the shard serves, or on the shard's thread.
func New(cfg Config) (*Stack, error) {
	mtu := cfg.MTU
	if mtu == 0 {
		mtu = 1500
	}
	logger := cfg.Logger
	if logger == nil {
		logger = slog.Default()
	}
	redirectLog(logger)
	s := &Stack{
		dev:           cfg.Device,
		shard:         cfg.Shard,
		plan:          cfg.Plan,
		handler:       cfg.Handler,
		claims:        cfg.Claims,
		advertisement: cfg.RouterAdvertisement,
		disableNDP:    cfg.DisableNDP,
		guest:         guestAddrs{fixed4: cfg.GuestAddr4, fixed6: cfg.GuestAddr6},
		conns:         make(map[Tuple]*Conn),
		accepting:     make(map[Tuple]*Handshake),
		budget:        budget{free: cmp.Or(cfg.BufferBytes, DefaultBufferBytes)},
		failed:        make(chan error, 1),
	}
	s.shard.BeforeSleep((*ackTask)(s))
	s.neigh.ask = cfg.Neighbors
	s.neigh.self.Store(pack(cfg.Device.HardwareAddr()))
	mac := cfg.Plan.MAC
	s.link = &link{
		dev:     cfg.Device,
		vnet:    cfg.Device.VNetHdr(),
		offload: cfg.Device.Offload(),
		mtu:     uint32(mtu),
		mac:     mac,
		neigh:   &s.neigh,
	}
	s.out = sender{
		dev:   cfg.Device,
		vnet:  cfg.Device.VNetHdr(),
		csum:  cfg.Device.Offload(),
		uso:   cfg.Device.USO(),
		mtu:   mtu,
		mac:   mac,
		neigh: &s.neigh,
		count: &s.link.written,
		id:    uint16(cfg.Worker),
		step:  1 << bits.Len(uint(max(1, cfg.Workers)-1)),
	}
	if err := s.build(); err != nil {
		s.gv.Destroy()
		return nil, err
	}
	var err error
	if s.watch, err = s.shard.Watch(cfg.Device.FD(), unix.EPOLLIN, s); err != nil {
		s.gv.Destroy()
		return nil, fmt.Errorf("watch device: %w", err)
	}
	return s, nil
}

// build makes the gVisor stack. The handlers are in place before the NIC is,
// as no packet may find them missing.
func (s *Stack) build() error {
	s.gv = gvisor.New(gvisor.Options{
		Clock:            clock{s.shard},
		NetworkProtocols: []gvisor.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []gvisor.TransportProtocolFactory{
			tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6,
		},
		HandleLocal: false,
	})
	if err := s.setOptions(); err != nil {
		return err
	}
	if err := s.openInline(); err != nil {
		return err
	}
	for _, proto := range []tcpip.TransportProtocolNumber{tcp.ProtocolNumber, udp.ProtocolNumber, icmp.ProtocolNumber4, icmp.ProtocolNumber6} {
		s.gv.SetTransportProtocolHandler(proto, func(_ gvisor.TransportEndpointID, pkt *gvisor.PacketBuffer) bool {
			return s.handleReassembled(uint8(proto), pkt)
		})
	}
	if err := s.gv.CreateNIC(nicID, s.link); err != nil {
		return fmt.Errorf("create NIC: %v", err)
	}
	// We answer for every address outside.
	if err := s.gv.SetPromiscuousMode(nicID, true); err != nil {
		return fmt.Errorf("set promiscuous mode: %v", err)
	}
	if err := s.gv.SetSpoofing(nicID, true); err != nil {
		return fmt.Errorf("set spoofing: %v", err)
	}
	s.gv.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: nicID},
		{Destination: header.IPv6EmptySubnet, NIC: nicID},
	})
	return nil
}

// Failed delivers the error that ends the stack: ErrDeviceGone.
func (s *Stack) Failed() <-chan error { return s.failed }

func (s *Stack) fail(err error) {
	select {
	case s.failed <- err:
	default:
	}
	// A device that is gone polls readable for ever.
	s.watch.Close()
}

// Conns is the number of TCP connections that gVisor holds, closing ones
// included.
func (s *Stack) Conns() int { return len(s.conns) + len(s.accepting) }

// Close resets all connections and ends gVisor's goroutines. The shard must
// have stopped serving. The device stays open.
func (s *Stack) Close() error {
	s.watch.Close()
	for _, h := range s.accepting {
		h.Abort()
	}
	s.gv.Destroy()
	s.releases.Wait()
	return nil
}
