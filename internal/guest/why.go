package guest

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"epiphyte/internal/egress"
	"epiphyte/internal/flow"
	"epiphyte/internal/policy"
)

// Why is what would become of a flow of the guest's.
type Why struct {
	Decision   policy.Decision // of the rules; of a name: to allow
	Verdict    *egress.Verdict // of the policy; nil: there is none, or it was not asked
	NameServer netip.Addr      // the host's first one; not valid: there is none
}

// Why says what would become of a flow out of the guest. Nothing is sent, counted or kept.
// It waits for the shard as Flows does. Not with Members.
func (g *Guest) Why(f egress.Flow) (why Why) {
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
		q := policy.Request{Origin: flow.FromGuest, Proto: proto, Dst: netip.AddrPortFrom(f.Addr, f.Port)}
		switch {
		case f.Name != "" && w.gate != nil:
			v := w.gate.JudgeName(f)
			why.Decision.Action, why.Verdict = policy.Allow, &v
		case f.Name != "":
			why.Decision.Action = policy.Allow
		case w.gate != nil:
			why.Decision, why.Verdict = w.gate.Judge(q)
		default:
			why.Decision = w.rules.Decide(q)
		}
	})
	return why
}
