package forwarder

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"epiphyte/internal/connect"
	"epiphyte/internal/flow"
	"epiphyte/internal/policy"
	"epiphyte/stack"
)

// dial is a TCP flow in the making: a connect under way on the host, then a
// handshake under way with the guest.
type dial struct {
	f         *Forwarder
	record    *flow.Flow
	syn       *stack.SYN
	host      connect.Attempt
	handshake *stack.Handshake
	others    []netip.AddrPort // to try if the host's answer is an error
	watch     policy.Watch     // nil: nobody watches
	proxy     *proxyDial       // to a proxy that connects in our place; nil: none
	forget    func()           // stops waiting for the decision; nil: there was nothing to wait for
	ended     bool
}

// SYN implements stack.Handler.
func (f *Forwarder) SYN(syn *stack.SYN) {
	if r := f.cfg.Table.Find(flow.Dial, unix.IPPROTO_TCP, syn.Src, syn.Dst); r != nil {
		f.cfg.Table.Used(r)
		return
	}
	decision := f.decide(unix.IPPROTO_TCP, syn.Src, syn.Dst)
	if decision.Action == policy.Refuse {
		f.refuse(syn, decision.Errno)
		return
	}
	if decision.Action == policy.Drop {
		return
	}
	if !f.cfg.Table.Admit(flow.Dial) {
		f.refuse(syn, unix.EMFILE)
		return
	}
	d := &dial{f: f, syn: syn.Clone()}
	d.host = connect.Attempt{Socket: connect.None(), Shard: f.cfg.Shard, Done: d.answered}
	d.record = &flow.Flow{
		Owner: d, Guest: f.cfg.Guests.Of(syn.Src.Addr()), Kind: flow.Dial, Proto: unix.IPPROTO_TCP, Src: syn.Src, Remote: syn.Dst, FD: -1,
	}
	f.cfg.Table.Add(d.record)
	d.decided(decision)
}

// decided acts on the decision of the policy.
func (d *dial) decided(decision policy.Decision) {
	switch {
	case d.ended:
	case decision.Action == policy.Allow:
		d.others, d.watch = decision.Others, decision.Watch
		if decision.Proxy != nil {
			d.proxy = &proxyDial{dial: d, talk: decision.Proxy, path: decision.Path}
		}
		d.connect(decision.To)
	case decision.Action == policy.ServeDNS:
		d.connectDNS()
	case decision.Action == policy.Refuse:
		d.fail(decision.Errno)
	case decision.Action == policy.Wait:
		d.forget = decision.Pending.Then(func(late policy.Decision) { d.decided(d.f.counted(late)) })
	default:
		d.close()
	}
}

// connect starts a connect. An error that the kernel reports at once reaches the
// guest at once.
func (d *dial) connect(to netip.AddrPort) {
	if d.watch != nil {
		d.watch.Flow(d.record, to)
	}
	var fd int
	var errno unix.Errno
	if d.proxy != nil {
		fd, errno = d.proxy.socket(to)
	} else {
		fd, errno = d.f.socket(to.Addr(), unix.SOCK_STREAM, 0)
	}
	if errno != 0 {
		d.f.cfg.Table.DialFailed(errno)
		d.record.Errno = errno
		d.fail(errno)
		return
	}
	if d.proxy != nil && d.proxy.path != "" {
		d.record.FD, d.record.State = fd, flow.Connecting
		d.host.Socket = connect.Socket{FD: fd}
		d.answered(0)
		return
	}
	connect.Prepare(fd)
	d.record.FD, d.record.State = fd, flow.Connecting
	d.host.Start(fd, to, 0) // the guest's patience is what counts
}

// connectDNS connects the guest to our resolver, which needs no waiting.
func (d *dial) connectDNS() {
	if d.f.cfg.DNS == nil {
		d.fail(unix.ECONNREFUSED)
		return
	}
	fd, err := d.f.cfg.DNS.Stream(d.record.Src)
	if err != nil {
		d.fail(unix.EMFILE)
		return
	}
	d.record.FD = fd
	d.host.Socket = connect.Socket{FD: fd}
	d.answered(0)
}

// answered takes the host's answer and passes it on to the guest.
func (d *dial) answered(errno unix.Errno) {
	if errno != 0 && len(d.others) > 0 {
		to := d.others[0]
		d.others = d.others[1:]
		d.host.Close()
		d.connect(to)
		return
	}
	if errno != 0 {
		d.f.cfg.Table.DialFailed(errno)
		d.record.Errno = errno
		d.fail(errno)
		return
	}
	if d.proxy != nil && !d.proxy.done {
		d.proxy.start()
		return
	}
	d.record.State = flow.Handshake
	h := d.f.stack.Accept(d.syn, d.accepted)
	if !d.ended {
		d.handshake = h
	}
}

// accepted ends the dial: with an established connection, or without.
func (d *dial) accepted(c *stack.Conn, _ unix.Errno) {
	switch {
	case d.ended: // given up meanwhile
	case c == nil:
		// The host has accepted, so it must see the guest's reset.
		d.host.Reset()
		d.close()
	default:
		d.ended = true
		d.f.cfg.Relay.StartWatched(c, d.host.Release(), d.record, d.watch)
	}
}

// fail ends the dial and tells the guest why.
func (d *dial) fail(errno unix.Errno) {
	d.close()
	d.f.refuse(d.syn, errno)
}

func (d *dial) close() {
	d.ended = true
	d.proxy.stop()
	d.f.cfg.Table.Remove(d.record)
	d.host.Close()
}

// End implements flow.Owner. The guest is told nothing: if it still wants the
// connection, it sends its SYN again.
func (d *dial) End(flow.Reason) {
	d.ended = true
	d.proxy.stop()
	if d.forget != nil {
		d.forget()
	}
	d.host.Reset()
	if d.handshake != nil {
		d.handshake.Abort()
	}
}
