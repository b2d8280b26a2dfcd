package forwarder

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"epiphyte/internal/flow"
	"epiphyte/internal/testnet"
	"epiphyte/stack"
)

// TestB26_RawPingsShareASocket: however many pings there are, one socket per family
// carries them; each guest hears its own replies; the socket goes with the last ping.
func TestB26_RawPingsShareASocket(t *testing.T) {
	ownNetwork(t, noGroups)
	r := newRig(t, setup{limits: flow.Limits{Mappings: 100}})
	before := testnet.Descriptors(t)
	for _, tt := range []struct {
		guest netip.Addr
		there string
		proto uint8
	}{{guest4, there4, stack.ProtoICMP}, {guest6, there6, stack.ProtoICMPv6}} {
		there := netip.MustParseAddr(tt.there)
		for id := range uint16(200) {
			guest := tt.guest
			if id%2 == 1 {
				guest = guest.Next()
			}
			r.send(testnet.Echo(guest, there, id/2, id, 64, []byte("payload")))
			p := r.receive(tt.proto)
			if got, seq := binary.BigEndian.Uint16(p.Payload[4:]), binary.BigEndian.Uint16(p.Payload[6:]); p.Dst != guest || got != id/2 || seq != id {
				t.Fatalf("reply to %v with id %d, sequence %d; want %v, %d, %d", p.Dst, got, seq, guest, id/2, id)
			}
		}
	}
	r.wantCounts(counts{Mappings: 100})
	if n := testnet.Descriptors(t); n != before+2 {
		t.Errorf("%d descriptors, %d before", n, before)
	}
	r.pass(mappingIdleEcho)
	r.wantCounts(counts{})
	if n := testnet.Descriptors(t); n != before {
		t.Errorf("%d descriptors after the last ping, %d before", n, before)
	}
}

// The guest hears nothing of what other programs of the host ping.
func TestB26_RawPingsOfOthersStayOutside(t *testing.T) {
	ownNetwork(t, noGroups)
	r := newRig(t, setup{})
	there := netip.MustParseAddr(there4)
	r.send(testnet.Echo(guest4, there, 1, 1, 64, nil))
	r.receive(stack.ProtoICMP)
	ours := r.flows(flow.Mapping)[0].Owner.(*mapping).rawID
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for _, id := range []uint16{ours + 1, ours} { // the second shows that the first has been handled
		frame := testnet.Echo(guest4, there, id, 7, 64, nil)
		echo, _ := testnet.Parse(frame)
		if err := unix.Sendto(fd, echo.Payload, 0, &unix.SockaddrInet4{Addr: there.As4()}); err != nil {
			t.Fatal(err)
		}
	}
	if p := r.receive(stack.ProtoICMP); binary.BigEndian.Uint16(p.Payload[6:]) != 7 {
		t.Errorf("received % x", p.Payload)
	}
	if more := append(r.inbox, r.received()...); len(more) != 0 {
		t.Errorf("the guest was told %+v of another's ping", more)
	}
}

// The checksum is that of the message with its new identifier.
func TestSetIdentifierKeepsTheChecksum(t *testing.T) {
	for _, from := range []uint16{0, 1, 0x00ff, 0x1234, 0xfffe, 0xffff} {
		for _, to := range []uint16{0, 1, 0x00ff, 0x1234, 0xfffe, 0xffff} {
			message := func(id uint16) []byte {
				p, _ := testnet.Parse(testnet.Echo(guest4, gateway4, id, 3, 64, []byte("odd")))
				return p.Payload
			}
			p := &stack.Packet{Proto: stack.ProtoICMP, Head: message(from)}
			setIdentifier(p, to)
			if got, want := string(p.Head), string(message(to)); got != want {
				t.Errorf("from %#x to %#x: % x, want % x", from, to, got, want)
			}
		}
	}
}
