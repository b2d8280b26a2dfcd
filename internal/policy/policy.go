package policy

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"epiphyte/internal/addressing"
	"epiphyte/internal/flow"
	"epiphyte/internal/proxy"
)

// Direction is the way in which the first packet of a flow, or the datagram that
// is asked about, travels.
type Direction uint8

// The directions.
const (
	Out Direction = iota // from the guest
	In                   // to the guest
)

// Request is a flow that is about to be, or a datagram of one.
type Request struct {
	Guest     *flow.Guest
	Direction Direction
	Origin    flow.Origin
	Proto     uint8 // unix.IPPROTO_TCP, _UDP, _ICMP or _ICMPV6
	// Direct says, of a client of a published port, that it is to be connected within
	// the guest's kernel, by a socket of its namespace, and not by way of the device.
	Direct bool
	// Src and Dst are the sender and the destination as the sender knows them,
	// but for FromExposed, where Dst is the host's server that the rule names. The
	// ports of ICMP are zero.
	Src, Dst netip.AddrPort
	// Asked, of a datagram that may be an answer (In, FromGuest), is the address by
	// which Dst has last asked Src, if that is another than Src's own and is known.
	Asked netip.Addr
}

// Action is what becomes of a request.
type Action uint8

// The actions. The zero Decision drops.
const (
	Drop       Action = iota // say nothing: the destination cannot be
	Allow                    // between Decision.From and Decision.To
	Refuse                   // with Decision.Errno
	ServeDNS                 // our resolver answers
	ServeDHCP                // our DHCP server answers
	ServeDHCP6               // our DHCPv6 server answers
	Wait                     // Decision.Pending gives the answer later
)

// Decision is the answer to a Request.
type Decision struct {
	Action Action
	// Errno is what a program of the guest is to see: ENETUNREACH, ECONNREFUSED
	// or EACCES.
	Errno unix.Errno
	// From is the sender as the receiver is to see it. For what the guest's device
	// sends it is not valid: the host's kernel chooses.
	From netip.AddrPort
	// To is where it goes.
	To netip.AddrPort
	// Inside says, of a Direct request, that From is an address of the guest's own, by
	// which nothing can come by its device. To go by that one asks again.
	Inside  bool
	Pending *Pending
	// Others are where it goes if To does not answer, in their order; of TCP.
	Others []netip.AddrPort
	// Proxy, of TCP, is asked to connect to the destination: To and Others are its
	// addresses, or Path its Unix socket. nil: nobody is asked.
	Proxy *proxy.Talk
	Path  string
	// Watch accompanies the flow that Allow is about; nil: nobody does.
	Watch Watch
}

// Watch is who wants to know what becomes of a flow that was allowed, and may end it
// still. It is called on the shard's thread.
type Watch interface {
	// Flow tells of the record of a TCP connection, an echo mapping or a session of a
	// published port, before anything is sent, and where it leads; again where it leads
	// elsewhere because nobody answers there. The watch may set its Ended.
	Flow(f *flow.Flow, to netip.AddrPort)
	// Sees looks at what the guest sends first on a connection of its own, and reports whether it
	// may go on. Until then nothing of it is sent. b is what came since the last call.
	// At the guest's end of stream, or when nothing more has come for long, last is
	// true, and the answer is not Undecided.
	Sees(b []byte, last bool) Sight
}

// Sight is what a Watch has seen.
type Sight uint8

// The sights.
const (
	Undecided Sight = iota // it wants to see more
	Passed                 // all may pass, now and later
	Forbidden              // the connection is reset on both sides
)

// Decider answers requests. It is called on the shard's thread and does not
// block.
type Decider interface{ Decide(Request) Decision }

// Rules are the configured part of decisions. They are the same for all guests, and
// asked by all workers at once.
type Rules struct {
	Plan addressing.Plan
	// DisableHostLoopback refuses what stands for the host's 127.0.0.1 and ::1.
	DisableHostLoopback bool
	// DisableDNS makes the plan's DNS address an ordinary destination, or whatever
	// else it is.
	DisableDNS bool
	// Splice has Direct clients that come from the host's loopback seen as the guest's own
	// address, as pasta has them; else they are the gateway, as all others of its kind.
	Splice bool
	// LoopbackToLoopback has these clients go from the guest's loopback to the guest's
	// loopback, which makes servers that listen there alone public on the host's.
	LoopbackToLoopback bool
	// DisableDHCP and DisableDHCP6 have nobody answer who asks for a lease.
	DisableDHCP, DisableDHCP6 bool
	// DisableTCP and its like drop all flows of a protocol, but for leases.
	DisableTCP, DisableUDP, DisableICMP bool
	// HostAddr is the host's main address of a family at this moment, which the
	// plan's HostAddrs stand for. nil, or not valid: there is none. Any worker calls
	// it.
	HostAddr func(v6 bool) netip.Addr
	// NameServer is the host's first nameserver at this moment, for DNS over TLS;
	// likewise. Worker 0 alone calls it.
	NameServer func() netip.Addr
	// Internal refuses all flows between the guest and anything beyond its own
	// network, in both directions: the outside, the host's loopback, clients of
	// published ports. What we serve ourselves, DNS and DHCP, goes on. Clients of
	// published ports are refused because that is what users of Docker know by
	// the name: its internal networks publish no ports, and who relies on that
	// does not expect one to be open.
	Internal bool
}

// Decide implements Decider.
func (r *Rules) Decide(q Request) Decision {
	d := r.decide(&q)
	if r.Internal && d.Action == Allow {
		return Decision{Action: Refuse, Errno: unix.ENETUNREACH}
	}
	return d
}

func (r *Rules) decide(q *Request) Decision {
	switch {
	case q.Origin == flow.FromExposed:
		return decideExposed(q)
	case q.Origin == flow.FromPublished && q.Direct && r.Splice && q.Src.Addr().IsLoopback():
		return r.decideSplice(q)
	case q.Origin == flow.FromPublished:
		return r.decidePublished(q)
	case q.Direction == In:
		return r.decideReply(q)
	}
	return r.decideOut(q)
}

// decideExposed lets the guest reach the servers of the host that rules name, most
// often on its loopback, whatever DisableHostLoopback says. The rule alone says where a
// port leads, so no address comes from the guest.
func decideExposed(q *Request) Decision {
	if a := q.Dst.Addr(); !a.IsLoopback() && !Routable(a) {
		return Decision{Action: Refuse, Errno: unix.ECONNREFUSED}
	}
	return Decision{Action: Allow, From: q.Src, To: q.Dst}
}
