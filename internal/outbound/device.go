package outbound

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"epiphyte/internal/sockio"
)

// device is an interface that packets of one family leave by.
type device struct {
	name string // empty: the routing table decides

	mu     sync.Mutex
	way    []byte    // see Source.Way; guarded by mu
	looked time.Time // guarded by mu
}

// SetDevice4 has IPv4 packets leave by an interface, which must exist. That takes no
// privilege since Linux 5.7 (SO_BINDTODEVICE, socket(7)).
func (s *Source) SetDevice4(name string) error { return s.by4.set(name) }

// SetDevice6 does so for IPv6.
func (s *Source) SetDevice6(name string) error { return s.by6.set(name) }

func (d *device) set(name string) error {
	if _, err := net.InterfaceByName(name); err != nil {
		return fmt.Errorf("there is no interface %s", name)
	}
	d.name = name
	return nil
}

// SetOwn sets the function that reports whether an address is the host's own, besides those
// of loopback: no device leads to these.
func (s *Source) SetOwn(own func(netip.Addr) bool) { s.own = own }

// by is the device that leads to dst; nil: the routing table decides.
func (s *Source) by(dst netip.Addr) *device {
	if s == nil {
		return nil
	}
	d := &s.by4
	if dst.Is6() {
		d = &s.by6
	}
	if d.name == "" || dst.Zone() != "" || dst.IsLoopback() || s.own != nil && s.own(dst) {
		return nil
	}
	return d
}

// Bind binds a fresh socket that is going to be connected to dst, to the interface and the
// address that are set. ENETUNREACH and EADDRNOTAVAIL: there is no such interface or address
// now.
func (s *Source) Bind(fd int, dst netip.Addr) unix.Errno {
	if d := s.by(dst); d != nil {
		if err := unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, d.name); err != nil {
			return reached(err.(unix.Errno))
		}
	}
	return s.bindAddress(fd, dst, true)
}

// BindAddress is Bind for a socket that may have other destinations of dst's family, too. It
// sets no interface: each datagram has its Way.
func (s *Source) BindAddress(fd int, dst netip.Addr) unix.Errno {
	return s.bindAddress(fd, dst, false)
}

func (s *Source) bindAddress(fd int, dst netip.Addr, connects bool) unix.Errno {
	from, bound, err := s.For(dst)
	if err != nil {
		return unix.EADDRNOTAVAIL
	}
	if !bound {
		return 0
	}
	if connects {
		sockio.DeferPort(fd)
	}
	var sa sockio.Addr
	sa.Set(netip.AddrPortFrom(from, 0))
	return sockio.Bind(fd, &sa)
}

// Way returns a control message that has a datagram to dst leave by its interface, nil if
// the routing table decides. fd may be any socket. The errors are those of Bind.
func (s *Source) Way(fd int, dst netip.Addr) ([]byte, unix.Errno) {
	d := s.by(dst)
	if d == nil {
		return nil, 0
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if time.Since(d.looked) < lookEvery && d.way != nil {
		return d.way, 0
	}
	req, err := unix.NewIfreq(d.name)
	if err != nil {
		return nil, unix.ENETUNREACH
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, req); err != nil {
		return nil, reached(err.(unix.Errno))
	}
	// A new slice: another thread's batch may still hold the last one.
	d.way, d.looked = leaveBy(req.Uint32(), dst.Is6()), time.Now()
	return d.way, 0
}

// leaveBy is a control message that names an interface and no address (ip(7), ipv6(7)).
func leaveBy(index uint32, v6 bool) []byte {
	if v6 {
		info := unix.Inet6Pktinfo{Ifindex: index}
		return sockio.AppendControl(nil, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, (*[unix.SizeofInet6Pktinfo]byte)(unsafe.Pointer(&info))[:])
	}
	info := unix.Inet4Pktinfo{Ifindex: int32(index)}
	return sockio.AppendControl(nil, unix.IPPROTO_IP, unix.IP_PKTINFO, (*[unix.SizeofInet4Pktinfo]byte)(unsafe.Pointer(&info))[:])
}

// reached turns the errno for an interface that has gone into one that a guest understands.
func reached(errno unix.Errno) unix.Errno {
	if errno == unix.ENODEV {
		return unix.ENETUNREACH
	}
	return errno
}
