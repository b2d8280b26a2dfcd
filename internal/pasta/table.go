package pasta

import (
	"fmt"
	"slices"
)

// Table is several Forwards in the order in which they were given. Its methods do not change
// it, but return another.
type Table []Forward

// ConflictError says that a port leads elsewhere already.
type ConflictError struct {
	Wanted, Present Forward
	Port            uint16 // the first that both want
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("%v conflicts with %v: port %d is forwarded already; delete that one first, or choose another port", e.Wanted, e.Present, e.Port)
}

// Add adds Forwards. Ports that already lead to the same place stay as they are. The error is
// a *ConflictError, and nothing is added then.
func (t Table) Add(list ...Forward) (Table, error) {
	t = slices.Clip(t)
	for _, f := range list {
		var present []portRange
		for i := range t {
			other := &t[i]
			if f.apart(other) {
				continue
			}
			both, ok := f.overlap(other)
			switch {
			case !ok || f.rank() != other.rank():
			case !f.agrees(other):
				return nil, &ConflictError{Wanted: f, Present: *other, Port: both.first}
			default:
				present = append(present, both)
			}
		}
		t = append(t, f.without(present)...)
	}
	return t, nil
}

// Delete removes the ports of the Forwards that lead where these say. A port that leads
// elsewhere stays.
func (t Table) Delete(list ...Forward) Table {
	var left Table
	for _, f := range t {
		var gone []portRange
		for i := range list {
			other := &list[i]
			if f.apart(other) {
				continue
			}
			if both, ok := f.overlap(other); ok && f.rank() == other.rank() && f.agrees(other) {
				gone = append(gone, both)
			}
		}
		left = append(left, f.without(gone)...)
	}
	return left
}

// Clear removes all ports of the host, or all of the namespace (out).
func (t Table) Clear(out bool) Table {
	var left Table
	for _, f := range t {
		if f.Option.Out() != out {
			left = append(left, f)
		}
	}
	return left
}

// Effective returns a table that has every port once: each Forward without the ports of those
// that take precedence, which come first.
func (t Table) Effective() Table {
	var all Table
	for rank := range ranks {
		before := all
		for _, f := range t {
			if f.rank() != rank {
				continue
			}
			var taken []portRange
			for i := range before {
				if f.apart(&before[i]) {
					continue
				}
				if both, ok := f.overlap(&before[i]); ok {
					taken = append(taken, both)
				}
			}
			all = append(all, f.without(taken)...)
		}
	}
	return all
}

// Blocks reports whether a Forward of the table must be removed before one of the others can
// listen: both want a port, but not with the same socket.
func (t Table) Blocks(others Table) bool {
	for i := range t {
		for j := range others {
			f, o := &t[i], &others[j]
			if f.apart(o) {
				continue
			}
			if _, ok := f.overlap(o); ok && (f.Addr != o.Addr || f.Interface != o.Interface) {
				return true
			}
		}
	}
	return false
}

// ranks is the number of kinds; see the package comment.
const ranks = 3

func (f *Forward) rank() int {
	switch {
	case f.Auto:
		return 2
	case f.BestEffort:
		return 1
	}
	return 0
}

// agrees reports whether two overlapping Forwards lead their common ports to the same place,
// with the same socket.
func (f *Forward) agrees(o *Forward) bool {
	return f.Addr == o.Addr && f.Interface == o.Interface && f.To == o.To && f.ToFirst-f.First == o.ToFirst-o.First
}

// apart reports whether two Forwards have no port in common. A call may bring thousands, each
// of which is compared with each, so this is asked first, and inlined.
func (f *Forward) apart(o *Forward) bool { return f.Last < o.First || o.Last < f.First }

// overlap returns the ports that two Forwards cannot both listen on: the kernel gives a port
// of an address to one socket, unless both are for different interfaces
// (net/ipv4/inet_connection_sock.c, inet_csk_bind_conflict).
func (f *Forward) overlap(o *Forward) (both portRange, ok bool) {
	both = portRange{max(f.First, o.First), min(f.Last, o.Last)}
	switch {
	case both.first > both.last || f.Option != o.Option:
		return both, false
	case f.Interface != o.Interface && f.Interface != "" && o.Interface != "":
		return both, false
	case !f.Addr.IsValid() || !o.Addr.IsValid() || f.Addr == o.Addr:
		return both, true
	}
	return both, f.Addr.Is4() == o.Addr.Is4() && (f.Addr.IsUnspecified() || o.Addr.IsUnspecified())
}

// without returns the Forward without some ports.
func (f Forward) without(excluded []portRange) []Forward {
	if len(excluded) == 0 {
		return []Forward{f}
	}
	var left []Forward
	first := int(f.First)
	piece := func(last int) {
		if first <= last {
			p := f
			p.First, p.Last, p.ToFirst = uint16(first), uint16(last), f.ToFirst+uint16(first)-f.First
			left = append(left, p)
		}
	}
	slices.SortFunc(excluded, func(a, b portRange) int { return int(a.first) - int(b.first) })
	for _, r := range excluded {
		if int(r.last) < first || r.first > f.Last {
			continue
		}
		piece(int(r.first) - 1)
		first = int(r.last) + 1
	}
	piece(int(f.Last))
	return left
}
