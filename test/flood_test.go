package test

import (
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// TestB42_Floods: thousands of frames of each kind, as fast as the guest's kernel takes
// them, leave the helper within its bounds, and a connection made right afterwards works.
func TestB42_Floods(t *testing.T) {
	ours(t, "bounds")
	const frames = 20_000
	w := serve(t)
	wire := w.wire(t)
	rng := rand.New(rand.NewPCG(42, 42))
	silent := netip.MustParseAddr(families()[0].silent)
	// A guest may use any address of its subnet, and any port.
	anybody := func() netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 2, byte(16 + rng.IntN(200))}) }
	port := func() int { return 1 + rng.IntN(65535) }
	ip := func(packet []byte) []byte { return append(ethernet(wire.gateway, packet), packet...) }
	anything := func(ethertype uint16, n int) []byte {
		b := make([]byte, 14+n)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		copy(b, wire.gateway[:])
		binary.BigEndian.PutUint16(b[12:], ethertype)
		return b
	}
	for name, frame := range map[string]func() []byte{
		"SYN":  func() []byte { return ip(synPacket(anybody(), silent, port(), port())) },
		"UDP":  func() []byte { return ip(udpPacket(anybody(), silent, port(), port(), "flood")) },
		"ping": func() []byte { return ip(echoPacketTo(anybody(), silent, uint16(port()))) },
		"fragment": func() []byte {
			return ip(fragment(udpPacket(anybody(), silent, port(), port(), string(make([]byte, 992))), uint16(port())))
		},
		"cut short": func() []byte {
			packet := synPacket(anybody(), silent, port(), port())
			return ip(packet[:1+rng.IntN(len(packet)-1)])
		},
		"ARP":           func() []byte { return anything(unix.ETH_P_ARP, 28) },
		"IPv4":          func() []byte { return anything(unix.ETH_P_IP, rng.IntN(100)) },
		"IPv6":          func() []byte { return anything(unix.ETH_P_IPV6, rng.IntN(100)) },
		"any ethertype": func() []byte { return anything(uint16(rng.Uint32()), rng.IntN(1500)) },
		"spoofed origin": func() []byte {
			return ip(synPacket(netip.AddrFrom4([4]byte{byte(port()), 1, 2, 3}), silent, port(), port()))
		},
	} {
		t.Run(name, func(t *testing.T) {
			for range frames {
				if err := unix.Send(wire.fd, frame(), 0); err != nil && err != unix.ENOBUFS && err != unix.EAGAIN {
					t.Fatal(err)
				}
			}
			for _, f := range families() {
				addr := serveTCP(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.server, "0"), echoTCP)
				if err := w.Do(func() error { return oneByte(f, hostPort(f.server, addr)) }); err != nil {
					t.Errorf("%s afterwards: %v", f.name, err)
				}
			}
			// Attempts and mappings have a bound each (docs/manual.md).
			now := w.usage(t)
			t.Logf("the helper holds %+v", now)
			if now.RSS > programMemory || now.FDs > 2*4096+100 {
				t.Error("that is more than its bounds")
			}
		})
	}
	if said := w.helper.Stderr.String(); len(said) > 4096 {
		t.Errorf("the log has %d bytes: %.1000s", len(said), said)
	}
}

// fragment makes an IPv4 packet the first part of one whose rest never comes.
func fragment(packet []byte, id uint16) []byte {
	const moreFragments = 0x2000
	binary.BigEndian.PutUint16(packet[4:], id)
	binary.BigEndian.PutUint16(packet[6:], moreFragments)
	binary.BigEndian.PutUint16(packet[10:], 0)
	binary.BigEndian.PutUint16(packet[10:], checksum(packet[:20]))
	return packet
}
