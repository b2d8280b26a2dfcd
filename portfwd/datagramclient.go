package portfwd

import (
	"golang.org/x/sys/unix"

	"epiphyte/internal/flow"
	"epiphyte/internal/shard"
	"epiphyte/internal/sockio"
)

// datagramClient is a client of a UDP port that has a socket of its own on the other side:
// on the host for an exposed port, in the guest for a published one whose server sees the
// client as the guest itself.
type datagramClient struct {
	port   *datagramPort
	record *flow.Flow
	client sockio.Addr
	asked  []byte // control message that makes replies leave from the address asked
	server sockio.DatagramSocket
	to     sockio.Addr
	watch  *shard.Watch
	wait   *wait // nil: it has its socket
	// Counters of the record: towards the server, and back.
	sent, answered *uint64
}

// start takes over a socket and connects it to the server.
func (e *datagramClient) start(fd int) error {
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, sockio.ReceiveBuffer)
	if errno := sockio.Connect(fd, &e.to); errno != 0 {
		unix.Close(fd)
		return errno
	}
	var err error
	if e.watch, err = e.port.m.cfg.Shard.Watch(fd, unix.EPOLLIN, e); err != nil {
		unix.Close(fd)
		return err
	}
	e.server = sockio.DatagramSocket{FD: fd, Owner: e}
	e.record.FD = fd
	return nil
}

// send passes datagrams of the client on.
func (e *datagramClient) send(segment int, parts [][]byte) {
	m := e.port.m
	*e.sent += m.pass(&e.server, sockio.Datagram{To: e.to}, segment, parts)
	m.cfg.Table.Used(e.record)
}

// pass sends what another socket has received, and returns how many bytes that is. The
// Batch that received it must not be used meanwhile.
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

// Ready implements shard.Handler: the server has answered, or nobody listens.
func (e *datagramClient) Ready(uint32) { e.port.m.cfg.Batch.Read(&e.server) }

// Received implements sockio.DatagramOwner.
func (e *datagramClient) Received(_ *sockio.Addr, _ []byte, segment int, parts [][]byte) {
	*e.answered += e.port.m.pass(&e.port.socket, sockio.Datagram{To: e.client, Source: e.asked}, segment, parts)
	e.port.m.cfg.Table.Used(e.record)
}

// SendFailed implements sockio.DatagramOwner.
func (e *datagramClient) SendFailed(*sockio.Datagram, unix.Errno) {}

func (e *datagramClient) end() {
	e.port.m.cfg.Table.Remove(e.record)
	e.End(flow.Evicted)
}

// End implements flow.Owner.
func (e *datagramClient) End(flow.Reason) {
	if e.wait != nil {
		e.wait.end()
	}
	if e.server.FD >= 0 {
		e.watch.Forget()
		unix.Close(e.server.FD)
		e.server.FD = -1
	}
}
