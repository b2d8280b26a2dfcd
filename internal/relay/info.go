package relay

import (
	"net/netip"
	"time"

	"epiphyte/internal/sockio"
)

// Info describes one flow to a person. All kinds of flow, not only this
// package's, are described by it.
type Info struct {
	Proto string // tcp, udp or icmp
	Guest netip.AddrPort
	// Remote is the far end as the guest knows it; not valid where there are
	// many. Of icmp the port is the echo identifier, on the guest's side.
	Remote netip.AddrPort
	Host   netip.AddrPort // our socket on the host; not valid if it has no address
	State  string
	In     uint64 // bytes towards the guest
	Out    uint64 // bytes from the guest
	Age    time.Duration
	Idle   time.Duration // since the last byte
}

// Counters are what a flow remembers of itself to be described.
type Counters struct {
	In, Out     uint64
	Begun, Last time.Duration // of the shard's clock
}

// Fill copies the counters, as of now.
func (i *Info) Fill(c *Counters, now time.Duration) {
	i.In, i.Out, i.Age, i.Idle = c.In, c.Out, now-c.Begun, now-c.Last
}

// Append describes every flow. Shard's thread only.
func (r *Relay) Append(list []Info) []Info {
	now := r.shard.Now()
	for fl := range r.flows {
		i := Info{
			Proto:  "tcp",
			Guest:  fl.conn.RemoteAddr(),
			Remote: fl.conn.LocalAddr(),
			Host:   sockio.LocalAddr(fl.fd),
			State:  fl.state(),
		}
		i.Fill(&fl.counters, now)
		list = append(list, i)
	}
	for s := range r.splices {
		list = append(list, s.info())
	}
	return list
}

func (fl *Flow) state() string {
	switch {
	case fl.guestDone:
		return "guest closed"
	case fl.hostDone:
		return "host closed"
	default:
		return "established"
	}
}
