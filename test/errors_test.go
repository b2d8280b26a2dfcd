package test

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// Addresses behind the router that nobody has. A naysayer answers for them.
const (
	refused4 = "203.0.113.20"
	refused6 = "2001:db8:3::20"
)

// naysayer answers every packet to one address with one ICMP error, from the router.
type naysayer struct {
	say atomic.Uint32 // type and code of the error
}

func newNaysayer(t *testing.T, f family, addr string) *naysayer {
	t.Helper()
	network, any, ethertype := icmpProtocol, "0.0.0.0", uint16(unix.ETH_P_IP)
	if f.af == unix.AF_INET6 {
		network, any, ethertype = icmp6Protocol, "::", unix.ETH_P_IPV6
	}
	n := new(naysayer)
	var tap int
	if err := env.Net.Router.Do(func() (err error) {
		ip := netip.MustParseAddr(addr)
		silence := &netlink.Route{Dst: &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(ip.BitLen(), ip.BitLen())}, Type: unix.RTN_BLACKHOLE}
		if err := netlink.RouteAdd(silence); err != nil {
			return fmt.Errorf("add route: %w", err)
		}
		t.Cleanup(func() { env.Net.Router.Do(func() error { return netlink.RouteDel(silence) }) })
		link, err := netlink.LinkByName("down0")
		if err != nil {
			return err
		}
		protocol := int(ethertype<<8 | ethertype>>8)
		if tap, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, protocol); err != nil {
			return err
		}
		return unix.Bind(tap, &unix.SockaddrLinklayer{Protocol: uint16(protocol), Ifindex: link.Attrs().Index})
	}); err != nil {
		t.Fatal(err)
	}
	// The loop looks for its end now and then.
	if err := unix.SetsockoptTimeval(tap, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}); err != nil {
		t.Fatal(err)
	}
	out := must(env.Net.Router.ListenPacket(network, any))(t)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		n.answer(tap, out, f, netip.MustParseAddr(addr), stop)
	}()
	t.Cleanup(func() {
		close(stop)
		<-stopped
		unix.Close(tap)
		out.Close()
	})
	return n
}

// answer answers packets until stop.
func (n *naysayer) answer(tap int, out net.PacketConn, f family, addr netip.Addr, stop <-chan struct{}) {
	b := make([]byte, 2048)
	for {
		select {
		case <-stop:
			return
		default:
		}
		size, _, err := unix.Recvfrom(tap, b, 0)
		if err != nil {
			continue
		}
		p := b[:size]
		src, dst := 12, 16
		if f.af == unix.AF_INET6 {
			src, dst = 8, 24
		}
		length := dst - src
		if len(p) < dst+length {
			continue
		}
		if to, _ := netip.AddrFromSlice(p[dst : dst+length]); to != addr {
			continue
		}
		say := n.say.Load()
		m := append([]byte{byte(say >> 8), byte(say), 0, 0, 0, 0, 0, 0}, p[:min(len(p), 128)]...)
		if say == icmpUnreachable<<8|4 && f.af == unix.AF_INET {
			binary.BigEndian.PutUint16(m[6:], 1400) // the path MTU
		}
		if f.af == unix.AF_INET {
			binary.BigEndian.PutUint16(m[2:], checksum(m))
		}
		out.WriteTo(m, &net.IPAddr{IP: append(net.IP(nil), p[src:src+length]...)})
	}
}

// asked is how a program asks, and so how its kernel tells it of errors.
type asked struct {
	name           string
	typ            int
	icmp, queueing bool // a ping socket; IP_RECVERR
}

// heard is what a socket in a namespace hears of a packet to an address: errno, and
// with IP_RECVERR the type and code that the kernel gives as its source.
func heard(ns *harness.NetNS, f family, addr string, how asked) string {
	proto, level, recverr := 0, unix.IPPROTO_IP, unix.IP_RECVERR
	if how.icmp {
		proto = unix.IPPROTO_ICMP
	}
	if f.af == unix.AF_INET6 {
		level, recverr = unix.IPPROTO_IPV6, unix.IPV6_RECVERR
		if how.icmp {
			proto = unix.IPPROTO_ICMPV6
		}
	}
	fd, err := ns.Socket(f.af, how.typ, proto)
	if err != nil {
		return err.Error()
	}
	defer unix.Close(fd)
	if how.queueing {
		if err := unix.SetsockoptInt(fd, level, recverr, 1); err != nil {
			return err.Error()
		}
	}
	err = unix.Connect(fd, sockaddr(addr, 7))
	if err != nil && err != unix.EINPROGRESS {
		return fmt.Sprint("connect: ", err)
	}
	if how.typ == unix.SOCK_DGRAM {
		if _, err := unix.Write(fd, echoRequest(f, 1, 1, []byte("hello"))); err != nil {
			return fmt.Sprint("write: ", err)
		}
	}
	events := int16(unix.POLLIN)
	if how.typ == unix.SOCK_STREAM {
		events = unix.POLLOUT
	}
	poll := []unix.PollFd{{Fd: int32(fd), Events: events}}
	if n, err := unix.Poll(poll, 500); n == 0 || err != nil {
		return "nothing"
	}
	if how.queueing {
		return queuedError(fd)
	}
	errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if errno == 0 && err == nil && how.typ == unix.SOCK_STREAM {
		// See connect.Attempt: the wake-up may come before the error.
		if _, err := unix.Getpeername(fd); err == nil {
			return "connected"
		}
		errno, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	}
	return fmt.Sprint(unix.Errno(errno), err)
}

// compareHeard asks on the host and in the guest at once.
func compareHeard(guest *harness.NetNS, f family, addr string, how asked) (diff string) {
	onHost, inGuest := make(chan string, 1), make(chan string, 1)
	go func() { onHost <- heard(env.Host, f, addr, how) }()
	go func() { inGuest <- heard(guest, f, addr, how) }()
	return cmp.Diff(<-onHost, <-inGuest)
}

// queuedError describes the first error on the socket's queue.
func queuedError(fd int) string {
	oob := make([]byte, 512)
	_, n, _, _, err := unix.Recvmsg(fd, make([]byte, 64), oob, unix.MSG_ERRQUEUE)
	if err != nil {
		return fmt.Sprint("error queue: ", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) == 0 || len(messages[0].Data) < 16 {
		return fmt.Sprint("error queue: ", messages, err)
	}
	e := messages[0].Data
	return fmt.Sprintf("%v, origin %d, type %d, code %d, info %d",
		unix.Errno(binary.NativeEndian.Uint32(e)), e[4], e[5], e[6], binary.NativeEndian.Uint32(e[8:]))
}

// TestB15_EveryErrorIsTheHosts: whatever a router says, a program of the guest has
// the errno that a program of the host has; by UDP and ping that is asked for them,
// the type and code as well.
func TestB15_EveryErrorIsTheHosts(t *testing.T) {
	t.Parallel()
	ours(t, "errors of the host's kind")
	w := serve(t)
	ways := []asked{
		{name: "TCP", typ: unix.SOCK_STREAM},
		{name: "UDP", typ: unix.SOCK_DGRAM},
		{name: "UDP with IP_RECVERR", typ: unix.SOCK_DGRAM, queueing: true},
		{name: "ping", typ: unix.SOCK_DGRAM, icmp: true},
		{name: "ping with IP_RECVERR", typ: unix.SOCK_DGRAM, icmp: true, queueing: true},
	}
	eachFamily(t, func(t *testing.T, f family) {
		addr, codes := refused4, map[byte]byte{icmpUnreachable: 16, icmpTimeExceeded: 2, 12: 3}
		if f.af == unix.AF_INET6 {
			addr, codes = refused6, map[byte]byte{icmp6Unreachable: 9, icmp6TimeExceeded: 2, 4: 4}
		}
		n := newNaysayer(t, f, addr)
		for typ, count := range codes {
			for code := range count {
				n.say.Store(uint32(typ)<<8 | uint32(code))
				for _, way := range ways {
					diff := compareHeard(w.NetNS, f, addr, way)
					// Linux does not set the error of a TCP socket that is locked when the
					// ICMP error comes, be it in a connect(2) about to return; the next SYN,
					// a second later, hears it. That is as likely on either side. And a
					// busy machine may not let one of the two hear it within its patience.
					for again := 0; diff != "" && again < 3; again++ {
						diff = compareHeard(w.NetNS, f, addr, way)
					}
					if diff != "" {
						t.Errorf("type %d code %d, %s: the host and the guest hear different things:\n%s", typ, code, way.name, diff)
					}
				}
			}
		}
	})
}
