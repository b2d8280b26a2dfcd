package portfwd

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"epiphyte/internal/flow"
	"epiphyte/internal/policy"
	"epiphyte/internal/shard"
	"epiphyte/internal/sockio"
)

// exposedUDP is an exposed UDP port at one of the addresses in the guest.
type exposedUDP struct {
	datagramPort
	at netip.AddrPort // in the guest
	to netip.AddrPort // on the host; no valid address: the loopback of the client's family
}

// errand is a client of an exposed UDP port, and the socket that stands for it on the host.
type errand struct {
	port   *exposedUDP
	record *flow.Flow
	client sockio.Addr
	asked  []byte // control message that makes replies leave from the address asked
	server sockio.DatagramSocket
	to     sockio.Addr
	watch  *shard.Watch
}

func (m *Manager) newExposedUDP(fd int, to netip.AddrPort) *exposedUDP {
	u := &exposedUDP{at: sockio.LocalAddr(fd), to: to}
	u.datagramPort = m.listenDatagrams(fd, u)
	return u
}

// Received implements sockio.DatagramOwner. All datagrams of a client go where its first
// one went, which is what was decided on.
func (u *exposedUDP) Received(from *sockio.Addr, control []byte, segment int, parts [][]byte) {
	var e *errand
	if r := u.m.cfg.Table.Find(flow.Mapping, unix.IPPROTO_UDP, from.AddrPort(), u.at); r != nil {
		e = r.Owner.(*errand)
	} else if e = u.newErrand(*from); e == nil {
		return
	}
	e.asked = replyFrom(e.asked[:0], control)
	e.record.Out += u.m.pass(&e.server, sockio.Datagram{To: e.to}, segment, parts)
	u.m.cfg.Table.Used(e.record)
}

// pass sends what another socket has received, and returns how many bytes that is. The
// Batch that has received it may not be used meanwhile.
func (m *Manager) pass(s *sockio.DatagramSocket, d sockio.Datagram, segment int, parts [][]byte) (bytes uint64) {
	for _, p := range parts {
		if d.Segment = 0; len(p) > segment {
			d.Segment = uint16(segment)
		}
		d.Payload[0] = p
		m.passing.Queue(s, &d)
		bytes += uint64(len(p))
	}
	m.passing.Flush()
	return bytes
}

// newErrand is a new client's, nil if it may not be or there is no socket for it.
func (u *exposedUDP) newErrand(client sockio.Addr) *errand {
	cfg := &u.m.cfg
	from, to := client.AddrPort(), u.to
	if !to.Addr().IsValid() {
		to = netip.AddrPortFrom(loopbackLike(from.Addr()), to.Port())
	}
	guest := cfg.Guests.Of(from.Addr())
	d := cfg.Policy.Decide(policy.Request{
		Guest: guest, Direction: policy.Out, Origin: flow.FromExposed, Proto: unix.IPPROTO_UDP, Src: from, Dst: to,
	})
	if d.Action != policy.Allow { // where it has to wait, a client asks again
		return nil
	}
	cfg.Table.Admit(flow.Mapping)
	e := &errand{port: u, client: client}
	e.to.Set(d.To)
	fd, err := u.m.connectUDP(d.To)
	if err != nil {
		return nil
	}
	e.server = sockio.DatagramSocket{FD: fd, Owner: e}
	if e.watch, err = cfg.Shard.Watch(fd, unix.EPOLLIN, e); err != nil {
		unix.Close(fd)
		return nil
	}
	e.record = &flow.Flow{
		Owner: e, Guest: guest, Kind: flow.Mapping, Origin: flow.FromExposed, Proto: unix.IPPROTO_UDP,
		Src: from, Remote: u.at, FD: fd, Idle: sessionIdle, State: flow.Mapped,
	}
	cfg.Table.Add(e.record)
	return e
}

// connectUDP makes a socket that nobody but the server can send to.
func (m *Manager) connectUDP(to netip.AddrPort) (int, error) {
	family := familyOf(to.Addr())
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if (err == unix.EMFILE || err == unix.ENFILE) && m.cfg.Table.FreeDescriptor() {
		fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	}
	if err != nil {
		return -1, err
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, sockio.ReceiveBuffer)
	var sa sockio.Addr
	sa.Set(to)
	if errno := sockio.Connect(fd, &sa); errno != 0 {
		unix.Close(fd)
		return -1, errno
	}
	return fd, nil
}

// Ready implements shard.Handler: the server has answered, or nobody listens.
func (e *errand) Ready(uint32) { e.port.m.cfg.Batch.Read(&e.server) }

// Received implements sockio.DatagramOwner.
func (e *errand) Received(_ *sockio.Addr, _ []byte, segment int, parts [][]byte) {
	e.record.In += e.port.m.pass(&e.port.socket, sockio.Datagram{To: e.client, Source: e.asked}, segment, parts)
	e.port.m.cfg.Table.Used(e.record)
}

// SendFailed implements sockio.DatagramOwner.
func (e *errand) SendFailed(*sockio.Datagram, unix.Errno) {}

func (e *errand) end() {
	e.port.m.cfg.Table.Remove(e.record)
	e.End(flow.Evicted)
}

// End implements flow.Owner.
func (e *errand) End(flow.Reason) {
	if e.server.FD >= 0 {
		e.watch.Forget()
		unix.Close(e.server.FD)
		e.server.FD = -1
	}
}
