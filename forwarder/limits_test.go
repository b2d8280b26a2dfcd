package forwarder

import (
	"testing"

	"golang.org/x/sys/unix"
)

// The default limits fit into the descriptors that the process may have.
func TestDefaultLimitsFitDescriptors(t *testing.T) {
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
	for _, n := range []uint64{256, 1024, 4096, 20000} {
		if n > old.Max {
			continue
		}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: old.Max}); err != nil {
			t.Fatal(err)
		}
		l := Limits{}.withDefaults()
		if sum := l.Dials + l.TCP + l.Mappings; sum > int(n)-reservedFDs || l.Dials < 1 || l.TCP < 1 || l.Mappings < 1 {
			t.Errorf("with %d descriptors: %+v", n, l)
		}
	}
	got := Limits{Dials: 7, TCP: 8, Mappings: 9}.withDefaults()
	if want := (Limits{Dials: 7, TCP: 8, Mappings: 9}); got != want {
		t.Errorf("limits that were set became %+v", got)
	}
}
