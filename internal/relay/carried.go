package relay

import (
	"net/netip"

	"epiphyte/internal/repair"
	"epiphyte/stack"
)

// carried is a connection that was handed over. It lasts until the guest's kernel no longer
// needs its rule.
type carried struct {
	r              *Relay
	agent          repair.Agent
	conn           *stack.Conn // keeps segments that still come by the device from being answered
	guest, outside netip.AddrPort
	route          repair.Route
}

// strayed is called when a segment has come by the device.
func (c *carried) strayed() { c.route.Renew(c.r.shard.Now(), c.agent, c.guest, c.outside) }

// ended is called when the guest's socket, which has the last say, is closed.
func (c *carried) ended() {
	c.agent.Drop(c.guest, c.outside, -1, ignore)
	c.conn.Forget()
	c.r.carried--
}
