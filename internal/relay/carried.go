package relay

import (
	"net/netip"
	"time"

	"epiphyte/internal/repair"
	"epiphyte/stack"
)

// renewEvery is how soon a rule that is missing again is renewed. The guest sends its
// segment again after 200 ms (TCP_RTO_MIN).
const renewEvery = 100 * time.Millisecond

// carried is a connection that was handed over. It lasts until the guest's kernel no longer
// needs its rule.
type carried struct {
	r              *Relay
	agent          repair.Agent
	conn           *stack.Conn // keeps segments that still come by the device from being answered
	guest, outside netip.AddrPort
	renewed        time.Duration // when its rule was ordered last
}

// renew orders the rule again: a segment has come by the device. The guest may have flushed
// its rules (ip rule flush), as some of its network managers do with rules that they do not
// know.
func (c *carried) renew() {
	if now := c.r.shard.Now(); now-c.renewed >= renewEvery {
		c.renewed = now
		c.agent.Carry(c.guest, c.outside, -1, ignore)
	}
}

// ended is called when the guest's socket, which has the last say, is closed.
func (c *carried) ended() {
	c.agent.Drop(c.guest, c.outside, -1, ignore)
	c.conn.Forget()
	c.r.carried--
}
