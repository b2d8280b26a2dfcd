package relay

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/shard"
	"epiphyte/internal/sockio"
	"epiphyte/stack"
)

const (
	// The guest's kernel acknowledges the last bytes within microseconds, unless the guest
	// is frozen or reads slowly. Then its socket is checked at growing intervals, and finally
	// reset when nothing more has been acknowledged for as long as the kernel waits with its
	// own (tcp_fin_timeout).
	lookFirst = 10 * time.Millisecond
	lookMost  = time.Second
	lookFor   = time.Minute
	// renewEvery is how soon a rule that is missing again is renewed. The guest sends its
	// segment again after 200 ms (TCP_RTO_MIN).
	renewEvery = 100 * time.Millisecond
)

// carried is a connection that was handed over. It lasts until the guest's kernel no longer
// needs its rule.
type carried struct {
	r              *Relay
	conn           *stack.Conn // keeps segments that still come by the device from being answered
	guest, outside netip.AddrPort
	fd             int // once the flow has ended: the socket, until it is closed
	timer          shard.Timer
	wait, waited   time.Duration
	acked          uint64        // bytes that the guest had acknowledged at the last look
	renewed        time.Duration // when its rule was ordered last
}

// renew orders the rule again: a segment has come by the device. The guest may have flushed
// its rules (ip rule flush), as some of its network managers do with rules that they do not
// know.
func (c *carried) renew() {
	if now := c.r.shard.Now(); now-c.renewed >= renewEvery {
		c.renewed = now
		c.r.carrier.Carry(c.guest, c.outside, -1, ignore)
	}
}

// end takes over the guest's socket when the flow has ended. Unless it ended in order, the
// socket is reset.
func (c *carried) end(fd int, inOrder bool) {
	c.fd, c.wait = fd, lookFirst
	c.r.lingering[c] = struct{}{}
	if !inOrder || sockio.Closed(fd) {
		c.close()
		return
	}
	unix.Shutdown(fd, unix.SHUT_WR) // the second end of stream has not been passed on yet
	c.r.shard.Arm(&c.timer, c.wait, c)
}

// Run implements shard.Task for the timer.
func (c *carried) Run() {
	c.waited += c.wait
	if info, err := unix.GetsockoptTCPInfo(c.fd, unix.IPPROTO_TCP, unix.TCP_INFO); err == nil && info.Bytes_acked > c.acked {
		c.acked, c.waited = info.Bytes_acked, 0
	}
	if c.waited >= lookFor || sockio.Closed(c.fd) {
		c.close()
		return
	}
	c.wait = min(2*c.wait, lookMost)
	c.r.shard.Arm(&c.timer, c.wait, c)
}

// close frees all of it.
func (c *carried) close() {
	c.r.shard.Disarm(&c.timer)
	delete(c.r.lingering, c)
	unix.Close(c.fd) // while the rule exists: the guest may answer a reset
	c.r.carrier.Drop(c.guest, c.outside, -1, ignore)
	c.conn.Forget()
	c.r.carried--
}
