package flow

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
	for _, n := range []uint64{64, 256, 300, 1024, 4096, 20000} {
		if n > old.Max {
			continue
		}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: old.Max}); err != nil {
			t.Fatal(err)
		}
		l := Limits{}.withDefaults()
		if l.Descriptors > int(n)-reservedFDs || l.TCP >= l.Descriptors || l.TCP < l.Descriptors-16 || l.Dials < 1 || l.TCP < 1 || l.Mappings < 1 {
			t.Errorf("with %d descriptors: %+v", n, l)
		}
		if 2*l.Exposed > int(n)/4 || l.Exposed < 1 || l.Clients < 1 || l.Sessions < 1 {
			t.Errorf("with %d descriptors: %+v", n, l)
		}
	}
	want := Limits{Descriptors: 6, Dials: 7, TCP: 8, Mappings: 9, Clients: 10, Sessions: 11, Exposed: 12}
	if got := want.withDefaults(); got != want {
		t.Errorf("limits that were set became %+v", got)
	}
}

// Tables that divide limits among them stay within those of one, and each can
// do something.
func TestLimitsDivided(t *testing.T) {
	for _, l := range []Limits{{}, {Dials: 100, TCP: 1000, Mappings: 10}, {Dials: 1, TCP: 1, Mappings: 1}} {
		whole := l.Divided(1)
		if whole != l.withDefaults() {
			t.Errorf("%+v undivided is %+v", l, whole)
		}
		for _, n := range []int{2, 3, 16} {
			d := l.Divided(n)
			for name, v := range map[string][2]int{"Dials": {d.Dials, whole.Dials}, "TCP": {d.TCP, whole.TCP}, "Mappings": {d.Mappings, whole.Mappings}} {
				if v[0] < 1 || n*v[0] > max(n, v[1]) || n*(v[0]+1) <= v[1] {
					t.Errorf("%s of %d is %d for each of %d", name, v[1], v[0], n)
				}
			}
			if again := d.withDefaults(); again != d {
				t.Errorf("%+v is taken for %+v", d, again)
			}
		}
	}
}
