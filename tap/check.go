package tap

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"epiphyte/internal/sockio"
)

// check reports an error unless fd is a fresh socket of the stock's kind, in the guest's
// namespace.
func (a *Agent) check(fd int, s *stock) error {
	kind := SocketKind{Family: s.family, Type: unix.SOCK_STREAM}
	if s.flags&orderDatagrams != 0 {
		kind.Type = unix.SOCK_DGRAM
	}
	if err := checkFresh(fd, kind); err != nil {
		return err
	}
	// Linux 5.14; before, the agent is taken at its word.
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err == nil {
		if a.cookie == 0 {
			a.cookie = cookie
		}
		if cookie != a.cookie {
			return errors.New("a socket is of another network namespace")
		}
	}
	return nil
}

// checkTCP reports an error unless fd is a non-blocking TCP socket in that state
// (unix.BPF_TCP_*) and at that address.
func checkTCP(fd int, state uint8, local netip.AddrPort) error {
	if got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL); err != nil || got != unix.IPPROTO_TCP {
		return fmt.Errorf("a socket has the protocol %d (%v), want TCP", got, err)
	}
	// A raw socket of this protocol has no such option.
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return fmt.Errorf("a socket is not TCP: %w", err)
	}
	if info.State != state {
		return fmt.Errorf("a socket is in the TCP state %d, want %d", info.State, state)
	}
	return checkPlace(fd, local)
}

// checkUDP reports an error unless fd is a non-blocking UDP socket at that address.
func checkUDP(fd int, local netip.AddrPort) error {
	if got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL); err != nil || got != unix.IPPROTO_UDP {
		return fmt.Errorf("a socket has the protocol %d (%v), want UDP", got, err)
	}
	if got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil || got != unix.SOCK_DGRAM {
		return fmt.Errorf("a socket has the type %d (%v), want datagrams", got, err)
	}
	return checkPlace(fd, local)
}

func checkPlace(fd int, local netip.AddrPort) error {
	if got := sockio.LocalAddr(fd); got != local {
		return fmt.Errorf("a socket is at %v, want %v", got, local)
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_NONBLOCK == 0 {
		return errors.New("a socket would block")
	}
	return nil
}
