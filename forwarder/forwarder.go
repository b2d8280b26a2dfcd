package forwarder

import (
	"log/slog"
	"net/netip"

	"epiphyte/internal/relay"
	"epiphyte/internal/shard"
	"epiphyte/stack"
)

// DNS is the resolver behind the plan's DNS address.
type DNS interface {
	// Submit takes a query that the guest's from sent to its to. It copies the
	// query and never blocks; false: overloaded. reply is called at most once,
	// at once or later, on the shard's thread and with the same addresses; the
	// response is valid during that call only.
	Submit(query []byte, from, to netip.AddrPort, reply func(from, to netip.AddrPort, response []byte)) bool
	// Stream returns a non-blocking stream socket that serves DNS over TCP.
	Stream() (fd int, err error)
}

// Inbound is what carries clients of published ports in.
type Inbound interface {
	// Reply takes a datagram that answers such a client, and reports whether
	// it is one.
	Reply(p *stack.Packet, src, dst netip.AddrPort) bool
	// Flush ends a batch, as [stack.Handler]'s does.
	Flush()
}

// DHCP answers a request, or does not (nil). Payloads are those of UDP.
type DHCP interface {
	Handle(request []byte) []byte
	HandleV6(request []byte) []byte
}

// Config of a Forwarder.
type Config struct {
	Rules Rules
	Shard *shard.Shard
	// Relay of the connections; nil: one of the forwarder's own.
	Relay *relay.Relay
	DNS   DNS  // nil: queries are refused
	DHCP  DHCP // nil: requests are dropped
	// Source gives the address that a socket towards dst is to be bound to,
	// and whether to one at all. nil: the kernel chooses.
	Source func(dst netip.Addr) (from netip.Addr, bound bool, err error)
	// Logger of rare events. The default is slog's.
	Logger *slog.Logger
	// Limits; zero values take the defaults of Limits.
	Limits Limits
}

// Forwarder implements stack.Handler. All of it belongs to the shard's thread.
type Forwarder struct {
	rules  Rules
	shard  *shard.Shard
	relay  *relay.Relay
	stack  *stack.Stack
	dns    DNS
	dhcp   DHCP
	source func(netip.Addr) (netip.Addr, bool, error)
	log    *slog.Logger
	limits Limits

	dials    dialTable
	mappings mappingTable
	batch    datagramBatch
	answer   func(from, to netip.AddrPort, response []byte) // answerDNS, bound once

	inbound     Inbound // nil: nothing is published
	pingRefused bool    // said once
}

// New makes a forwarder; Attach completes it.
func New(cfg Config) *Forwarder {
	f := &Forwarder{
		rules:  cfg.Rules,
		shard:  cfg.Shard,
		relay:  cfg.Relay,
		dns:    cfg.DNS,
		dhcp:   cfg.DHCP,
		source: cfg.Source,
		log:    cfg.Logger,
		limits: cfg.Limits.withDefaults(),
	}
	if f.log == nil {
		f.log = slog.Default()
	}
	if f.source == nil {
		f.source = func(netip.Addr) (netip.Addr, bool, error) { return netip.Addr{}, false, nil }
	}
	if f.relay == nil {
		f.relay = relay.New(f.shard, 0)
	}
	f.answer = f.answerDNS
	f.dials.init()
	f.mappings.init()
	return f
}

// Attach tells the forwarder the stack that it handles packets for.
func (f *Forwarder) Attach(s *stack.Stack) { f.stack = s }

// SetInbound tells the forwarder who may have asked the guest by UDP.
func (f *Forwarder) SetInbound(in Inbound) { f.inbound = in }

// Counts says how many of each kind of flow there are.
type Counts struct{ Dials, TCP, Mappings int }

// Counts must be called on the shard's thread.
func (f *Forwarder) Counts() Counts {
	return Counts{Dials: len(f.dials.byKey), TCP: f.relay.Len(), Mappings: len(f.mappings.byKey)}
}

// Close closes every host socket, those of the relay included. The shard must
// have stopped serving.
func (f *Forwarder) Close() error {
	for _, d := range f.dials.byKey {
		d.closeSocket()
	}
	for _, m := range f.mappings.byKey {
		m.closeSocket()
	}
	f.relay.Close()
	clear(f.dials.byKey)
	clear(f.mappings.byKey)
	return nil
}

// UDP implements stack.Handler.
func (f *Forwarder) UDP(p *stack.Packet) {
	src := netip.AddrPortFrom(p.Src, p.SrcPort())
	dst := netip.AddrPortFrom(p.Dst, p.DstPort())
	if f.inbound != nil && f.inbound.Reply(p, src, dst) {
		return // to whom had asked, wherever that is
	}
	d := f.rules.Translate(stack.ProtoUDP, dst)
	switch d.Action {
	case Connect:
		if src.Port() != 0 && !p.Src.IsUnspecified() && dst.Port() != 0 {
			f.sendDatagram(p, src, d.To)
		}
	case Refuse:
		q := p.Quote()
		f.stack.SendUnreachable(netip.Addr{}, d.Why, &q)
	case ServeDNS:
		f.serveDNS(p, src, dst)
	case ServeDHCP:
		if f.dhcp != nil {
			if reply := f.dhcp.Handle(payload(p)); reply != nil {
				f.stack.SendBroadcastUDP(netip.AddrPortFrom(f.rules.Plan.Gateway, portDHCPServer), portDHCPServer+1, reply)
			}
		}
	case ServeDHCP6:
		if f.dhcp != nil {
			if reply := f.dhcp.HandleV6(payload(p)); reply != nil {
				f.stack.SendUDP(netip.AddrPortFrom(f.rules.Plan.GatewayLinkLocal, portDHCP6Server), src, reply)
			}
		}
	}
}

// payload is the whole payload of a datagram to one of our own services; what
// lies beyond the head (2 kB) is no request of theirs.
func payload(p *stack.Packet) []byte { return p.Head[8:] }

func (f *Forwarder) serveDNS(p *stack.Packet, src, dst netip.AddrPort) {
	if f.dns == nil {
		q := p.Quote()
		f.stack.SendUnreachable(netip.Addr{}, stack.PortUnreachable, &q)
		return
	}
	query := payload(p)
	if len(p.Tail) > 0 {
		query = append(append([]byte(nil), query...), p.Tail...)
	}
	f.dns.Submit(query, src, dst, f.answer)
}

func (f *Forwarder) answerDNS(from, to netip.AddrPort, response []byte) {
	f.stack.SendUDP(to, from, response)
}

// ICMP implements stack.Handler: echo requests leave, all else ends here.
func (f *Forwarder) ICMP(p *stack.Packet) {
	if len(p.Head) < 8 || !isEchoRequest(p) {
		return
	}
	d := f.rules.Translate(p.Proto, netip.AddrPortFrom(p.Dst, 0))
	switch d.Action {
	case Connect:
		f.sendEcho(p, d.To.Addr())
	case Refuse:
		q := p.Quote()
		f.stack.SendUnreachable(netip.Addr{}, d.Why, &q)
	}
}

// Flush implements stack.Handler.
func (f *Forwarder) Flush() {
	f.flushDatagrams()
	if f.inbound != nil {
		f.inbound.Flush()
	}
}
