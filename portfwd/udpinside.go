package portfwd

import (
	"bytes"

	"golang.org/x/sys/unix"

	"epiphyte/internal/flow"
	"epiphyte/internal/policy"
	"epiphyte/internal/shard"
	"epiphyte/internal/sockio"
)

// maxWaiting bounds the bytes that wait for sockets of the guest; what exceeds it is lost,
// as in any queue.
const maxWaiting = 1 << 20

// wait holds what a client has sent while its socket in the guest is on its way.
type wait struct {
	u     *udpPort
	e     *datagramClient
	timer shard.Timer
	held  []datagrams
}

// datagrams are several of one size, the last perhaps smaller.
type datagrams struct {
	segment int
	data    []byte
}

// sockets returns those with which the server sees a client of the port as the guest
// itself, nil if there are none.
func (u *udpPort) sockets(client *sockio.Addr) Sockets {
	cfg := &u.m.cfg
	from := client.AddrPort().Addr()
	if cfg.Sockets == nil || cfg.Mode == StackOnly || cfg.Shard.Now() < u.avoid || !from.IsLoopback() {
		return nil
	}
	return cfg.Sockets(u.m.destination(u.guest, from).Addr())
}

// deliverInside passes datagrams on by a socket of the guest's namespace.
func (u *udpPort) deliverInside(client sockio.Addr, control []byte, d policy.Decision, segment int, parts [][]byte) {
	e := u.inside(client, d)
	if e == nil {
		u.deliverByDevice(client, control, segment, parts)
		return
	}
	e.asked = replyFrom(e.asked[:0], control)
	if e.wait == nil {
		e.send(segment, parts)
		return
	}
	for _, p := range parts {
		if u.m.waiting += len(p); u.m.waiting > maxWaiting {
			u.m.waiting -= len(p)
			continue
		}
		e.wait.held = append(e.wait.held, datagrams{segment, bytes.Clone(p)})
	}
}

// deliverByDevice delivers datagrams of a client that cannot be the guest itself.
func (u *udpPort) deliverByDevice(client sockio.Addr, control []byte, segment int, parts [][]byte) {
	from := client.AddrPort()
	u.decided(u.m.decide(unix.IPPROTO_UDP, from, u.m.destination(u.guest, from.Addr()), false), client, control, segment, parts)
}

// inside finds the datagramClient of an address or begins one, nil if there is no socket for it.
func (u *udpPort) inside(client sockio.Addr, d policy.Decision) *datagramClient {
	cfg := &u.m.cfg
	from := client.AddrPort()
	if r := cfg.Table.Find(flow.Mapping, unix.IPPROTO_UDP, d.To, from); r != nil {
		e := r.Owner.(*datagramClient)
		if e.port == &u.datagramPort {
			return e
		}
		e.end() // the client uses two ports for one server: the last one gets the answers
	}
	sockets := u.sockets(&client)
	if sockets == nil {
		return nil
	}
	cfg.Table.Admit(flow.Mapping)
	e := &datagramClient{port: &u.datagramPort, client: client, server: sockio.DatagramSocket{FD: -1}}
	e.record = &flow.Flow{
		Owner: e, Guest: cfg.Guests.Of(d.To.Addr()), Kind: flow.Mapping, Origin: flow.FromPublished, Proto: unix.IPPROTO_UDP,
		Src: d.To, Remote: from, FD: -1, Idle: sessionIdle, State: flow.Published,
	}
	e.sent, e.answered = &e.record.In, &e.record.Out
	e.to.Set(d.To)
	cfg.Table.Add(e.record)
	w := &wait{u: u, e: e}
	e.wait = w
	sockets.Datagrams(familyOf(d.To.Addr()), w.take)
	switch {
	case e.wait == w:
		cfg.Shard.Arm(&w.timer, directPatience, w)
	case e.server.FD < 0:
		return nil
	}
	return e
}

// take gets the socket, or -1.
func (w *wait) take(fd int) (kept bool) {
	e := w.e
	if e.wait != w {
		return false
	}
	held := w.end()
	if fd >= 0 && e.start(fd) == nil {
		for _, d := range held {
			e.send(d.segment, [][]byte{d.data})
		}
		return true
	}
	w.u.avoid = w.u.m.cfg.Shard.Now() + avoidFor
	e.end()
	for _, d := range held {
		w.u.deliverByDevice(e.client, nil, d.segment, [][]byte{d.data})
	}
	return fd >= 0
}

// Run implements shard.Task for the timer: no socket has come.
func (w *wait) Run() { w.take(-1) }

// end ends the wait, and returns what was held.
func (w *wait) end() []datagrams {
	m := w.u.m
	m.cfg.Shard.Disarm(&w.timer)
	w.e.wait = nil
	for _, d := range w.held {
		m.waiting -= len(d.data)
	}
	return w.held
}
