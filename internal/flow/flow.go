package flow

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Guest is one guest of the process. Flows and decisions refer to it by pointer.
type Guest struct {
	Name string // for people; may be empty
}

// Guests returns the guest that has an address, nil for none. It is called on the shard's
// thread. It is nil in a process with one guest.
type Guests func(netip.Addr) *Guest

// Of is the guest that has an address.
func (g Guests) Of(a netip.Addr) *Guest {
	if g == nil {
		return nil
	}
	return g(a)
}

// Kind is what a flow is to the table: its limit, and whether its flows may be evicted.
type Kind uint8

// The kinds.
const (
	Dial    Kind = iota // TCP connection that the guest has asked for, not established
	Conn                // established TCP connection, whoever asked for it
	Mapping             // UDP mapping, or echo identifier (RFC 4787, RFC 5508)
	Client              // TCP client of a published port that waits for the guest's server
	Session             // client of a published UDP port
	Exposed             // TCP connection by an exposed port, waiting or established
	kinds
)

// Origin is who asked for a flow.
type Origin uint8

// The origins.
const (
	FromGuest     Origin = iota // the guest, by its device
	FromPublished               // a client of a published port of the host
	FromExposed                 // the guest, by an exposed port on its loopback
)

// String is how listings name it.
func (o Origin) String() string {
	return [...]string{"guest", "published", "exposed"}[o]
}

// State is how far a flow has come.
type State uint8

// The states.
const (
	Deciding    State = iota // waiting for the decision whether it may be
	Connecting               // waiting for the server
	Handshake                // the host's server has accepted, the guest has not yet confirmed
	Established              // both ends of a connection are there
	GuestClosed              // the guest has closed its direction
	HostClosed               // the host's end has closed its direction
	Mapped                   // a mapping
	Published                // a session
)

// String is how listings name it.
func (s State) String() string {
	return [...]string{"deciding", "connecting", "handshake", "established",
		"guest closed", "host closed", "mapped", "published"}[s]
}

// Reason is why the table ends a flow.
type Reason uint8

// The reasons.
const (
	Expired Reason = iota // idle for longer than Flow.Idle
	Evicted               // another flow needs its place or its descriptor, or its guest has left
	Closing               // the table is being closed: free descriptors, answer nobody
)

// Owner is the code that carries a flow.
type Owner interface {
	// End frees everything that the flow holds. The record is out of the table
	// already.
	End(Reason)
}

// Flow is one record. Its owner fills it in before Table.Add. After that, on the
// shard's thread, it may change Owner, FD, In, Out, State, Errno and Rule, and Remote, but
// only for kinds that Table.Find does not look up. Nothing else may change.
type Flow struct {
	Owner  Owner
	Guest  *Guest
	Src    netip.AddrPort // the guest's end; of echo the port is the identifier
	Remote netip.AddrPort // the far end as the guest knows it; the zero value for mappings, which have many peers
	FD     int            // our socket on the host; negative: none of its own
	Idle   time.Duration  // time without traffic after which it expires; 0: never
	In     uint64         // bytes towards the guest
	Out    uint64         // bytes from the guest
	Proto  uint8          // unix.IPPROTO_TCP, _UDP, _ICMP or _ICMPV6
	Kind   Kind           // changed by Table.Establish alone
	Origin Origin
	State  State

	// For a trace: why a connection failed, and the policy's rule that allowed the flow, if
	// one did.
	Errno unix.Errno
	Rule  interface{ Where() string }

	// Ended is called when the flow leaves the table; nil: nobody wants to know.
	Ended func(lasted time.Duration)

	begun, used time.Duration // of the shard's clock
	prev, next  *Flow         // of its kind, in the order of last use
	listed      bool          // in the table
}

// order is the flows of one kind, least recently used first. The links are the
// flows' own, so that a flow costs one allocation.
type order struct {
	first, last *Flow
	count       int
}

func (o *order) add(f *Flow) {
	f.prev, f.next = o.last, nil
	if o.last != nil {
		o.last.next = f
	} else {
		o.first = f
	}
	o.last = f
	o.count++
}

func (o *order) remove(f *Flow) {
	if f.prev != nil {
		f.prev.next = f.next
	} else {
		o.first = f.next
	}
	if f.next != nil {
		f.next.prev = f.prev
	} else {
		o.last = f.prev
	}
	f.prev, f.next = nil, nil
	o.count--
}

func (o *order) toLast(f *Flow) {
	if f != o.last {
		o.remove(f)
		o.add(f)
	}
}
