package forwarder

import (
	"container/list"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/relay"
	"epiphyte/internal/shard"
	"epiphyte/internal/sockio"
	"epiphyte/stack"
)

// dial is a TCP flow in the making: a connect under way on the host, then a
// handshake under way with the guest.
type dial struct {
	f         *Forwarder
	syn       *stack.SYN
	fd        int          // -1 once handed to the flow or closed
	watch     *shard.Watch // nil if the host had answered before connect returned
	begun     time.Duration
	connected bool
	handshake *stack.Handshake
	events    uint32 // of the socket, seen during the handshake
	place     *list.Element
	to        netip.AddrPort // on the host; not valid of our own services
}

// dialTable holds the dials in the order in which their SYNs were last seen,
// and how many each guest address has.
type dialTable struct {
	byKey  map[stack.Tuple]*dial
	recent *list.List
	byAddr map[netip.Addr]int
}

func (t *dialTable) init() {
	t.byKey = make(map[stack.Tuple]*dial)
	t.recent = list.New()
	t.byAddr = make(map[netip.Addr]int)
}

func (t *dialTable) add(d *dial) {
	t.byKey[d.syn.Key] = d
	d.place = t.recent.PushBack(d)
	t.byAddr[d.syn.Src.Addr()]++
}

func (t *dialTable) remove(d *dial) {
	delete(t.byKey, d.syn.Key)
	t.recent.Remove(d.place)
	a := d.syn.Src.Addr()
	if t.byAddr[a]--; t.byAddr[a] == 0 {
		delete(t.byAddr, a)
	}
}

// victim is the dial to give up for a new one: the one whose SYN was seen
// longest ago, among the addresses that hold more than their fair share.
func (t *dialTable) victim() *dial {
	if len(t.byAddr) == 0 {
		return nil
	}
	share := len(t.byKey) / len(t.byAddr)
	for e := t.recent.Front(); e != nil; e = e.Next() {
		if d := e.Value.(*dial); t.byAddr[d.syn.Src.Addr()] >= share {
			return d
		}
	}
	return nil
}

// SYN implements stack.Handler.
func (f *Forwarder) SYN(syn *stack.SYN) {
	if d := f.dials.byKey[syn.Key]; d != nil {
		f.dials.recent.MoveToBack(d.place)
		return
	}
	d := f.rules.Translate(stack.ProtoTCP, syn.Dst)
	switch d.Action {
	case Connect:
		f.dial(syn, d.To)
	case ServeDNS:
		f.dialDNS(syn)
	case Refuse:
		q := syn.Quote()
		f.stack.SendUnreachable(netip.Addr{}, d.Why, &q)
	}
}

// dial starts a connect. Errors that the kernel knows at once are told at once.
func (f *Forwarder) dial(syn *stack.SYN, to netip.AddrPort) {
	if !f.makeRoom() {
		f.refuse(syn, unix.EMFILE)
		return
	}
	fd, errno := f.socket(to.Addr(), unix.SOCK_STREAM, 0)
	if errno != 0 {
		f.refuse(syn, errno)
		return
	}
	relay.Prepare(fd)
	d := &dial{f: f, syn: syn, to: to, fd: fd}
	errno = connect(fd, to)
	if errno != 0 && errno != unix.EINPROGRESS {
		unix.Close(fd)
		f.refuse(syn, errno)
		return
	}
	if sockio.Connected(fd) {
		if sockio.ConnectedToItself(fd, to) {
			unix.Close(fd)
			f.refuse(syn, unix.ECONNREFUSED)
			return
		}
		f.add(d)
		d.accept()
		return
	}
	f.start(d)
}

// dialDNS connects the guest to our resolver, which needs no waiting.
func (f *Forwarder) dialDNS(syn *stack.SYN) {
	if f.dns == nil {
		f.stack.SendReset(syn)
		return
	}
	if !f.makeRoom() {
		f.refuse(syn, unix.EMFILE)
		return
	}
	fd, err := f.dns.Stream()
	if err != nil {
		f.stack.SendReset(syn)
		return
	}
	f.start(&dial{f: f, syn: syn, fd: fd})
}

// start registers the dial; the poller reports the outcome of the connect, an
// immediate one too.
func (f *Forwarder) start(d *dial) {
	w, err := f.shard.Watch(d.fd, relay.FlowEvents, d)
	if err != nil {
		unix.Close(d.fd)
		f.refuse(d.syn, unix.ENOBUFS)
		return
	}
	d.watch = w
	f.add(d)
}

func (f *Forwarder) add(d *dial) {
	d.begun = f.shard.Now()
	f.dials.add(d)
}

// makeRoom gives up the least wanted dial when there are too many, or too many
// connections for one more. It reports whether there is room now.
func (f *Forwarder) makeRoom() bool {
	if len(f.dials.byKey) < f.limits.Dials && len(f.dials.byKey)+f.relay.Len() < f.limits.TCP {
		return true
	}
	v := f.dials.victim()
	if v == nil {
		return false
	}
	v.cancel()
	return true
}

// Ready implements shard.Handler.
func (d *dial) Ready(events uint32) {
	d.events |= events
	if d.connected || events&(unix.EPOLLOUT|unix.EPOLLERR|unix.EPOLLHUP) == 0 {
		return
	}
	var errno unix.Errno
	if events&(unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		errno = socketError(d.fd)
	} else if d.to.IsValid() && sockio.ConnectedToItself(d.fd, d.to) {
		errno = unix.ECONNREFUSED
	}
	if errno != 0 {
		d.f.dials.remove(d)
		d.closeSocket()
		d.f.refuse(d.syn, errno)
		return
	}
	d.accept()
}

// accept lets the guest know that the host has accepted.
func (d *dial) accept() {
	d.connected = true
	d.handshake = d.f.stack.Accept(d.syn, d.accepted)
}

// accepted ends the dial: with a flow, or without.
func (d *dial) accepted(c *stack.Conn, errno unix.Errno) {
	if d.fd < 0 { // cancelled meanwhile
		return
	}
	d.f.dials.remove(d)
	if c == nil {
		// The host has accepted, so it is owed an end: the guest's reset.
		relay.SetAbortiveClose(d.fd)
		d.closeSocket()
		return
	}
	fd, watch := d.fd, d.watch
	d.fd, d.watch = -1, nil
	d.f.relay.Start(c, fd, watch, d.events)
}

// cancel gives the dial up without a word: the guest will ask again or not.
func (d *dial) cancel() {
	d.f.dials.remove(d)
	relay.SetAbortiveClose(d.fd)
	d.closeSocket()
	if d.handshake != nil {
		d.handshake.Abort()
	}
}

func (d *dial) closeSocket() {
	if d.fd >= 0 {
		if d.watch != nil {
			d.watch.Forget()
		}
		unix.Close(d.fd)
		d.fd = -1
	}
}

// refuse tells the guest why there is no connection, in the way in which a
// network would: a RST where somebody said no, ICMP where nobody was found.
func (f *Forwarder) refuse(syn *stack.SYN, errno unix.Errno) {
	switch errno {
	case unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM:
		errno = unix.EHOSTUNREACH // ours, not the destination's: no RST
	case unix.EPERM:
		errno = unix.ENETUNREACH // a firewall of the host, as libslirp reports it
	}
	why, ok := stack.UnreachableFor(errno)
	if !ok || errno == unix.ECONNREFUSED {
		f.stack.SendReset(syn)
		return
	}
	q := syn.Quote()
	f.stack.SendUnreachable(netip.Addr{}, why, &q)
}
