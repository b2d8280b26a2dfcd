package forwarder

import (
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"epiphyte/internal/flow"
	"epiphyte/internal/outbound"
	"epiphyte/internal/testnet"
	"epiphyte/stack"
)

// TestB15_OnlyPeersRefuse: of all errors that a connect may end with, the guest has
// a RST for those that a peer has caused, and an ICMP error for every other.
func TestB15_OnlyPeersRefuse(t *testing.T) {
	r := newRig(t, setup{})
	silent := testnet.SilentListener(t)
	for errno := unix.Errno(1); errno < 134; errno++ {
		r.send(testnet.SYN(at(guest4, 1000+uint16(errno)), at(gateway4, silent.Port()), 1))
		r.wantCounts(counts{Dials: 1})
		for _, record := range r.flows(flow.Dial) {
			record.Owner.(*dial).answered(errno)
		}
		got := r.received()
		if len(got) != 1 {
			t.Errorf("%v: the guest was told %+v, want one packet", errno, got)
			continue
		}
		refused := got[0].Proto == stack.ProtoTCP && got[0].TCPFlags()&4 != 0
		if want := errno == unix.ECONNREFUSED || errno == unix.ECONNRESET || errno == unix.EPIPE; refused != want {
			t.Errorf("%v: a RST: %v, want %v", errno, refused, want)
		}
	}
}

// TestB15_LocalPortsUsedUp: of a socket that is bound to --outbound-addr the local
// ports are used up for each destination by itself; and then the guest is not told
// that the destination refuses.
func TestB15_LocalPortsUsedUp(t *testing.T) {
	const ports = 16
	for _, tt := range []struct {
		guest     netip.Addr
		there     string
		icmp      uint8
		typ, code byte
	}{
		{guest4, there4, stack.ProtoICMP, 3, 0},
		{guest6, there6, stack.ProtoICMPv6, 1, 0},
	} {
		t.Run(tt.there, func(t *testing.T) {
			ownNetwork(t, allGroups)
			setSysctl(t, "ipv4/ip_local_port_range", "40000 40015")
			there, source := netip.MustParseAddr(tt.there), new(outbound.Source)
			if err := errors.Join(source.SetIPv4(there4), source.SetIPv6(there6)); err != nil {
				t.Fatal(err)
			}
			r := newRig(t, setup{Config: Config{Source: source}})
			port := uint16(1000)
			for _, listens := range []uint16{2001, 2002} { // none of the range
				l, err := listenTCPPort(tt.there, listens)
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				addr := at(there, listens)
				for range ports {
					port++
					r.establish(at(tt.guest, port), addr, 1)
				}
				r.send(testnet.SYN(at(tt.guest, 999), addr, 1))
				if p := r.receive(tt.icmp); p.Payload[0] != tt.typ || p.Payload[1] != tt.code {
					t.Errorf("one more: type %d code %d, want %d %d", p.Payload[0], p.Payload[1], tt.typ, tt.code)
				}
			}
		})
	}
}
