package forwarder

import (
	"container/list"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/relay"
	"epiphyte/internal/shard"
	"epiphyte/stack"
)

const (
	// mappingIdle is how long an unused mapping lives. RFC 4787 REQ-5 asks for
	// two minutes at least and recommends five; libslirp's callers are used to
	// four.
	mappingIdle = 240 * time.Second
	// mappingIdleDNS applies while a mapping has talked to port 53 alone: one
	// query, one answer, and stub resolvers take a new port for each.
	mappingIdleDNS = 10 * time.Second
	// mappingIdleEcho: ping's own patience is 10 s, its interval less.
	mappingIdleEcho = 30 * time.Second
)

// mappingKey identifies a mapping: protocol, and guest address with port. For
// echo the identifier takes the port's place.
type mappingKey struct {
	proto uint8
	guest netip.AddrPort
}

// mapping is one unconnected host socket that stands for a guest address and
// port (RFC 4787: endpoint-independent).
type mapping struct {
	f        *Forwarder
	key      mappingKey
	fd       int
	watch    *shard.Watch
	timer    shard.Timer
	place    *list.Element
	lastUsed time.Duration
	idle     time.Duration
	counters relay.Counters
	pending  []outDatagram // to be sent at the end of the batch
	single   bool          // the kernel does not segment on its way
	joined   bool          // the kernel may join datagrams
}

// mappingTable holds the mappings, least recently used first.
type mappingTable struct {
	byKey  map[mappingKey]*mapping
	recent *list.List
}

func (t *mappingTable) init() {
	t.byKey = make(map[mappingKey]*mapping)
	t.recent = list.New()
}

// evict closes the least recently used mapping, if there is one.
func (t *mappingTable) evict() bool {
	e := t.recent.Front()
	if e == nil {
		return false
	}
	e.Value.(*mapping).close()
	return true
}

// mapping returns the mapping for key, opening its socket if there is none.
func (f *Forwarder) mapping(key mappingKey, idle time.Duration) (*mapping, unix.Errno) {
	m := f.mappings.byKey[key]
	if m == nil {
		var errno unix.Errno
		if m, errno = f.openMapping(key, idle); errno != 0 {
			return nil, errno
		}
	}
	m.idle = max(m.idle, idle)
	m.used()
	return m, 0
}

// used notes traffic, of either direction.
func (m *mapping) used() {
	m.lastUsed = m.f.shard.Now()
	m.f.mappings.recent.MoveToBack(m.place)
}

func (f *Forwarder) openMapping(key mappingKey, idle time.Duration) (*mapping, unix.Errno) {
	if len(f.mappings.byKey) >= f.limits.Mappings {
		f.mappings.evict()
	}
	proto := 0
	if key.proto != stack.ProtoUDP {
		proto = int(key.proto)
	}
	fd, errno := f.socket(key.guest.Addr(), unix.SOCK_DGRAM, proto)
	if errno != 0 {
		return nil, errno
	}
	setMappingOptions(fd, key)
	m := &mapping{f: f, key: key, fd: fd, idle: idle, counters: relay.Counters{Begun: f.shard.Now()}}
	w, err := f.shard.Watch(fd, unix.EPOLLIN|unix.EPOLLET, m)
	if err != nil {
		unix.Close(fd)
		return nil, unix.ENOBUFS
	}
	m.watch = w
	m.place = f.mappings.recent.PushBack(m)
	f.mappings.byKey[key] = m
	f.shard.Arm(&m.timer, idle, m)
	return m, 0
}

// mappingBuffer is asked for as receive buffer; the kernel grants up to
// net.core.rmem_max. A burst of 200 full-sized datagrams weighs 460 kB there.
const mappingBuffer = 1 << 20

func setMappingOptions(fd int, key mappingKey) {
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, mappingBuffer)
	level, recverr := unix.IPPROTO_IP, unix.IP_RECVERR
	recvttl := unix.IP_RECVTTL
	if key.guest.Addr().Is6() {
		level, recverr, recvttl = unix.IPPROTO_IPV6, unix.IPV6_RECVERR, unix.IPV6_RECVHOPLIMIT
		unix.SetsockoptInt(fd, level, unix.IPV6_V6ONLY, 1)
	}
	unix.SetsockoptInt(fd, level, recverr, 1)
	if key.proto != stack.ProtoUDP {
		unix.SetsockoptInt(fd, level, recvttl, 1)
	}
}

// Run implements shard.Task for the timer: it expires the mapping, or waits
// for the rest of its time if it was used meanwhile.
func (m *mapping) Run() {
	if left := m.lastUsed + m.idle - m.f.shard.Now(); left > 0 {
		m.f.shard.Arm(&m.timer, left, m)
		return
	}
	m.close()
}

// Ready implements shard.Handler.
func (m *mapping) Ready(events uint32) {
	if events&unix.EPOLLERR != 0 {
		m.readErrors()
	}
	if events&unix.EPOLLIN != 0 && m.fd >= 0 {
		m.receive()
	}
}

func (m *mapping) close() {
	if m.fd < 0 {
		return
	}
	m.f.shard.Disarm(&m.timer)
	m.f.mappings.recent.Remove(m.place)
	delete(m.f.mappings.byKey, m.key)
	m.closeSocket()
}

func (m *mapping) closeSocket() {
	if m.fd >= 0 {
		m.watch.Forget()
		unix.Close(m.fd)
		m.fd = -1
	}
}
