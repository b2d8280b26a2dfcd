package forwarder

import (
	"epiphyte/internal/relay"
	"epiphyte/internal/sockio"
	"epiphyte/stack"
)

// Append describes dials and mappings. Established connections are the
// relay's. Shard's thread only.
func (f *Forwarder) Append(list []relay.Info) []relay.Info {
	now := f.shard.Now()
	for _, d := range f.dials.byKey {
		i := relay.Info{Proto: "tcp", Guest: d.syn.Src, Remote: d.syn.Dst, Host: sockio.LocalAddr(d.fd), State: "connecting"}
		if d.connected {
			i.State = "handshake"
		}
		i.Fill(&relay.Counters{Begun: d.begun, Last: d.begun}, now)
		list = append(list, i)
	}
	for _, m := range f.mappings.byKey {
		i := relay.Info{Proto: "udp", Guest: m.key.guest, Host: sockio.LocalAddr(m.fd), State: "mapped"}
		if m.key.proto != stack.ProtoUDP {
			i.Proto = "icmp"
		}
		m.counters.Last = m.lastUsed
		i.Fill(&m.counters, now)
		list = append(list, i)
	}
	return list
}
