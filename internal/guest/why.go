package guest

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"epiphyte/internal/egress"
	"epiphyte/internal/flow"
	"epiphyte/internal/policy"
)

// Why is what would happen to a flow of the guest's.
type Why struct {
	Decision   policy.Decision // of the rules; of a name: to allow
	Verdict    *egress.Verdict // of the policy; nil: there is none, or it was not asked
	Learned    bool            // what Verdict denies passes, because of learn
	NameServer netip.Addr      // the host's first one; not valid: there is none
}

// Why says what would happen to a flow out of the guest, or with Members out of the member
// of, which is otherwise nil. Nothing is sent, counted or kept. It waits for the shard as
// Flows does.
func (g *Guest) Why(of *flow.Guest, f egress.Flow) (why Why) {
	proto, ok := map[egress.Proto]uint8{egress.TCP: unix.IPPROTO_TCP, egress.UDP: unix.IPPROTO_UDP}[f.Proto]
	if !ok {
		proto = unix.IPPROTO_ICMP
		if f.Addr.Is6() {
			proto = unix.IPPROTO_ICMPV6
		}
	}
	g.ask(func(w *worker) {
		if w != g.workers[0] {
			return
		}
		if g.resolver != nil {
			why.NameServer = g.resolver.First()
		}
		x := w.gate
		if g.members != nil {
			x = g.members.gates[of]
		}
		q := policy.Request{Guest: of, Origin: flow.FromGuest, Proto: proto, Dst: netip.AddrPortFrom(f.Addr, f.Port)}
		switch {
		case f.Name != "" && x != nil:
			v := x.JudgeName(f)
			why.Decision.Action, why.Verdict = policy.Allow, &v
		case f.Name != "":
			why.Decision.Action = policy.Allow
		case x != nil:
			why.Decision, why.Verdict = x.Judge(q)
		default:
			why.Decision = w.rules.Decide(q)
		}
		why.Learned = why.Verdict != nil && x.Policy().Passes(*why.Verdict)
	})
	return why
}
