package portfwd

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"epiphyte/internal/relay"
	"epiphyte/internal/shard"
	"epiphyte/internal/sockio"
)

// Exposed is one TCP port of the host's loopback, and the port of the guest's
// own loopback by which the guest reaches it.
type Exposed struct {
	HostPort  uint16 // 1 to 65535
	GuestPort uint16 // 1 to 65535
}

// ParseExposed reads PORT[:GUESTPORT].
func ParseExposed(s string) (e Exposed, err error) {
	ports, proto, ok := strings.Cut(s, "/")
	if ok && proto != TCP {
		return e, fmt.Errorf("parse exposed port %q: %q is not carried out: only TCP ports are exposed", s, proto)
	}
	host, guest, mapped := strings.Cut(ports, ":")
	if e.HostPort, err = parsePort(host); err == nil {
		if e.GuestPort = e.HostPort; mapped {
			e.GuestPort, err = parsePort(guest)
		}
	}
	if err != nil {
		return Exposed{}, fmt.Errorf("parse exposed port %q: %w (PORT[:GUESTPORT], as in 5432 or 80:8080)", s, err)
	}
	return e, nil
}

func (e Exposed) String() string {
	if e.GuestPort == e.HostPort {
		return strconv.Itoa(int(e.HostPort))
	}
	return fmt.Sprintf("%d:%d", e.HostPort, e.GuestPort)
}

// maxVisits bounds the connections by exposed ports, which hold two descriptors
// each: together a quarter of the limit at most. Further clients wait in the
// listeners' queues.
const maxVisits = 4096

func visitLimit() int {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil || limit.Cur > 8*maxVisits {
		return maxVisits
	}
	return max(1, int(limit.Cur/8))
}

// exposedPort is an exposed port at one of the guest's loopback addresses.
type exposedPort struct {
	listener
	host  uint16
	limit int
}

// Expose carries clients of listening sockets, which were made in the guest's
// network namespace, out to a port of the host's loopback, until Close. It takes
// the sockets over, also when it fails, which it does only after Close.
func (m *Manager) Expose(hostPort uint16, listening ...int) error {
	ports := make([]*exposedPort, len(listening))
	for i, fd := range listening {
		p := &exposedPort{listener: listener{m: m, fd: fd}, host: hostPort, limit: visitLimit()}
		p.to = p
		relay.Prepare(fd)
		ports[i] = p
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		for _, p := range ports {
			p.close()
		}
		return fmt.Errorf("expose port %d: %w", hostPort, net.ErrClosed)
	}
	m.exposed = append(m.exposed, ports...)
	m.shard.Post(shard.TaskFunc(func() {
		for _, p := range ports {
			if err := p.open(); err != nil {
				m.log.Warn("exposed port does not work", "port", hostPort, "error", err)
			}
		}
	}))
	return nil
}

func (p *exposedPort) full() bool { return len(p.m.visits)+p.m.visitors >= p.limit }

// visit is a client of the guest that was accepted and waits for the host.
type visit struct {
	p      *exposedPort
	from   netip.AddrPort // the client
	client accepted
	server connecting
	to     netip.AddrPort
}

// take begins to carry a client out.
func (p *exposedPort) take(fd int, from netip.AddrPort) {
	v := &visit{p: p, from: from}
	v.server = connecting{held: none(), shard: p.m.shard, answered: v.answered}
	v.client.hold(fd)
	p.m.visits[v] = struct{}{}
	v.dial(netip.AddrFrom4([4]byte{127, 0, 0, 1}))
}

// dial connects to the host's loopback. There the kernel often knows the outcome
// at once.
func (v *visit) dial(addr netip.Addr) {
	v.to = netip.AddrPortFrom(addr, v.p.host)
	fd, err := unix.Socket(familyOf(addr), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		if err == unix.EMFILE || err == unix.ENFILE {
			v.p.pause() // the next ones would not fare better
		}
		v.refuse()
		return
	}
	relay.Prepare(fd)
	var sa sockio.Addr
	sa.Set(v.to)
	errno := sockio.Connect(fd, &sa)
	if errno != 0 && errno != unix.EINPROGRESS {
		unix.Close(fd)
		v.answered(errno)
		return
	}
	if !v.server.await(fd, dialTimeout) {
		v.refuse()
	}
}

// answered has the answer of the host's kernel.
func (v *visit) answered(errno unix.Errno) {
	m := v.p.m
	if errno == 0 && sockio.ConnectedToItself(v.server.FD, v.to) {
		errno = unix.ECONNREFUSED
	}
	switch {
	case errno == 0:
		delete(m.visits, v)
		m.visitors++
		m.relay.Join(v.server.release(), v.client.release(), v.from, func() { m.visitors-- })
	case errno == unix.ECONNREFUSED && v.to.Addr().Is4() && m.plan.IPv6():
		v.server.close()
		v.dial(netip.IPv6Loopback())
	default:
		v.refuse()
	}
}

// refuse resets the client, whatever the reason: of its own kernel's sockets it
// hears nothing else.
func (v *visit) refuse() {
	delete(v.p.m.visits, v)
	v.server.close()
	v.client.refuse()
}

func (v *visit) closeSockets() {
	v.server.close()
	v.client.close()
}
