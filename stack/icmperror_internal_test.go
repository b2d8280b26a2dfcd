package stack

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestB15_ICMPErrorFor: which message becomes of which errno, by family. That guests
// make of it the errno that the host's kernel made of it is shown end to end, by
// TestB15_EveryErrorIsTheHosts.
func TestB15_ICMPErrorFor(t *testing.T) {
	type codes [2][2]uint8 // type and code of IPv4, then of IPv6
	var (
		network    = codes{{3, 0}, {1, 0}}
		host       = codes{{3, 1}, {1, 3}}
		prohibited = codes{{3, 13}, {1, 1}}
	)
	want := map[unix.Errno]codes{
		unix.ENETUNREACH: network, unix.ENETDOWN: network, unix.EADDRNOTAVAIL: network, unix.EAFNOSUPPORT: network,
		unix.EHOSTUNREACH: host, unix.ETIMEDOUT: host, unix.EINVAL: host,
		unix.EMFILE: host, unix.ENFILE: host, unix.ENOBUFS: host, unix.ENOMEM: host, unix.ENOSPC: host,
		unix.EAGAIN: host, unix.EADDRINUSE: host,
		unix.EACCES: prohibited, unix.EPERM: prohibited,
		unix.ENOPROTOOPT:  {{3, 2}, {1, 3}},
		unix.ECONNREFUSED: {{3, 3}, {1, 4}},
		unix.EOPNOTSUPP:   {{3, 5}, {1, 3}},
		unix.EHOSTDOWN:    {{3, 7}, {1, 3}},
		unix.ENONET:       {{3, 8}, {1, 3}},
		unix.EPROTO:       {{12, 0}, {4, 0}},
	}
	for errno := range unix.Errno(4096) {
		for family, v6 := range []bool{false, true} {
			got, ok := ICMPErrorFor(errno, v6)
			w, expected := want[errno]
			if ok != expected || got != (ICMPError{Type: w[family][0], Code: w[family][1]}) {
				t.Errorf("ICMPErrorFor(%v, %v) = %v, %v, want %v, %v", errno, v6, got, ok, w[family], expected)
			}
			if ok && !got.Deliverable(v6) {
				t.Errorf("%v is not deliverable", got)
			}
		}
	}
}
