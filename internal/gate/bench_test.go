package gate

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"epiphyte/internal/policy"
)

// BenchmarkDecide is what a connection, and a datagram of a talk, pay for a policy of 1000
// rules with 200 names, beside what they pay without.
func BenchmarkDecide(b *testing.B) {
	var text strings.Builder
	for i := range 200 {
		fmt.Fprintf(&text, "allow name%d.example.com:443,8000-8%03d\n", i, i+1)
	}
	for i := range 800 {
		fmt.Fprintf(&text, "deny tcp %d.%d.0.0/%d:%d-2000\n", 1+i%9, i%256&^0xf, 12+i%5*4, 1+i)
	}
	text.WriteString("allow 203.0.113.0/24\n")
	r := newRig(b, text.String())
	r.zone = map[string][]string{"name7.example.com. A": {"30 IN A 203.0.113.1"}}
	literal, name := netip.MustParseAddrPort("203.0.113.1:443"), netip.AddrPortFrom(r.addr("name7.example.com"), 443)
	without := r.cfg.Rules
	for what, run := range map[string]func() policy.Decision{
		"without": func() policy.Decision {
			return without.Decide(policy.Request{Proto: unix.IPPROTO_TCP, Src: netip.MustParseAddrPort("10.0.2.100:1"), Dst: literal})
		},
		"connection/address": func() policy.Decision { return r.out(unix.IPPROTO_TCP, 1, literal) },
		"connection/name":    func() policy.Decision { return r.out(unix.IPPROTO_TCP, 1, name) },
		"datagram/address":   func() policy.Decision { return r.out(unix.IPPROTO_UDP, 1, literal) },
		"datagram/name":      func() policy.Decision { return r.out(unix.IPPROTO_UDP, 1, name) },
		"denied":             func() policy.Decision { return r.out(unix.IPPROTO_TCP, 1, netip.MustParseAddrPort("192.0.2.77:22")) },
	} {
		b.Run(what, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if d := run(); d.Action != policy.Allow && what != "denied" {
					b.Fatalf("%+v", d)
				}
			}
		})
	}
}

// TestDeniedDoesNotAllocate: a guest may try as often as it can. What it is denied is
// recorded, and only the first of a kind is put into words.
func TestDeniedDoesNotAllocate(t *testing.T) {
	r := newRig(t, "allow a.example:443\ndeny 203.0.113.0/24\n")
	for what, to := range map[string]netip.AddrPort{
		"by default":     netip.MustParseAddrPort("192.0.2.77:22"),
		"by a rule":      netip.MustParseAddrPort("203.0.113.1:443"),
		"IPv6":           netip.MustParseAddrPort("[2001:db8::1]:443"),
		"port of a name": netip.AddrPortFrom(r.addr("a.example"), 80),
		"other resolver": netip.MustParseAddrPort("8.8.8.8:53"),
	} {
		for _, proto := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			from := uint16(1024)
			n := testing.AllocsPerRun(100, func() {
				from++
				if d := r.out(proto, from, to); d.Action != policy.Refuse {
					t.Fatalf("%s: %+v", what, d)
				}
			})
			if n > 0 {
				t.Errorf("%s, protocol %d: %v allocations", what, proto, n)
			}
		}
	}
	if lines := len(r.log); lines != 10 {
		t.Errorf("%d lines are recorded, want one of each kind", lines)
	}
}
