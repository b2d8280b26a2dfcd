package forwarder

import (
	"hash/maphash"
	"log/slog"
	"net/netip"

	"golang.org/x/sys/unix"

	"epiphyte/internal/addressing"
	"epiphyte/internal/flow"
	"epiphyte/internal/policy"
	"epiphyte/internal/relay"
	"epiphyte/internal/shard"
	"epiphyte/internal/sockio"
	"epiphyte/stack"
)

// DNS is the resolver behind the plan's DNS address.
type DNS interface {
	// Submit takes a query that the guest's from sent to its to. It copies the
	// query and never blocks; false: overloaded. reply is called at most once,
	// at once or later, on the shard's thread and with the same addresses; the
	// response is valid during that call only.
	Submit(query []byte, from, to netip.AddrPort, reply func(from, to netip.AddrPort, response []byte)) bool
	// Stream returns a non-blocking stream socket that serves DNS over TCP to the
	// guest's from.
	Stream(from netip.AddrPort) (fd int, err error)
}

// Inbound carries clients of published ports in.
type Inbound interface {
	// Reply takes a datagram that answers such a client, and reports whether it
	// is one. It is sent by the next flush of the Batch of the Config.
	Reply(p *stack.Packet, src, dst netip.AddrPort) bool
}

// DHCP answers a request, or does not (nil). Payloads are those of UDP.
type DHCP interface {
	Handle(request []byte) []byte
	HandleV6(request []byte) []byte
}

// Source chooses from where the host's sockets send, where the kernel is not to choose:
// outbound.Source explains the methods.
type Source interface {
	Bind(fd int, dst netip.Addr) unix.Errno
	BindAddress(fd int, dst netip.Addr) unix.Errno
	Way(fd int, dst netip.Addr) (control []byte, errno unix.Errno)
}

// kernelsChoice is the default Source.
type kernelsChoice struct{}

func (kernelsChoice) Bind(int, netip.Addr) unix.Errno          { return 0 }
func (kernelsChoice) BindAddress(int, netip.Addr) unix.Errno   { return 0 }
func (kernelsChoice) Way(int, netip.Addr) ([]byte, unix.Errno) { return nil, 0 }

// Config of a Forwarder. Plan, Policy, Shard, Table, Relay and Batch are required.
type Config struct {
	Guests flow.Guests // whose flows these are; may be nil where there is one guest
	Plan   addressing.Plan
	Policy policy.Decider
	Shard  *shard.Shard
	Table  *flow.Table
	Relay  *relay.Relay
	Batch  *sockio.Batch
	DNS    DNS    // nil: queries are refused
	DHCP   DHCP   // nil: requests are dropped
	Source Source // of the host's sockets; nil: the kernel chooses
	// Logger of rare events. The default is slog's.
	Logger *slog.Logger
}

// Forwarder implements stack.Handler. All of it belongs to the shard's thread.
type Forwarder struct {
	cfg     Config
	stack   *stack.Stack
	inbound Inbound // nil: nothing is published

	answer      func(from, to netip.AddrPort, response []byte) // answerDNS, bound once
	backlog     policy.Backlog
	seed        maphash.Seed // of dnsTalk
	raw4, raw6  *rawEcho     // nil: not needed
	pingRefused bool         // said once
}

// New makes a forwarder; Attach completes it.
func New(cfg Config) *Forwarder {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Source == nil {
		cfg.Source = kernelsChoice{}
	}
	f := &Forwarder{cfg: cfg, seed: maphash.MakeSeed()}
	f.answer = f.answerDNS
	return f
}

// Attach tells the forwarder the stack that it handles packets for, and who
// carries clients of published ports in (nil: nobody).
func (f *Forwarder) Attach(s *stack.Stack, in Inbound) { f.stack, f.inbound = s, in }

// UDP implements stack.Handler.
func (f *Forwarder) UDP(p *stack.Packet) {
	src := netip.AddrPortFrom(p.Src, p.SrcPort())
	dst := netip.AddrPortFrom(p.Dst, p.DstPort())
	if f.inbound != nil && f.inbound.Reply(p, src, dst) {
		return // part of a flow that was decided when its client came
	}
	f.decidedUDP(p, src, dst, f.decide(stack.ProtoUDP, src, dst))
}

func (f *Forwarder) decidedUDP(p *stack.Packet, src, dst netip.AddrPort, d policy.Decision) {
	switch d.Action {
	case policy.Allow:
		if src.Port() != 0 && !p.Src.IsUnspecified() && dst.Port() != 0 && f.seenUDP(p, src, dst, &d) {
			f.sendDatagram(p, src, d.To)
		}
	case policy.Refuse:
		q := p.Quote()
		f.tellError(d.Errno, &q)
	case policy.ServeDNS:
		f.serveDNS(p, src, dst)
	case policy.ServeDHCP:
		if f.cfg.DHCP == nil {
			break
		}
		if reply := f.cfg.DHCP.Handle(payload(p)); reply != nil {
			f.stack.SendBroadcastUDP(netip.AddrPortFrom(f.cfg.Plan.Gateway, dst.Port()), dst.Port()+1, reply)
		}
	case policy.ServeDHCP6:
		if f.cfg.DHCP == nil {
			break
		}
		if reply := f.cfg.DHCP.HandleV6(payload(p)); reply != nil {
			f.stack.SendUDP(netip.AddrPortFrom(f.cfg.Plan.GatewayLinkLocal, dst.Port()), src, reply)
		}
	case policy.Wait:
		f.hold(p, d.Pending, func(p *stack.Packet, d policy.Decision) { f.decidedUDP(p, src, dst, d) })
	}
}

// seenUDP shows a datagram to its decision's watch, if there is one, and reports whether it
// may leave. One that the watch cannot judge yet waits. Each datagram of a super-datagram is
// judged by itself; if some may not leave, seenUDP sends the others.
func (f *Forwarder) seenUDP(p *stack.Packet, src, dst netip.AddrPort, d *policy.Decision) bool {
	if d.Watch == nil {
		return true
	}
	size := len(payload(p)) + len(p.Tail)
	segment := int(p.SegmentSize)
	if segment == 0 {
		segment = size
	}
	left := 0 // how much of the payload has been sent, waits or may not leave
	for at := 0; at < size; at += segment {
		end := min(at+segment, size)
		sight := d.Watch.Sees(part(p, at, end), false)
		if sight == policy.Passed {
			continue
		}
		if left < at {
			f.sendDatagram(cut(p, left, at), src, d.To)
		}
		left = end
		one := cut(p, at, end)
		if sight == policy.Undecided {
			f.hold(one, d.Pending, func(p *stack.Packet, d policy.Decision) { f.decidedUDP(p, src, dst, d) })
			continue
		}
		q := one.Quote()
		f.tellError(unix.EACCES, &q)
	}
	if left > 0 && left < size {
		f.sendDatagram(cut(p, left, size), src, d.To)
	}
	return left == 0
}

// cut is a packet with a part of the payload.
func cut(p *stack.Packet, from, to int) *stack.Packet {
	if from == 0 && to == len(payload(p))+len(p.Tail) {
		return p
	}
	c := *p
	c.Head = append(append(make([]byte, 0, 8+to-from), p.Head[:8]...), part(p, from, to)...)
	c.Tail, c.Fresh = nil, false
	if to-from <= int(p.SegmentSize) {
		c.SegmentSize = 0
	}
	return &c
}

// part is a part of a datagram's payload, copied only if it lies in both pieces.
func part(p *stack.Packet, from, to int) []byte {
	head := payload(p)
	switch {
	case to <= len(head):
		return head[from:to]
	case from >= len(head):
		return p.Tail[from-len(head) : to-len(head)]
	}
	return append(append([]byte(nil), head[from:]...), p.Tail[:to-len(head)]...)
}

// payload is the whole payload of a datagram to one of our own services; what
// lies beyond the head (2 kB) is no request of theirs.
func payload(p *stack.Packet) []byte { return p.Head[8:] }

func (f *Forwarder) serveDNS(p *stack.Packet, src, dst netip.AddrPort) {
	if f.cfg.DNS == nil {
		q := p.Quote()
		f.tellError(unix.ECONNREFUSED, &q)
		return
	}
	query := payload(p)
	if len(p.Tail) > 0 {
		query = append(append([]byte(nil), query...), p.Tail...)
	}
	f.cfg.DNS.Submit(query, src, dst, f.answer)
}

func (f *Forwarder) answerDNS(from, to netip.AddrPort, response []byte) {
	f.stack.SendUDP(to, from, response)
}

// ICMP implements stack.Handler: echo requests leave, all else is dropped.
func (f *Forwarder) ICMP(p *stack.Packet) {
	if len(p.Head) >= 8 && isEchoRequest(p) {
		f.decidedEcho(p, f.decide(p.Proto, netip.AddrPortFrom(p.Src, 0), netip.AddrPortFrom(p.Dst, 0)))
	}
}

func (f *Forwarder) decidedEcho(p *stack.Packet, d policy.Decision) {
	switch d.Action {
	case policy.Allow:
		f.sendEcho(p, d.To.Addr())
	case policy.Refuse:
		q := p.Quote()
		f.tellError(d.Errno, &q)
	case policy.Wait:
		f.hold(p, d.Pending, f.decidedEcho)
	}
}

// Flush implements stack.Handler.
func (f *Forwarder) Flush() { f.cfg.Batch.Flush() }
