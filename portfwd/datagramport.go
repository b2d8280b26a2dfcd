package portfwd

import (
	"fmt"

	"golang.org/x/sys/unix"

	"epiphyte/internal/shard"
	"epiphyte/internal/sockio"
)

// datagramPort is the socket that clients of a UDP port send to, in either direction.
type datagramPort struct {
	m      *Manager
	socket sockio.DatagramSocket
	watch  *shard.Watch
}

// listenDatagrams makes owner receive what clients send to fd.
func (m *Manager) listenDatagrams(fd int, owner sockio.DatagramOwner) datagramPort {
	return datagramPort{m: m, socket: sockio.DatagramSocket{FD: fd, Owner: owner, Control: true}}
}

func (p *datagramPort) open() (err error) {
	if p.socket.FD < 0 { // removed before it began
		return nil
	}
	if p.watch, err = p.m.cfg.Shard.Watch(p.socket.FD, unix.EPOLLIN, p); err != nil {
		return fmt.Errorf("watch socket: %w", err)
	}
	return nil
}

// close closes the port. Its clients are the Manager's to end.
func (p *datagramPort) close() {
	if p.socket.FD < 0 {
		return
	}
	if p.watch != nil {
		p.watch.Forget()
	}
	unix.Close(p.socket.FD)
	p.socket.FD = -1
}

func (p *datagramPort) descriptor() int { return p.socket.FD }

// Ready implements shard.Handler. What is left waiting is reported again.
func (p *datagramPort) Ready(uint32) { p.m.cfg.Batch.Read(&p.socket) }

// SendFailed implements sockio.DatagramOwner. As on any network, clients are not told what
// could not be sent to them.
func (p *datagramPort) SendFailed(*sockio.Datagram, unix.Errno) {}
