package test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// tunnelEnd is one end of a VXLAN between two guests, on whose helpers' published
// ports the other end's datagrams arrive.
type tunnelEnd struct {
	*world
	addr4, addr6 netip.Addr // inside the tunnel
}

// inside is the end's address for a network, such as "udp4".
func (e *tunnelEnd) inside(network string) netip.Addr {
	if strings.HasSuffix(network, "4") {
		return e.addr4
	}
	return e.addr6
}

const (
	vxlanName = "vx0"
	vxlanID   = 45
)

// newTunnel joins two guests on one host by VXLAN, the datagrams of which are of the
// family f. Each end listens on a port of its own and sends to the one that is
// published for the other.
func newTunnel(t *testing.T, f family, mtu int, flags ...string) (a, b tunnelEnd) {
	t.Helper()
	const portA, portB = "18945", "18946"
	end := func(local, remote, n string) tunnelEnd {
		rule := "--publish=" + net.JoinHostPort(f.loop, remote) + ":" + local + "/udp"
		e := tunnelEnd{serve(t, append([]string{rule}, flags...)...), netip.MustParseAddr("192.168.45." + n), netip.MustParseAddr("fd45::" + n)}
		e.addVXLAN(t, f, mtu, local)
		return e
	}
	// A listens on portA and sends there; on the host that port is B's.
	return end(portA, portB, "1"), end(portB, portA, "2")
}

func (e *tunnelEnd) addVXLAN(t *testing.T, f family, mtu int, port string) {
	t.Helper()
	tap := e.link(t).Attrs().Index
	link := &netlink.Vxlan{
		LinkAttrs: netlink.LinkAttrs{Name: vxlanName, MTU: mtu - 70}, // Ethernet, VXLAN, UDP, IPv6
		VxlanId:   vxlanID, Group: net.ParseIP(f.gateway), VtepDevIndex: tap, Learning: true,
	} // whose datagrams have a checksum over IPv6, and none over IPv4
	if _, err := fmt.Sscan(port, &link.Port); err != nil {
		t.Fatal(err)
	}
	err := e.Do(func() error {
		if err := netlink.LinkAdd(link); err != nil {
			return err
		}
		for addr, bits := range map[netip.Addr]int{e.addr4: 24, e.addr6: 64} {
			prefix := &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(bits, addr.BitLen())}
			if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: prefix, Flags: unix.IFA_F_NODAD}); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(link)
	})
	if errors.Is(err, unix.EOPNOTSUPP) {
		t.Skip("this kernel has no VXLAN")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Do(func() error { return netlink.LinkDel(link) }); err != nil {
			t.Error(err)
		}
	})
}

// TestB45_VXLANBetweenGuests: TCP and UDP inside a tunnel between two guests, as an
// overlay network of containers makes it.
func TestB45_VXLANBetweenGuests(t *testing.T) {
	t.Parallel()
	ours(t, "--publish")
	for _, mtu := range []int{1500, 65520} {
		for _, c := range []cell{{"offload", nil}, {"noOffload", []string{"--no-offload"}}, {"queues", []string{"--queues=3"}}} {
			t.Run(fmt.Sprintf("MTU%d/%s", mtu, c.name), func(t *testing.T) {
				eachFamily(t, func(t *testing.T, f family) {
					a, b := newTunnel(t, f, mtu, append([]string{fmt.Sprintf("--mtu=%d", mtu)}, c.flags...)...)
					for _, inner := range families() {
						tunnelledTCP(t, a, b, "tcp"+inner.v)
						tunnelledUDP(t, a, b, "udp"+inner.v)
					}
				})
			})
		}
	}
}

// tunnelledTCP echoes a few megabytes.
func tunnelledTCP(t *testing.T, a, b tunnelEnd, network string) {
	t.Helper()
	server := serveTCP(t, b.NetNS, network, net.JoinHostPort(b.inside(network).String(), "0"), echoTCP)
	c := a.dial(t, network, server.String())
	if err := c.SetDeadline(time.Now().Add(deadline)); err != nil {
		t.Fatal(err)
	}
	data := random(45, 2<<20)
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(data)
		sent <- errors.Join(err, c.(*net.TCPConn).CloseWrite())
	}()
	got, err := io.ReadAll(c)
	if err := errors.Join(err, <-sent); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%s inside: %d bytes of %d came back: %v", network, len(got), len(data), err)
	}
}

// tunnelledUDP sends datagrams both ways, one in fragments and a run of several among
// them.
func tunnelledUDP(t *testing.T, a, b tunnelEnd, network string) {
	t.Helper()
	s := must(b.ListenPacket(network, net.JoinHostPort(b.inside(network).String(), "0")))(t).(*net.UDPConn)
	defer s.Close()
	c := must(a.ListenPacket(network, ":0"))(t).(*net.UDPConn)
	defer c.Close()
	to := s.LocalAddr().(*net.UDPAddr).AddrPort()
	from := netip.AddrPortFrom(a.inside(network), uint16(c.LocalAddr().(*net.UDPAddr).Port))
	// One by one: the kernel sends fragments by another port of the tunnel, and so
	// perhaps by another queue, than whole datagrams.
	for _, m := range []message{{random(1, 1), 0}, {random(2, 1000), 0}, {random(3, 4800), 1200}, {random(4, 3000), 0}} {
		sendAll(t, c, []message{m}, to)
		wantDatagrams(t, network+" inside, out", s, datagrams([]message{m}))
		sendAll(t, s, []message{m}, from)
		wantDatagrams(t, network+" inside, back", c, datagrams([]message{m}))
	}
}

// TestB45_IPInUDP: IP directly in UDP (fou), by a packet socket that leaves the inner
// checksum to the network card, since few kernels have the tunnel itself.
func TestB45_IPInUDP(t *testing.T) {
	w := serve(t)
	eachFamily(t, func(t *testing.T, f family) {
		s := must(env.Net.Net.ListenPacket("udp"+f.v, net.JoinHostPort(f.server, "0")))(t).(*net.UDPConn)
		defer s.Close()
		from, to := w.waitAddress(t, f.af), s.LocalAddr().(*net.UDPAddr).AddrPort()
		want := synPacket(from, to.Addr(), 1000, 2000)
		inner := bytes.Clone(want)
		ip := len(inner) - 20
		sum := withChecksum(from, to.Addr(), unix.IPPROTO_TCP, make([]byte, 20), 16)
		binary.BigEndian.PutUint16(inner[ip+16:], ^binary.BigEndian.Uint16(sum[16:])) // the pseudo header's alone
		packet := udpPacket(from, to.Addr(), 45000, int(to.Port()), string(want))
		outer := len(packet) - len(want)
		copy(packet[outer:], inner)
		w.offloading(t).sendVNet(t, packet, outer+ip, 16)
		if err := s.SetReadDeadline(time.Now().Add(deadline)); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 2000)
		n, err := s.Read(got)
		if err != nil || !bytes.Equal(got[:n], want) {
			t.Errorf("got %x, %v, want %x", got[:n], err, want)
		}
	})
}

// offloading is a wire whose frames have a virtio-net header (packet(7),
// PACKET_VNET_HDR).
func (w *world) offloading(t testing.TB) *wire {
	t.Helper()
	wire := w.wire(t)
	const packetVNetHdr = 15 // PACKET_VNET_HDR of linux/if_packet.h
	if err := unix.SetsockoptInt(wire.fd, unix.SOL_PACKET, packetVNetHdr, 1); err != nil {
		t.Fatal(err)
	}
	return wire
}

// sendVNet puts one IP packet on the wire whose checksum of all that begins at start
// is left to the network card.
func (w *wire) sendVNet(t testing.TB, packet []byte, start, offset int) {
	t.Helper()
	hdr := make([]byte, 10) // struct virtio_net_hdr of linux/virtio_net.h
	hdr[0] = 1              // VIRTIO_NET_HDR_F_NEEDS_CSUM
	binary.NativeEndian.PutUint16(hdr[6:], uint16(14+start))
	binary.NativeEndian.PutUint16(hdr[8:], uint16(offset))
	frame := append(append(hdr, ethernet(w.gateway, packet)...), packet...)
	if err := harness.Eventually(deadline, func() error { return unix.Send(w.fd, frame, 0) }); err != nil {
		t.Fatal(err)
	}
}
