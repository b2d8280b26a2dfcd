package addressing

import "testing"

// TestNewLoopback: each family is there or not, with loopback for its address.
func TestNewLoopback(t *testing.T) {
	for _, on := range [][2]bool{{true, true}, {true, false}, {false, true}} {
		p := NewLoopback(on[0], on[1])
		if p.IPv4() != on[0] || p.IPv6() != on[1] || p.Guest.IsLoopback() != on[0] || p.Guest6.IsLoopback() != on[1] || !p.LoopbackOnly() {
			t.Errorf("%v: %+v", on, p)
		}
	}
	p, err := NewCopied(Copied{Addresses: prefixes("192.0.2.10/24")})
	if err != nil || p.LoopbackOnly() {
		t.Errorf("%+v, %v", p, err)
	}
}
