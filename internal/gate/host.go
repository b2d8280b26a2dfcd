package gate

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/egress"
	"epiphyte/internal/sockio"
)

const (
	// hostFor is how long an answer about an address is believed.
	hostFor = time.Second
	// hostMost bounds the addresses remembered.
	hostMost = 1024
)

// hostAddrs tells the host's own addresses from others.
type hostAddrs struct {
	ask   func(netip.Addr) bool
	known map[netip.Addr]hostAddr
}

type hostAddr struct {
	is    bool
	until time.Duration
}

func (h *hostAddrs) has(a netip.Addr, now time.Duration) bool {
	k, ok := h.known[a]
	if ok && now < k.until {
		return k.is
	}
	if h.known == nil || len(h.known) >= hostMost {
		h.known = make(map[netip.Addr]hostAddr)
	}
	k = hostAddr{h.ask(a), now + hostFor}
	if within := egress.Inside(a); within != a {
		k.is = k.is || h.ask(within) // a translator sends it back to us
	}
	h.known[a] = k
	return k.is
}

// isHost asks the kernel by which address it would reach another: the host's own are
// reached by themselves. Nothing is sent.
func isHost(a netip.Addr) bool {
	family := unix.AF_INET
	if a.Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return true // better refused than wrongly allowed
	}
	defer unix.Close(fd)
	const discard = 9
	var sa sockio.Addr
	sa.Set(netip.AddrPortFrom(a, discard))
	if errno := sockio.Connect(fd, &sa); errno != 0 {
		return false // nothing will be sent there either
	}
	return sockio.LocalAddr(fd).Addr() == a
}
