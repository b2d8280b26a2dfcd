package egress

import (
	"net/netip"
	"strconv"

	"epiphyte/internal/proxy"
)

// Direction is the way of the first packet of a flow.
type Direction uint8

// The directions.
const (
	Out Direction = iota // from the guest
	In                   // to the guest
)

// Proto is a set of protocols.
type Proto uint8

// The protocols. ICMP means echo, of either family.
const (
	TCP Proto = 1 << iota
	UDP
	ICMP
)

// String is how rules and records name one protocol.
func (p Proto) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case ICMP:
		return "icmp"
	}
	return "any"
}

// index numbers the protocols from 0.
func (p Proto) index() int {
	switch p {
	case TCP:
		return 0
	case UDP:
		return 1
	}
	return 2
}

// Flow is what a policy decides about.
type Flow struct {
	Direction Direction
	Proto     Proto // one of them
	// Name is the destination's, as Canonical makes it; empty for an address that
	// came from no name, and for flows in.
	Name string
	// Addr is the destination of a flow out, the source of one in. It is not valid
	// if the name has not been looked up yet.
	Addr netip.Addr
	Port uint16 // of the destination; 0 for ICMP
	// Host says that Addr is one of the host's own, or stands for its loopback.
	Host bool
	// Member says that Addr is another member's of the guest's network.
	Member bool
}

// Reason is why a verdict came about, in words for a record.
type Reason string

// The reasons.
const (
	ByRule       Reason = "rule"
	ByDefault    Reason = "default"
	OtherDNS     Reason = "other resolver"       // ports 53 and 853 lead to ours alone
	NotPublic    Reason = "address not public"   // the name is allowed, its address is not
	Unresolved   Reason = "name not resolved"    // no address, or the resolver failed
	OtherName    Reason = "name in the traffic"  // SNI or Host is not the name of the address
	NoName       Reason = "no name in the hello" // sni require
	Unreadable   Reason = "hello not readable"   // too long, malformed, or missing
	TooManyNames Reason = "too many new names below a star"
	NoProxy      Reason = "proxy not found" // its name has no address
)

// Verdict is what becomes of a flow, and why.
type Verdict struct {
	Allow  bool
	Reason Reason
	Rule   *Rule // that decided; nil: none did
}

// Policy is a compiled text. It never changes, and its methods may be called from any
// goroutine.
type Policy struct {
	Pin        bool // names pin: real addresses, allowed while their answer lives
	RequireSNI bool // sni require: TLS without a server name is refused
	KillFlows  bool // flows kill: a new policy ends the flows that it denies
	AnyDNS     bool // dns any: records of all types of allowed names
	Learn      bool // learn: everything passes, and its verdict is recorded

	rules   []*Rule // in the order of the text
	allow   [2]bool // the default of each direction
	out, in index
}

// Passes reports whether what a verdict denies passes nevertheless, because of learn. Queries
// to other resolvers do not: they would teach us nothing about names.
func (p *Policy) Passes(v Verdict) bool {
	return p.Learn && !v.Allow && v.Reason != OtherDNS && v.Reason != Unresolved
}

// NamesHost reports whether a rule is about the host's own addresses.
func (p *Policy) NamesHost() bool {
	b := &p.out.groups[hostGroup]
	return len(b.allow.rules)+len(b.deny.rules) > 0
}

// DeniesMembers returns the first rule that denies a network's members, nil if there is none.
func (p *Policy) DeniesMembers() *Rule {
	for _, r := range p.rules {
		if !r.allow && r.target.group == membersGroup {
			return r
		}
	}
	return nil
}

// Rules returns the policy's rules in the order of its text. A rule's index is its ID.
func (p *Policy) Rules() []*Rule { return p.rules }

// Rule is one line that allows or denies.
type Rule struct {
	ID   int
	File string // as given to Parse
	Line int    // from 1
	Text string // without comment and redundant space
	// Via is the proxy for the rule's flows; nil: none.
	Via *proxy.Server

	allow     bool
	direction Direction
	protos    Proto
	ports     []portRange // empty: all
	target    target
}

// Where is the rule's place for people: file:line.
func (r *Rule) Where() string { return r.File + ":" + strconv.Itoa(r.Line) }

// target is what a rule is about; one of name, prefix and group is set.
type target struct {
	name   string // canonical
	below  bool   // with name: *.name
	prefix netip.Prefix
	group  group
}

// portRange is a range of ports, both ends included.
type portRange struct{ first, last uint16 }

// covers reports whether a rule is for a protocol and port, whatever its target.
func (r *Rule) covers(proto Proto, port uint16) bool {
	if r.protos&proto == 0 {
		return false
	}
	if len(r.ports) == 0 {
		return true
	}
	for _, p := range r.ports {
		if p.first <= port && port <= p.last {
			return true
		}
	}
	return false
}

// coversAll reports whether a rule is for every protocol and port.
func (r *Rule) coversAll() bool { return r.protos == TCP|UDP|ICMP && len(r.ports) == 0 }
