package test

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// wire is a packet socket on the guest's TAP: it sends what no kernel would
// route and sees what no socket would receive.
type wire struct {
	fd      int
	gateway [6]byte
}

func (w *world) wire(t testing.TB) *wire {
	t.Helper()
	// 52:55 and the gateway's IPv4 address, as in the contract.
	return openWire(t, w.Guest, tapName, [6]byte{0x52, 0x55, 10, 0, 2, 2})
}

func openWire(t testing.TB, g *harness.Guest, link string, gateway [6]byte) *wire {
	t.Helper()
	index, _, err := g.Hardware(link)
	if err != nil {
		t.Fatal(err)
	}
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8
	fd, err := g.Socket(unix.AF_PACKET, unix.SOCK_RAW, all)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index}); err != nil {
		t.Fatal(err)
	}
	return &wire{fd, gateway}
}

// send puts one IP packet on the wire, to the gateway's Ethernet address.
func (w *wire) send(t testing.TB, packet []byte) {
	t.Helper()
	frame := append(ethernet(w.gateway, packet), packet...)
	if err := harness.Eventually(deadline, func() error { return unix.Send(w.fd, frame, 0) }); err != nil {
		t.Fatal(err)
	}
}

// ethernet is the header of an IP packet's frame.
func ethernet(to [6]byte, packet []byte) []byte {
	h := append(append([]byte{}, to[:]...), 2, 0, 0, 0, 0, 1)
	return binary.BigEndian.AppendUint16(h, map[byte]uint16{4: unix.ETH_P_IP, 6: unix.ETH_P_IPV6}[packet[0]>>4])
}

// senders drains the wire and gives the IP source of every frame that came in.
func (w *wire) senders() map[netip.Addr]bool {
	seen := map[netip.Addr]bool{}
	b := make([]byte, 1<<16)
	for {
		n, from, err := unix.Recvfrom(w.fd, b, unix.MSG_DONTWAIT)
		if err != nil {
			return seen
		}
		if from.(*unix.SockaddrLinklayer).Pkttype == unix.PACKET_OUTGOING || n < 54 {
			continue
		}
		switch binary.BigEndian.Uint16(b[12:]) {
		case unix.ETH_P_IP:
			seen[netip.AddrFrom4([4]byte(b[26:30]))] = true
		case unix.ETH_P_IPV6:
			seen[netip.AddrFrom16([16]byte(b[22:38]))] = true
		}
	}
}

// ipPacket wraps a transport payload; both addresses are of one family.
func ipPacket(src, dst netip.Addr, protocol byte, payload []byte) []byte {
	if src.Is4() {
		h := make([]byte, 20)
		h[0], h[8], h[9] = 0x45, 64, protocol
		binary.BigEndian.PutUint16(h[2:], uint16(20+len(payload)))
		copy(h[12:], src.AsSlice())
		copy(h[16:], dst.AsSlice())
		binary.BigEndian.PutUint16(h[10:], checksum(h))
		return append(h, payload...)
	}
	h := make([]byte, 40)
	h[0], h[6], h[7] = 0x60, protocol, 64
	binary.BigEndian.PutUint16(h[4:], uint16(len(payload)))
	copy(h[8:], src.AsSlice())
	copy(h[24:], dst.AsSlice())
	return append(h, payload...)
}

// withChecksum fills the checksum at offset at over the pseudo-header.
func withChecksum(src, dst netip.Addr, protocol byte, b []byte, at int) []byte {
	pseudo := append(src.AsSlice(), dst.AsSlice()...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(b)))
	pseudo = append(pseudo, 0, 0, 0, protocol)
	binary.BigEndian.PutUint16(b[at:], checksum(append(pseudo, b...)))
	return b
}

func udpPacket(src, dst netip.Addr, sport, dport int, payload string) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(sport))
	b = binary.BigEndian.AppendUint16(b, uint16(dport))
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
	b = append(append(b, 0, 0), payload...)
	return ipPacket(src, dst, unix.IPPROTO_UDP, withChecksum(src, dst, unix.IPPROTO_UDP, b, 6))
}

func synPacket(src, dst netip.Addr, sport, dport int) []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, uint16(sport))
	binary.BigEndian.PutUint16(b[2:], uint16(dport))
	binary.BigEndian.PutUint32(b[4:], 1000)
	b[12], b[13] = 5<<4, 0x02
	binary.BigEndian.PutUint16(b[14:], 65535)
	return ipPacket(src, dst, unix.IPPROTO_TCP, withChecksum(src, dst, unix.IPPROTO_TCP, b, 16))
}

func echoPacketTo(src, dst netip.Addr, id uint16) []byte {
	if src.Is4() {
		return ipPacket(src, dst, unix.IPPROTO_ICMP, echoRequest(families()[0], id, 1, nil))
	}
	b := echoRequest(families()[1], id, 1, nil)
	return ipPacket(src, dst, unix.IPPROTO_ICMPV6, withChecksum(src, dst, unix.IPPROTO_ICMPV6, b, 2))
}
