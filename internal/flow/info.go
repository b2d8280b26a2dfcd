package flow

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/sockio"
)

// Info describes one flow to a person.
type Info struct {
	Guest  string // the guest's name, empty where there is one guest
	Proto  string // tcp, udp or icmp
	Origin Origin
	Src    netip.AddrPort // see Flow
	Remote netip.AddrPort
	Host   netip.AddrPort // our socket on the host; not valid if it has no address
	State  State
	In     uint64 // bytes towards the guest
	Out    uint64 // bytes from the guest
	Age    time.Duration
	Idle   time.Duration // since the last byte
}

// Append describes every flow.
func (t *Table) Append(list []Info) []Info {
	now := t.shard.Now()
	for k := range kinds {
		t.Each(k, func(f *Flow) { list = append(list, f.info(now)) })
	}
	return list
}

func (f *Flow) info(now time.Duration) Info {
	i := Info{
		Origin: f.Origin, Src: f.Src, Remote: f.Remote, State: f.State,
		In: f.In, Out: f.Out, Age: now - f.begun, Idle: now - f.used,
	}
	switch f.Proto {
	case unix.IPPROTO_TCP:
		i.Proto = "tcp"
	case unix.IPPROTO_UDP:
		i.Proto = "udp"
	default:
		i.Proto = "icmp"
	}
	if f.Guest != nil {
		i.Guest = f.Guest.Name
	}
	if f.FD >= 0 {
		i.Host = sockio.LocalAddr(f.FD)
	}
	return i
}

// Totals sums up the connections so far, those that have not ended included.
func (t *Table) Totals() Totals {
	sum := t.totals
	for _, k := range [...]Kind{Conn, Exposed} {
		t.Each(k, func(f *Flow) {
			sum.In += f.In
			sum.Out += f.Out
		})
	}
	return sum
}
