package forwarder

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"epiphyte/internal/flow"
	"epiphyte/internal/sockio"
	"epiphyte/stack"
)

// FuzzPassError: of an error that the host's kernel has queued the guest gets one ICMP
// error at most, about its own packet as it sent it, from an address that it may have
// met.
func FuzzPassError(f *testing.F) {
	ping := []byte{8, 0, 0, 0, 0x12, 0x34, 0, 1}
	for _, v6 := range []bool{false, true} {
		for _, proto := range []bool{false, true} {
			f.Add(v6, proto, uint16(unix.ECONNREFUSED), uint8(unix.SO_EE_ORIGIN_ICMP), uint8(3), uint8(3), uint32(0), []byte{198, 51, 100, 1}, ping)
			f.Add(v6, proto, uint16(unix.EHOSTUNREACH), uint8(unix.SO_EE_ORIGIN_ICMP6), uint8(1), uint8(3), uint32(0), netip.MustParseAddr("2001:db8::1").AsSlice(), ping)
			f.Add(v6, proto, uint16(unix.EMSGSIZE), uint8(unix.SO_EE_ORIGIN_LOCAL), uint8(0), uint8(0), uint32(1400), []byte{}, ping)
			f.Add(v6, proto, uint16(unix.EPROTO), uint8(unix.SO_EE_ORIGIN_ICMP), uint8(12), uint8(0), uint32(20), []byte{127, 0, 0, 1}, ping[:7])
			f.Add(v6, proto, uint16(unix.EHOSTUNREACH), uint8(unix.SO_EE_ORIGIN_ICMP), uint8(11), uint8(0), uint32(0), []byte{10, 0, 2, 100}, []byte{})
		}
	}
	f.Fuzz(func(t *testing.T, v6, echo bool, errno uint16, origin, typ, code uint8, info uint32, offender, data []byte) {
		r := newRig(t, setup{})
		guest, there, icmp := at(guest4, 4000), netip.MustParseAddrPort("198.51.100.7:53"), uint8(stack.ProtoICMP)
		if v6 {
			guest, there, icmp = at(guest6, 4000), netip.MustParseAddrPort("[2001:db8::7]:53"), stack.ProtoICMPv6
		}
		m := &mapping{f: r.f, record: &flow.Flow{Kind: flow.Mapping, Proto: stack.ProtoUDP, Src: guest}}
		if echo {
			m.record.Proto, there = icmp, at(there.Addr(), 0)
		}
		e := sockio.QueuedError{Errno: unix.Errno(errno), Origin: origin, Type: typ, Code: code, Info: info, To: there, Data: data}
		if a, ok := netip.AddrFromSlice(offender); ok {
			e.Offender = a.Unmap() // as the kernel's socket addresses are read
		}
		m.passError(&e)
		got := r.received()
		if len(got) > 1 {
			t.Fatalf("%d packets of one error", len(got))
		}
		for _, p := range got {
			q, ok := p.Quoted()
			if p.Proto != icmp || p.Dst != guest.Addr() || !ok || q.Src != guest.Addr() || q.Dst != there.Addr() || q.Proto != m.record.Proto {
				t.Fatalf("%+v became %+v", e, p)
			}
			if !echo && (q.SrcPort() != guest.Port() || q.DstPort() != there.Port()) {
				t.Errorf("%+v is about ports %d and %d", e, q.SrcPort(), q.DstPort())
			}
			kind := stack.ICMPError{Type: p.Payload[0], Code: p.Payload[1]}
			if !kind.Deliverable(v6) && !(v6 && kind.Type == 2) {
				t.Errorf("%+v became an error of type %d", e, kind.Type)
			}
			if p.Src.IsLoopback() || p.Src.IsUnspecified() || p.Src == guest.Addr() {
				t.Errorf("%+v comes from %v", e, p.Src)
			}
		}
	})
}
