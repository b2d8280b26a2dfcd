package hostnet

import (
	"testing"

	"golang.org/x/sys/unix"
)

// Whatever the kernel says is read without harm.
func FuzzParse(f *testing.F) {
	f.Add([]byte{unix.AF_INET, 24, 0, 0, unix.RT_TABLE_MAIN, 0, 0, unix.RTN_UNICAST, 0, 0, 0, 0,
		8, 0, unix.RTA_OIF, 0, 2, 0, 0, 0, 16, 0, unix.RTA_MULTIPATH, 0, 8, 0, 0, 0, 3, 0, 0, 0, 8, 0, unix.RTA_VIA, 0})
	f.Add([]byte{unix.AF_INET6, 64, 0, 0, 2, 0, 0, 0, 20, 0, unix.IFA_ADDRESS, 0, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, r := range parseRoute(b) {
			if !r.Dst.IsValid() {
				t.Errorf("% x: %+v", b, r)
			}
		}
		if a, ok := parseAddress(b); ok && !a.Prefix.Addr().IsGlobalUnicast() {
			t.Errorf("% x: %+v", b, a)
		}
	})
}
