package gate

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/egress"
	"epiphyte/internal/flow"
	"epiphyte/internal/policy"
)

// Before remembers whom a guest without a policy exchanges datagrams with, so that a gate that
// comes later knows these talks: a mapping does not, it has many peers.
type Before struct {
	most int
	used map[talkKey]time.Duration
}

// NewBefore makes one with room for one of share parts of the talks that a process may remember.
func NewBefore(share int) *Before {
	return &Before{most: part(talksMost, share), used: make(map[talkKey]time.Duration)}
}

// Note notes an allowed request. Only the guest's own datagrams are kept.
func (b *Before) Note(q policy.Request, now time.Duration) {
	if q.Proto == unix.IPPROTO_TCP || q.Origin != flow.FromGuest || q.Direction != policy.Out {
		return
	}
	key := keyOf(q)
	if _, known := b.used[key]; !known && len(b.used) >= b.most {
		for other := range b.used { // a random one gives way
			delete(b.used, other)
			break
		}
	}
	b.used[key] = now
}

// publishedClient is the owner of a flow that knows its client as the host does: the record
// has the address that the guest sees.
type publishedClient interface{ Client() netip.AddrPort }

// adopt makes what the guest had under way before it had a gate known to the gate. It decides
// about none of it.
func (g *Gate) adopt() {
	g.cfg.Table.EachOf(g.cfg.Guest, func(f *flow.Flow) {
		switch client, ok := f.Owner.(publishedClient); {
		case f.Kind == flow.Mapping: // its datagrams are talks
		case f.Kind == flow.Session && ok:
			q := policy.Request{
				Guest: f.Guest, Direction: policy.In, Origin: f.Origin, Proto: f.Proto, Src: client.Client(), Dst: f.Src,
			}
			w := &watch{g: g, flow: g.flowIn(q), verdict: egress.Verdict{Allow: true, Reason: egress.ByDefault}, request: q}
			w.Flow(f, f.Src)
		default:
			g.older[f] = struct{}{}
			f.Ended = func(time.Duration) { delete(g.older, f) }
		}
	})
	if g.cfg.Before == nil {
		return
	}
	now := g.cfg.Shard.Now()
	for key, used := range g.cfg.Before.used {
		q := policy.Request{Guest: g.cfg.Guest, Origin: flow.FromGuest, Proto: key.proto, Src: key.src, Dst: key.dst}
		if j := g.judge(q); now-used < talkIdle && j.decision.Action == policy.Allow {
			g.talks.add(&talk{g: g, key: key, to: j.decision.To, flow: j.flow, request: q, used: used})
		}
	}
	g.cfg.Before = nil
}
