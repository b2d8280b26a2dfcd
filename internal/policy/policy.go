package policy

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"epiphyte/internal/addressing"
	"epiphyte/internal/flow"
	"epiphyte/internal/proxy"
)

// Direction is that of a flow's first packet, or of the datagram in question.
type Direction uint8

// The directions.
const (
	Out Direction = iota // from the guest
	In                   // to the guest
)

// Request is a flow that is about to begin, or a datagram of one.
type Request struct {
	Guest     *flow.Guest
	Direction Direction
	Origin    flow.Origin
	Proto     uint8 // unix.IPPROTO_TCP, _UDP, _ICMP or _ICMPV6
	// Direct says that a client of a published port is to be connected within the
	// guest's kernel, by a socket of its namespace, and not by way of the device.
	Direct bool
	// Src and Dst are the sender and the destination as the sender knows them,
	// except for FromExposed, where Dst is the host's server that the rule names. The
	// ports of ICMP are zero.
	Src, Dst netip.AddrPort
	// Asked is set for a datagram that may be an answer (In, FromGuest): the address by
	// which Dst has last asked Src, if it is known and not Src's own.
	Asked netip.Addr
}

// Action is the outcome of a request.
type Action uint8

// The actions. The zero Decision drops.
const (
	Drop       Action = iota // say nothing: there can be no such destination
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
	// Errno is what a program of the guest sees: ENETUNREACH, ECONNREFUSED or EACCES.
	Errno unix.Errno
	// From is the sender as the receiver sees it. For packets from the guest's device it
	// is not valid: the host's kernel chooses.
	From netip.AddrPort
	// To is the destination.
	To netip.AddrPort
	// Inside says of a Direct request that From is the guest's own address, which nothing
	// that comes by its device may have. To use the device, the caller asks again.
	Inside  bool
	Pending *Pending
	// Others are the destinations to try, in order, if To does not answer; TCP only.
	Others []netip.AddrPort
	// Proxy is asked to connect to the destination; TCP only. To and Others are the
	// proxy's addresses, or Path is its Unix socket. nil: there is no proxy.
	Proxy *proxy.Talk
	Path  string
	// Watch accompanies the allowed flow; may be nil.
	Watch Watch
}

// Watch follows a flow that was allowed, and may still end it. It is called on the shard's
// thread.
type Watch interface {
	// Flow gets the record of a TCP connection, an echo mapping or a session of a
	// published port, and its destination, before anything is sent; again if another
	// destination is tried because the first does not answer. It may set f.Ended.
	Flow(f *flow.Flow, to netip.AddrPort)
	// Sees inspects the guest's first bytes on a connection of its own, and reports
	// whether it may go on. Until then nothing is sent. b is what came since the last
	// call. last is true at the guest's end of stream, or when nothing more has come for
	// long; then the result must not be Undecided.
	Sees(b []byte, last bool) Sight
}

// Sight is what a Watch concludes.
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

// Rules are the configured part of decisions. They are the same for all guests; all
// workers use them concurrently.
type Rules struct {
	Plan addressing.Plan
	// DisableHostLoopback refuses what stands for the host's 127.0.0.1 and ::1.
	DisableHostLoopback bool
	// DisableDNS leaves the plan's DNS address to its other role, if it has one; else it
	// is an ordinary destination.
	DisableDNS bool
	// Splice shows Direct clients from the host's loopback under the guest's own address,
	// as pasta does; else they are seen as the gateway, like others from there.
	Splice bool
	// LoopbackToLoopback connects these clients from the guest's loopback to the guest's
	// loopback, which publishes servers that listen there alone on the host's.
	LoopbackToLoopback bool
	// DisableDHCP and DisableDHCP6 leave requests for a lease unanswered.
	DisableDHCP, DisableDHCP6 bool
	// DisableTCP and its like drop all flows of a protocol, except requests for a lease.
	DisableTCP, DisableUDP, DisableICMP bool
	// HostAddr returns the host's current main address of a family, which the plan's
	// HostAddrs stand for; not valid, or a nil function: there is none. Any worker calls
	// it.
	HostAddr func(v6 bool) netip.Addr
	// NameServer likewise returns the host's current first nameserver, for DNS over TLS.
	// Only worker 0 calls it.
	NameServer func() netip.Addr
	// Internal refuses all flows between the guest and anything beyond its own
	// network, in both directions: the outside, the host's loopback, clients of
	// published ports. Our own services, DNS and DHCP, go on. Clients of published
	// ports are refused as on Docker's internal networks, which publish no ports, so
	// that users who know those find none open.
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

// decideExposed lets the guest reach the host's servers that rules name, mostly on its
// loopback, whatever DisableHostLoopback says. No address comes from the guest: the rule
// alone says where a port leads.
func decideExposed(q *Request) Decision {
	if a := q.Dst.Addr(); !a.IsLoopback() && !Routable(a) {
		return Decision{Action: Refuse, Errno: unix.ECONNREFUSED}
	}
	return Decision{Action: Allow, From: q.Src, To: q.Dst}
}
