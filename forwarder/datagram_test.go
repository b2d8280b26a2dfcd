package forwarder

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"

	"epiphyte/internal/flow"
	"epiphyte/internal/testnet"
)

// roundTrips sends datagrams one by one from a socket of the guest to one of the
// host and back. The guest's is connected to the gateway, so that a reply from
// another address would not be heard.
func (w *world) roundTrips(t *testing.T, datagrams [][]byte) {
	t.Helper()
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		host, to := testnet.ListenUDP(t, addr)
		guest, err := w.Guest.DialUDP(0, w.outside(to), to.Addr().Is6())
		if err != nil {
			t.Fatal(err)
		}
		guest.SetDeadline(time.Now().Add(patience))
		b := make([]byte, 1<<16)
		for i, want := range datagrams {
			if _, err := guest.Write(want); err != nil {
				t.Fatalf("%s: datagram %d, of %d bytes: %v", addr, i, len(want), err)
			}
			n, from, err := host.ReadFromUDPAddrPort(b)
			if err != nil || !bytes.Equal(b[:n], want) {
				t.Fatalf("%s: datagram %d: of %d bytes %d arrived, %v", addr, i, len(want), n, err)
			}
			if _, err := host.WriteToUDPAddrPort(want, from); err != nil {
				t.Fatal(err)
			}
			if n, err := guest.Read(b); err != nil || !bytes.Equal(b[:n], want) {
				t.Fatalf("%s: datagram %d: of %d bytes %d came back, %v", addr, i, len(want), n, err)
			}
		}
		guest.Close()
	}
}

// TestB20_HundredInOrder: through sockets of both sides.
func TestB20_HundredInOrder(t *testing.T) {
	var datagrams [][]byte
	for i := range 100 {
		datagrams = append(datagrams, bytes.Repeat([]byte{byte(i)}, 10*i+1))
	}
	eachKind(t, func(t *testing.T, w *world) { w.roundTrips(t, datagrams) })
}

// TestB23_LargeDatagrams: 60000 bytes and the largest of all, by fragments where
// the MTU asks for them.
func TestB23_LargeDatagrams(t *testing.T) {
	var datagrams [][]byte
	for _, size := range []int{1472, 1473, 4000, 60000, 65507} {
		b := make([]byte, size)
		new(pattern).Read(b)
		datagrams = append(datagrams, b)
	}
	eachKind(t, func(t *testing.T, w *world) { w.roundTrips(t, datagrams) })
}

// TestB22_ConnectedSocketIsRefused: the ICMP error finds the guest's socket.
func TestB22_ConnectedSocketIsRefused(t *testing.T) {
	eachKind(t, func(t *testing.T, w *world) {
		for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
			host, to := testnet.ListenUDP(t, addr)
			host.Close()
			guest, err := w.Guest.DialUDP(0, w.outside(to), to.Addr().Is6())
			if err != nil {
				t.Fatal(err)
			}
			// gVisor's sockets tell of the error at the next call.
			refused := func() bool {
				_, err = guest.Write([]byte("x"))
				return err != nil
			}
			if !testnet.Within(patience, refused) || !strings.Contains(err.Error(), "refused") {
				t.Errorf("%s: the guest's socket says %v, want a refusal", addr, err)
			}
			guest.Close()
		}
	})
}

// TestB25_ManyPorts: a storm of fresh ports leaves no more sockets than the
// bound, and the last of them works.
func TestB25_ManyPorts(t *testing.T) {
	const bound = 64
	w := newWorld(t, kinds[0], setup{limits: flow.Limits{Mappings: bound}})
	host, addr := testnet.ListenUDP(t, "127.0.0.1:0")
	to := w.outside(addr)
	before := testnet.Descriptors(t)
	for port := range uint16(5000) {
		frame := testnet.UDP(netip.AddrPortFrom(w.Plan.Guest.Next(), 1024+port), to, 64, nil)
		if err := w.Port.Write(frame); err != nil {
			t.Fatal(err)
		}
	}
	guest, err := w.Guest.DialUDP(0, to, false)
	if err != nil {
		t.Fatal(err)
	}
	defer guest.Close()
	guest.SetDeadline(time.Now().Add(patience))
	if _, err := guest.Write([]byte("last")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 16)
	for n := 0; n == 0; {
		var from netip.AddrPort
		if n, from, err = host.ReadFromUDPAddrPort(b); err != nil {
			t.Fatal(err)
		}
		if n > 0 {
			host.WriteToUDPAddrPort(b[:n], from)
		}
	}
	if n, err := guest.Read(b); err != nil || string(b[:n]) != "last" {
		t.Errorf("the guest read %q, %v", b[:n], err)
	}
	if c, _ := w.counts(); c.Mappings != bound {
		t.Errorf("%d mappings, want the bound, %d", c.Mappings, bound)
	}
	if n := testnet.Descriptors(t); n > before+bound {
		t.Errorf("%d descriptors with %d mappings, %d before", n, bound, before)
	}
}
