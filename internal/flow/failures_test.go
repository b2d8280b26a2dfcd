package flow

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestFailuresHaveFewNames, whatever the errno.
func TestFailuresHaveFewNames(t *testing.T) {
	var a, b Totals
	for errno := unix.Errno(1); errno < 200; errno++ {
		a.Dials.count(errno)
	}
	b.Dials.count(unix.ECONNREFUSED)
	b.Add(&a)
	got, sum := map[string]uint64{}, uint64(0)
	b.Dials.Each(func(errno string, n uint64) { got[errno] = n; sum += n })
	if len(got) != len(known)+1 || sum != 200 || got["ECONNREFUSED"] != 2 || got["other"] != 199-uint64(len(known)) {
		t.Errorf("%d in all: %v", sum, got)
	}
}
