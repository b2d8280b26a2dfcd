package flow

import "testing"

// open enters flows of a kind while there is room, n at most, and returns how many.
func (r *rig) open(k Kind, n int) int {
	r.t.Helper()
	for i := range n {
		if !r.table.Admit(k) {
			return i
		}
		if f := r.add(k, guest, uint16(1000*int(k)+i), 0); k == Dial {
			r.table.Establish(f)
		}
	}
	return n
}

// Descriptors go to who needs them: connections get nearly all, and mappings half,
// while the other has none; each is sure of some.
func TestDescriptorsAreShared(t *testing.T) {
	const all, sure = 200, 16
	r := newRig(t, Limits{Descriptors: all})
	said := 0
	r.table.OnFull = func() { said++ }
	if n := r.open(Mapping, 150); n != 150 || r.table.Count(Mapping) != all/2 {
		t.Errorf("%d of %d mappings are there", r.table.Count(Mapping), n)
	}
	if n := r.open(Dial, 2*all); n != all-sure {
		t.Errorf("%d connections with %d descriptors", n, all)
	}
	if n := r.table.Count(Mapping); n != sure {
		t.Errorf("%d mappings are left", n)
	}
	if n := r.open(Mapping, 50); n != 50 || r.table.Count(Mapping) != sure {
		t.Errorf("%d mappings with all connections there are", r.table.Count(Mapping))
	}
	if held := r.table.descriptors(); held > all {
		t.Errorf("%d descriptors of %d", held, all)
	}
	total := r.table.Totals()
	if said != 1 || total.Refused != 1 || total.Evicted != 50+all/2-sure+50 {
		t.Errorf("told %d times of %+v", said, total)
	}
}

// TestDescriptorsTakenByOthers: what the kernel refuses where no flow gives way is told and
// counted like a limit of ours.
func TestDescriptorsTakenByOthers(t *testing.T) {
	r := newRig(t, Limits{Descriptors: 9})
	said := 0
	r.table.OnFull = func() { said++ }
	r.open(Dial, 3)
	if r.table.FreeDescriptor() {
		t.Error("an established connection gave way")
	}
	if n := r.table.Totals().Refused; said != 1 || n != 1 {
		t.Errorf("told %d times of %d", said, n)
	}
}
