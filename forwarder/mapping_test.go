package forwarder

import (
	"net/netip"
	"testing"
	"time"

	"epiphyte/internal/flow"
	"epiphyte/internal/testnet"
	"epiphyte/stack"
)

func datagram(src, dst netip.AddrPort) []byte {
	return testnet.UDP(src, dst, testnet.TTL, []byte("hello"))
}

// TestB25_MappingExpiry: an unused mapping lives equally long, whatever its port. For
// exchanges of DNS see TestB25_DNSMappingExpiry.
func TestB25_MappingExpiry(t *testing.T) {
	for _, tt := range []struct {
		name  string
		ports []uint16
		lives time.Duration
	}{
		{"port 53, but no DNS", []uint16{53}, 240 * time.Second},
		{"another port", []uint16{9999}, 240 * time.Second},
		{"port 53, then another", []uint16{53, 9999}, 240 * time.Second},
		{"another, then port 53", []uint16{9999, 53}, 240 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, setup{})
			before := testnet.Descriptors(t)
			for _, port := range tt.ports {
				r.send(datagram(at(guest4, 4000), at(gateway4, port)))
			}
			r.wantCounts(counts{Mappings: 1})
			for range int(tt.lives/time.Second) - 1 {
				r.pass(time.Second)
			}
			r.pass(time.Second - time.Millisecond)
			r.wantCounts(counts{Mappings: 1})
			r.pass(time.Millisecond)
			r.wantCounts(counts{})
			if n := testnet.Descriptors(t); n != before {
				t.Errorf("%d descriptors after expiry, %d before", n, before)
			}
		})
	}
}

// A mapping lives on while either side uses it, and no timer is left when it is
// gone.
func TestMappingKeptByUse(t *testing.T) {
	r := newRig(t, setup{})
	host, addr := testnet.ListenUDP(t, "127.0.0.1:0")
	guest := at(guest4, 4000)
	r.send(datagram(guest, at(gateway4, addr.Port())))
	for range 3 {
		r.pass(mappingIdle - time.Second)
		r.send(datagram(guest, at(gateway4, addr.Port())))
	}
	b := make([]byte, 64)
	_, public, err := host.ReadFromUDPAddrPort(b)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		r.pass(mappingIdle - time.Second)
		if _, err := host.WriteToUDPAddrPort([]byte("answer"), public); err != nil {
			t.Fatal(err)
		}
		if p := r.receive(stack.ProtoUDP); p.From() != at(gateway4, addr.Port()) {
			t.Fatalf("reply from %v, want the gateway's port %d", p.From(), addr.Port())
		}
	}
	r.wantCounts(counts{Mappings: 1})
	r.pass(mappingIdle)
	r.wantCounts(counts{})
	if when := 1000 * time.Hour; r.shardHasTimerBefore(when) {
		t.Error("a timer is left after the last mapping")
	}
}

// shardHasTimerBefore lets d pass and reports whether anything happened.
func (r *rig) shardHasTimerBefore(d time.Duration) bool {
	before := r.counts()
	r.pass(d)
	return r.counts() != before
}

// hasMapping reports whether a guest's port has a mapping.
func (r *rig) hasMapping(guest netip.AddrPort) bool {
	return r.Table.Find(flow.Mapping, stack.ProtoUDP, guest, netip.AddrPort{}) != nil
}

// TestB25_MappingEviction: at the bound the mapping not used for longest makes
// room, and its socket is closed.
func TestB25_MappingEviction(t *testing.T) {
	r := newRig(t, setup{limits: flow.Limits{Mappings: 3}})
	_, addr := testnet.ListenUDP(t, "127.0.0.1:0")
	before := testnet.Descriptors(t)
	use := func(port uint16) { r.send(datagram(at(guest4, port), at(gateway4, addr.Port()))) }
	has := func(port uint16) bool { return r.hasMapping(at(guest4, port)) }
	use(1)
	use(2)
	use(3)
	use(1)
	use(4) // in the place of 2
	if has(2) || !has(1) || !has(3) || !has(4) {
		t.Errorf("after 1 2 3 1 4: has 1 %v, 2 %v, 3 %v, 4 %v", has(1), has(2), has(3), has(4))
	}
	for port := range uint16(2000) {
		use(10000 + port)
	}
	r.wantCounts(counts{Mappings: 3})
	if n := testnet.Descriptors(t); n != before+3 {
		t.Errorf("%d descriptors with three mappings, %d before", n, before)
	}
	for i, f := range r.flows(flow.Mapping) {
		if want := uint16(10000 + 2000 - 3 + i); f.Src.Port() != want {
			t.Errorf("%d. in the order of use is port %d, want %d", i+1, f.Src.Port(), want)
		}
	}
	r.pass(mappingIdle)
	r.wantCounts(counts{})
}

// A mapping that only receives is in use: it is not the one to go.
func TestB25_ReceivingMappingIsNotEvicted(t *testing.T) {
	r := newRig(t, setup{limits: flow.Limits{Mappings: 2}})
	host, addr := testnet.ListenUDP(t, "127.0.0.1:0")
	receiver := at(guest4, 1)
	r.send(datagram(receiver, at(gateway4, addr.Port())))
	b := make([]byte, 64)
	_, public, err := host.ReadFromUDPAddrPort(b)
	if err != nil {
		t.Fatal(err)
	}
	r.send(datagram(at(guest4, 2), at(gateway4, addr.Port())))
	r.pass(time.Second)
	if _, err := host.WriteToUDPAddrPort([]byte("stream"), public); err != nil {
		t.Fatal(err)
	}
	r.receive(stack.ProtoUDP)
	r.send(datagram(at(guest4, 3), at(gateway4, addr.Port())))
	if !r.hasMapping(receiver) {
		t.Error("the mapping that received a second ago went, the idle one stayed")
	}
}

// A mapping may be evicted while datagrams of its own wait for the end of the
// batch: they are lost, and nothing else is.
func TestEvictionWithinBatch(t *testing.T) {
	r := newRig(t, setup{limits: flow.Limits{Mappings: 1}})
	host, addr := testnet.ListenUDP(t, "127.0.0.1:0")
	var frames [][]byte
	for port := range uint16(16) {
		frames = append(frames, testnet.UDP(at(guest4, 100+port), at(gateway4, addr.Port()), 64, []byte{byte(port)}))
	}
	// Several rounds, so that the later batches hold more than one frame each.
	for range 8 {
		if err := r.Port.Write(frames...); err != nil {
			t.Fatal(err)
		}
		for range 16 {
			r.turn()
		}
	}
	r.wantCounts(counts{Mappings: 1})
	host.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	b := make([]byte, 64)
	last := -1
	for {
		n, _, err := host.ReadFromUDPAddrPort(b)
		if err != nil {
			break
		}
		if n != 1 {
			t.Errorf("datagram of %d bytes, sent were single ones", n)
		}
		last = int(b[0])
	}
	if last != 15 {
		t.Errorf("last datagram %d, want the last one sent, 15", last)
	}
}

// Close leaves no socket, whatever is under way.
func TestCloseClosesSockets(t *testing.T) {
	r := newRig(t, setup{})
	silent := testnet.SilentListener(t)
	_, addr := testnet.ListenUDP(t, "127.0.0.1:0")
	before := testnet.Descriptors(t)
	for port := range uint16(50) {
		r.send(datagram(at(guest4, 1000+port), at(gateway4, addr.Port())))
		r.send(testnet.SYN(at(guest4, 1000+port), at(gateway4, silent.Port()), 1))
	}
	r.wantCounts(counts{Dials: 50, Mappings: 50})
	if n := testnet.Descriptors(t); n != before+100 {
		t.Errorf("%d descriptors with 100 flows, %d before", n, before)
	}
	r.EndFlows()
	r.wantCounts(counts{})
	if n := testnet.Descriptors(t); n != before {
		t.Errorf("%d descriptors after Close, %d before", n, before)
	}
}
