package forwarder

import (
	"net/netip"
	"testing"
	"time"

	"epiphyte/internal/policy"
	"epiphyte/internal/testnet"
	"epiphyte/stack"
)

// TestB40_RawPackets: what a root of the namespace may write to its TAP by hand
// does not reach the host's loopback, by whatever name.
func TestB40_RawPackets(t *testing.T) {
	closed := []string{
		"127.0.0.1", "127.0.0.53", "127.1.2.3", "127.255.255.255", "0.0.0.0", "0.0.0.1", "0.255.255.255",
		"255.255.255.255", "10.0.2.255", "10.0.2.0", "10.0.2.1", "10.0.2.15", "10.0.2.100", "10.0.2.254",
		"224.0.0.1", "224.0.0.251", "239.255.255.250",
		"::", "::1", "::2", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:0.0.0.0", "::ffff:10.0.2.2",
		"fd00::", "fd00::1", "fd00::64", "fd00::1234", "fe80::1", "fe80::64", "ff01::1", "ff02::1", "ff02::fb", "ff0e::1",
	}
	gateways := []string{"10.0.2.2", "fd00::2", "fe80::2"}
	for _, tt := range []struct {
		name         string
		rules        policy.Rules
		destinations []string
	}{
		{"default", policy.Rules{}, closed},
		{"DNS disabled", policy.Rules{DisableDNS: true}, closed},
		{"loopback disabled", policy.Rules{DisableHostLoopback: true}, append(gateways, closed...)},
		{"both disabled", policy.Rules{DisableHostLoopback: true, DisableDNS: true}, append(gateways, closed...)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, setup{rules: tt.rules})
			// One port for all four, so that whoever gets through is noticed.
			hosts, port := loopbackHosts(t)
			before := testnet.Descriptors(t)
			for _, s := range tt.destinations {
				addr := netip.MustParseAddr(s)
				src := guest4
				if addr.Is6() {
					src = guest6
					if addr.IsLinkLocalUnicast() {
						src = netip.MustParseAddr("fe80::64")
					}
				}
				r.send(
					testnet.SYN(at(src, 4000), at(addr, port), 1),
					datagram(at(src, 4000), at(addr, port)),
					testnet.Echo(src, addr, 1, 1, 64, []byte("x")),
				)
				if got := r.counts(); got != (counts{}) {
					t.Errorf("%s: %+v", s, got)
				}
			}
			if n := testnet.Descriptors(t); n != before {
				t.Errorf("%d descriptors, %d before", n, before)
			}
			hosts.wantNothing(t)
			if tt.rules.DisableHostLoopback {
				return
			}
			// The other way round: this test would notice.
			r.send(datagram(at(guest4, 4000), at(gateway4, port)))
			select {
			case <-hosts.accepted:
			case <-time.After(5 * time.Second):
				t.Error("the gateway does not lead to the host's loopback")
			}
		})
	}
}

// TestB40_ImpossibleSources: packets that claim to come from where no guest is
// are not carried either, though their destination is open.
func TestB40_ImpossibleSources(t *testing.T) {
	r := newRig(t, setup{})
	hosts, port := loopbackHosts(t)
	for _, s := range []string{
		"127.0.0.1", "127.0.0.53", "0.0.0.0", "224.0.0.1", "255.255.255.255", "10.0.2.2", "10.0.2.3",
		"::1", "::", "::ffff:127.0.0.1", "ff02::1", "fd00::2", "fd00::3", "fe80::2",
	} {
		src, dst := netip.MustParseAddr(s), gateway4
		if src.Is6() {
			dst = gateway6
		}
		r.send(
			testnet.SYN(at(src, 4000), at(dst, port), 1),
			datagram(at(src, 4000), at(dst, port)),
			testnet.Echo(src, netip.MustParseAddr("192.0.2.1"), 1, 1, 64, []byte("x")),
		)
		if got := r.counts(); got != (counts{}) {
			t.Errorf("from %s: %+v", s, got)
		}
	}
	// Port zero is nobody's.
	r.send(datagram(at(guest4, 0), at(gateway4, port)), datagram(at(guest4, 1), at(gateway4, 0)))
	if got := r.counts(); got != (counts{}) {
		t.Errorf("port 0: %+v", got)
	}
	hosts.wantNothing(t)
}

// TestB40_DisabledLoopbackIsRefused: with --disable-host-loopback the gateway
// says so by ICMP, net unreachable (contract, section 5), to TCP and UDP alike;
// its own echo goes on.
func TestB40_DisabledLoopbackIsRefused(t *testing.T) {
	for _, tt := range []struct {
		name           string
		guest, gateway netip.Addr
		proto          uint8
		typ, code      byte
		reply          byte
	}{
		{"IPv4", guest4, gateway4, stack.ProtoICMP, 3, 0, 0},
		{"IPv6", guest6, gateway6, stack.ProtoICMPv6, 1, 0, 129},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, setup{rules: policy.Rules{DisableHostLoopback: true}})
			_, port := loopbackHosts(t)
			for _, frame := range [][]byte{
				testnet.SYN(at(tt.guest, 4000), at(tt.gateway, port), 1),
				datagram(at(tt.guest, 4000), at(tt.gateway, port)),
			} {
				r.send(frame)
				p := r.receive(tt.proto)
				quoted, ok := p.Quoted()
				if p.Payload[0] != tt.typ || p.Payload[1] != tt.code || p.Src != tt.gateway ||
					!ok || quoted.From() != at(tt.guest, 4000) || quoted.Dst != tt.gateway || quoted.DstPort() != port {
					t.Errorf("told type %d code %d by %v, quoting %+v", p.Payload[0], p.Payload[1], p.Src, quoted)
				}
			}
			r.send(testnet.Echo(tt.guest, tt.gateway, 7, 8, 64, []byte("payload")))
			if p := r.receive(tt.proto); p.Payload[0] != tt.reply || p.TTL != 255 || string(p.Payload[8:]) != "payload" {
				t.Errorf("echo of the gateway: type %d, TTL %d, %q", p.Payload[0], p.TTL, p.Payload[8:])
			}
		})
	}
}

// loopback is the host's side: whoever gets through, gets here.
type loopback struct {
	accepted chan string
}

// loopbackHosts listens on one port number of 127.0.0.1 and ::1, for TCP and
// UDP. Where there is no IPv6, on 127.0.0.1 alone.
func loopbackHosts(t *testing.T) (*loopback, uint16) {
	t.Helper()
	h := &loopback{accepted: make(chan string, 64)}
	for range 20 { // until a number is free everywhere
		tcp4, addr := testnet.ListenTCP(t, "127.0.0.1:0")
		udp4, err := listenUDPPort("127.0.0.1", addr.Port())
		if err != nil {
			tcp4.Close()
			continue
		}
		t.Cleanup(func() { udp4.Close() })
		go acceptAll(tcp4, h.accepted)
		go readAll(udp4, h.accepted)
		if udp6, err := listenUDPPort("::1", addr.Port()); err == nil {
			t.Cleanup(func() { udp6.Close() })
			go readAll(udp6, h.accepted)
		}
		if tcp6, err := listenTCPPort("::1", addr.Port()); err == nil {
			t.Cleanup(func() { tcp6.Close() })
			go acceptAll(tcp6, h.accepted)
		}
		return h, addr.Port()
	}
	t.Fatal("no port is free for both TCP and UDP")
	return nil, 0
}

func (h *loopback) wantNothing(t *testing.T) {
	t.Helper()
	select {
	case who := <-h.accepted:
		t.Errorf("the host's loopback was reached: %s", who)
	case <-time.After(20 * time.Millisecond):
	}
}
