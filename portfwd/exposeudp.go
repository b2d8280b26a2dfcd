package portfwd

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"epiphyte/internal/flow"
	"epiphyte/internal/policy"
	"epiphyte/internal/sockio"
)

// exposedUDP is an exposed UDP port at one of its addresses in the guest.
type exposedUDP struct {
	datagramPort
	at netip.AddrPort // in the guest
	to netip.AddrPort // on the host; no valid address: the loopback of the client's family
}

func (m *Manager) newExposedUDP(fd int, to netip.AddrPort) *exposedUDP {
	u := &exposedUDP{at: sockio.LocalAddr(fd), to: to}
	u.datagramPort = m.listenDatagrams(fd, u)
	return u
}

// Received implements sockio.DatagramOwner. All datagrams of a client go where its first
// one went, for which the policy was asked.
func (u *exposedUDP) Received(from *sockio.Addr, control []byte, segment int, parts [][]byte) {
	var e *datagramClient
	if r := u.m.cfg.Table.Find(flow.Mapping, unix.IPPROTO_UDP, from.AddrPort(), u.at); r != nil {
		e = r.Owner.(*datagramClient)
	} else if e = u.newClient(*from); e == nil {
		return
	}
	e.asked = replyFrom(e.asked[:0], control)
	e.send(segment, parts)
}

// newClient makes a client, nil if it is not allowed or there is no socket for it.
func (u *exposedUDP) newClient(client sockio.Addr) *datagramClient {
	cfg := &u.m.cfg
	from, to := client.AddrPort(), u.to
	if !to.Addr().IsValid() {
		to = netip.AddrPortFrom(loopbackLike(from.Addr()), to.Port())
	}
	guest := cfg.Guests.Of(from.Addr())
	d := cfg.Policy.Decide(policy.Request{
		Guest: guest, Direction: policy.Out, Origin: flow.FromExposed, Proto: unix.IPPROTO_UDP, Src: from, Dst: to,
	})
	if d.Action != policy.Allow { // one that has to wait sends again
		return nil
	}
	cfg.Table.Admit(flow.Mapping)
	fd, err := u.m.datagramSocket(familyOf(d.To.Addr()))
	if err != nil {
		return nil
	}
	e := &datagramClient{port: &u.datagramPort, client: client}
	e.record = &flow.Flow{
		Owner: e, Guest: guest, Kind: flow.Mapping, Origin: flow.FromExposed, Proto: unix.IPPROTO_UDP,
		Src: from, Remote: u.at, Idle: sessionIdle, State: flow.Mapped,
	}
	e.sent, e.answered = &e.record.Out, &e.record.In
	e.to.Set(d.To)
	if e.start(fd) != nil {
		return nil
	}
	cfg.Table.Add(e.record)
	return e
}

// datagramSocket makes a socket of the host. If there is no descriptor, it has the table
// free one and tries again.
func (m *Manager) datagramSocket(family int) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if (err == unix.EMFILE || err == unix.ENFILE) && m.cfg.Table.FreeDescriptor() {
		fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	}
	return fd, err
}
