package gate

import (
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"epiphyte/internal/egress"
	"epiphyte/internal/egress/egresstest"
	"epiphyte/internal/flow"
	"epiphyte/internal/policy"
)

// TestDecideAndJudgeAgree: what Decide comes to and what Judge says it would, for each golden
// case, is what the policy says, or they agree that the rules have decided before it.
func TestDecideAndJudgeAgree(t *testing.T) {
	for _, c := range egresstest.Cases(t, "../egress/testdata") {
		if c.Flow.Direction == egress.In {
			continue // which nobody asks Judge about
		}
		r := newRig(t, "", func(cfg *Config) {
			cfg.Policy = c.Policy
			cfg.IsHost = func(a netip.Addr) bool { return c.Flow.Host && a == c.Flow.Addr }
			cfg.IsMember = func(a netip.Addr) bool { return c.Flow.Member && a == c.Flow.Addr }
		})
		q := r.request(c.Flow)
		d, v := r.Judge(q)
		if v == nil {
			if got := r.Decide(q); got.Action != d.Action || got.Errno != d.Errno {
				t.Errorf("%s: decided %+v, judged %+v", c.Where, got, d)
			}
			continue
		}
		decided, judged := r.decided(q), egresstest.Said(*v)
		if decided != c.Want {
			t.Errorf("%s: decided: %s", c.Where, decided)
		}
		// Where a name leads is looked up by Decide alone.
		led := v.Allow && c.Flow.Name != "" && c.Flow.Addr.IsValid() && strings.HasPrefix(c.Want, "deny ")
		if judged != c.Want && !led {
			t.Errorf("%s: judged: %s", c.Where, judged)
		}
	}
}

// request is that of a flow, whose name the guest has the address of, and which leads to the
// flow's address, or to one on the Internet.
func (r *rig) request(f egress.Flow) policy.Request {
	to := f.Addr
	if f.Name != "" {
		if !to.IsValid() {
			to = netip.MustParseAddr("203.0.113.200")
		}
		b := r.names.Bind(f.Name, egress.Verdict{Allow: true}, 0)
		kind, dst := "A", b.Addr4()
		if to.Is6() {
			kind, dst = "AAAA", b.Addr6()
		}
		r.zone = map[string][]string{
			f.Name + ". " + kind:     {"60 IN " + kind + " " + to.String()},
			"proxy.corp.internal. A": {"60 IN A 203.0.113.201"},
		}
		to = dst
	}
	proto := map[egress.Proto]uint8{egress.TCP: unix.IPPROTO_TCP, egress.UDP: unix.IPPROTO_UDP, egress.ICMP: unix.IPPROTO_ICMP}[f.Proto]
	return policy.Request{
		Origin: flow.FromGuest, Proto: proto,
		Src: netip.MustParseAddrPort("10.0.2.100:4000"), Dst: netip.AddrPortFrom(to, f.Port),
	}
}

// decided is what Decide has come to, as it was recorded or as a connection's watch has it.
func (r *rig) decided(q policy.Request) string {
	d := r.Decide(q)
	if w, ok := d.Watch.(*watch); ok && d.Action == policy.Allow {
		return egresstest.Said(w.verdict)
	}
	if len(r.log) != 1 {
		return "not recorded"
	}
	last := r.log[0]
	_, place, _ := strings.Cut(last.Rule, ":")
	line, _, _ := strings.Cut(place, ":")
	if last.Reason != egress.ByRule {
		return last.Verdict + " " + string(last.Reason)
	}
	return last.Verdict + " " + line
}
