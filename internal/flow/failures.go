package flow

import "golang.org/x/sys/unix"

// Failures counts failures by errno: each known one, and all others together.
type Failures [len(known) + 1]uint64

// known are the errnos of connect(2) that are meaningful to a user.
var known = [...]unix.Errno{
	unix.ECONNREFUSED, unix.ETIMEDOUT, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.ECONNRESET,
	unix.EACCES, unix.EPERM, unix.EADDRNOTAVAIL, unix.EMFILE,
}

func (f *Failures) count(errno unix.Errno) {
	for i, k := range known {
		if k == errno {
			f[i]++
			return
		}
	}
	f[len(known)]++
}

// Each calls do with the symbol of each errno, "other" for all others, and the number.
func (f *Failures) Each(do func(errno string, n uint64)) {
	for i, k := range known {
		do(unix.ErrnoName(k), f[i])
	}
	do("other", f[len(known)])
}

func (f *Failures) add(o *Failures) {
	for i := range f {
		f[i] += o[i]
	}
}

// DialFailed counts a connection of the guest's that the host could not make.
func (t *Table) DialFailed(errno unix.Errno) { t.totals.Dials.count(errno) }

// ClientFailed counts a client of a published port that the guest did not accept.
func (t *Table) ClientFailed(errno unix.Errno) { t.totals.Clients.count(errno) }

// Forbidden counts a flow or datagram of the guest's that the policy forbids; told: the
// guest got an error.
func (t *Table) Forbidden(told bool) {
	if told {
		t.totals.Forbidden++
	} else {
		t.totals.Ignored++
	}
}

// Add adds the totals of another table.
func (s *Totals) Add(o *Totals) {
	s.Connections += o.Connections
	s.In += o.In
	s.Out += o.Out
	s.Refused += o.Refused
	s.Evicted += o.Evicted
	for i := range s.Met {
		s.Met[i] += o.Met[i]
	}
	s.Carried += o.Carried
	s.Stayed += o.Stayed
	s.Forbidden += o.Forbidden
	s.Ignored += o.Ignored
	s.Dials.add(&o.Dials)
	s.Clients.add(&o.Clients)
}
