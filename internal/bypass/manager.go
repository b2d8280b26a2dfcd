package bypass

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/bridge"
	"epiphyte/internal/repair"
	"epiphyte/internal/shard"
)

// mostCarried bounds the connections that are carried, or about to be, in one network: a
// kernel checks a packet that has no route yet against one rule for each, and each takes up to
// six descriptors of a client.
const mostCarried = 64

// Pair is a connection between two members: the first one has asked for it.
type Pair [2]netip.AddrPort

// Member is one that takes part: its kernel can carry connections, and so can its client.
type Member struct {
	Port *bridge.Port
	// Kernel is the member's, whose After is Port.Follow's.
	Kernel *repair.Kernel
	// Take hands two sockets, the ends of a connection that its client is to splice, to that
	// client. It takes them over. What follows is Manager.Ended.
	Take func(p Pair, fds [2]int)
	// End has the client end a connection that it splices.
	End func(Pair)
	// Outlived says that its client is there when the member has left.
	Outlived bool
}

// Config of a Manager. Shard and Bridge are required.
type Config struct {
	Shard  *shard.Shard
	Bridge *bridge.Bridge
	// Stay reports whether connections stay on the bridge for now; nil: they do not.
	Stay func() bool
}

// Manager hands connections over.
type Manager struct {
	cfg     Config
	members map[*bridge.Port]*Member
	carried map[Pair]*carried
	trying  map[*handover]struct{}
	claimed map[Pair]struct{} // spliced by a client; one of the members is not here yet
	timer   shard.Timer       // for claimed
	left    map[rule]struct{} // of a predecessor, to be removed when their members are here
}

// rule is for one of the members' ends of a connection.
type rule struct {
	pair   Pair
	member int
}

// mostLeft bounds what is remembered of a predecessor's connections that have ended.
const mostLeft = 4 * mostCarried

// New makes a Manager.
func New(cfg Config) *Manager {
	return &Manager{
		cfg: cfg, members: make(map[*bridge.Port]*Member), carried: make(map[Pair]*carried),
		trying: make(map[*handover]struct{}), claimed: make(map[Pair]struct{}), left: make(map[rule]struct{}),
	}
}

// carried is a connection that has left the bridge. The client of its first member splices it.
type carried struct {
	conn    *bridge.Conn
	pair    Pair
	members [2]*Member
	routes  [2]repair.Route
}

// Join has a member take part, once its port is followed.
func (m *Manager) Join(member *Member) {
	m.members[member.Port] = member
	for p := range m.claimed {
		m.Claim(p)
	}
	for r := range m.left {
		m.drop(r)
	}
}

// Leave ends the connections of a member that leaves, before its agent and its port are closed.
// What it has ended in order itself is delivered, as long as the other member is there.
func (m *Manager) Leave(member *Member) {
	for h := range m.trying {
		if h.members[0] == member || h.members[1] == member {
			h.giveUp()
		}
	}
	for p, c := range m.carried {
		switch {
		case c.members[0] == member && !member.Outlived:
			m.Ended(p)
		case c.members[0] == member:
			member.End(p) // which says when it has
			m.drop(rule{p, 0})
		case c.members[1] == member:
			c.members[0].End(p)
			m.drop(rule{p, 1})
		}
	}
	for p := range m.claimed {
		if m.member(p[0].Addr()) == member {
			delete(m.claimed, p)
		}
	}
	delete(m.members, member.Port)
}

// member is the one that has an address; nil: none that takes part.
func (m *Manager) member(a netip.Addr) *Member { return m.members[m.cfg.Bridge.Port(a)] }

// Busy hands a connection over, if it may be, and is bridge.Config.Busy.
func (m *Manager) Busy(conn *bridge.Conn) {
	h := &handover{m: m, conn: conn, fds: [2]int{-1, -1}, current: conn.Sender()}
	for i := range h.members {
		member := m.members[conn.Port(i)]
		h.members[i], h.pair[i] = member, conn.Addr(i)
		switch {
		case member != nil && member.Kernel.Agent == nil:
			member.Kernel.Start()
			return
		case member == nil || !h.lo(i).Free(m.cfg.Shard.Now()):
			conn.Stay()
			return
		}
	}
	places := mostCarried
	if !conn.Bulk() {
		places /= 2 // what moves much gains most
	}
	if len(m.carried)+len(m.trying) >= places || m.asked(h.members[0]) >= mostCarried/2 {
		return // until it has moved as much again
	}
	if m.carried[h.pair] != nil || m.cfg.Stay != nil && m.cfg.Stay() {
		conn.Stay()
		return
	}
	h.begin()
}

// asked is how many of the places are taken by connections that a member has asked for. None has
// more than half.
func (m *Manager) asked(member *Member) (n int) {
	for _, c := range m.carried {
		if c.members[0] == member {
			n++
		}
	}
	return n
}

// Claim takes on a connection that the client of its first member splices since before this
// Manager was there, once both of its members are.
func (m *Manager) Claim(p Pair) {
	c := &carried{pair: p, members: [2]*Member{m.member(p[0].Addr()), m.member(p[1].Addr())}}
	switch {
	case m.carried[p] != nil:
	case c.members[0] == nil || c.members[1] == nil:
		m.claimed[p] = struct{}{}
		if !m.cfg.Shard.Armed(&m.timer) {
			m.cfg.Shard.Arm(&m.timer, claimPatience, shard.TaskFunc(m.endClaimed))
		}
		return
	default:
		ports := [2]*bridge.Port{c.members[0].Port, c.members[1].Port}
		c.conn = m.cfg.Bridge.Adopt(ports, p, func(i int) { m.renew(c, i) })
		m.carried[p] = c
	}
	delete(m.claimed, p)
}

// claimPatience is how long a member that was on the network has to be there again before its
// connections count as those of one that has left. Clients take up to 2 s to join again.
const claimPatience = 10 * time.Second

// endClaimed ends what is spliced to members that have not come back.
func (m *Manager) endClaimed() {
	for p := range m.claimed {
		delete(m.claimed, p)
		if taker := m.member(p[0].Addr()); taker != nil {
			taker.End(p)
		}
	}
}

// Close gives up what is under way. The agents must still be there.
func (m *Manager) Close() {
	m.cfg.Shard.Disarm(&m.timer)
	for h := range m.trying {
		h.giveUp()
	}
}

// renew makes a rule again that a member has removed.
func (m *Manager) renew(c *carried, i int) {
	if agent := c.members[i].Kernel.Agent; agent != nil {
		c.routes[i].Renew(m.cfg.Shard.Now(), agent, c.pair[i], c.pair[1-i])
	}
}

// Ended is called when the client is done with a connection, or has not taken it.
func (m *Manager) Ended(p Pair) {
	c := m.carried[p]
	if c != nil {
		c.conn.Forget()
		delete(m.carried, p)
	}
	delete(m.claimed, p)
	for i := range p {
		if r := (rule{p, i}); !m.drop(r) && c == nil && len(m.left) < mostLeft {
			m.left[r] = struct{}{}
		}
	}
}

// drop removes a rule, if its member is here.
func (m *Manager) drop(r rule) bool {
	member := m.member(r.pair[r.member].Addr())
	if member == nil || member.Kernel.Agent == nil {
		return false
	}
	delete(m.left, r)
	member.Kernel.Agent.Drop(r.pair[r.member], r.pair[1-r.member], -1, ignore)
	return true
}

func ignore(unix.Errno) {}
