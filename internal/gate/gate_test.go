package gate

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"epiphyte/internal/addressing/addressingtest"
	"epiphyte/internal/egress"
	"epiphyte/internal/flow"
	"epiphyte/internal/policy"
	"epiphyte/internal/shard"
)

// TestRulesComeFirst: what they close is not opened by a name.
func TestRulesComeFirst(t *testing.T) {
	s, err := shard.New(shard.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	p, err := egress.Parse(egress.Source{File: "policy", Text: "allow a.example\n"})
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		rules policy.Rules
		want  policy.Decision
	}{
		"no rule":     {policy.Rules{}, policy.Decision{Action: policy.Refuse, Errno: unix.EHOSTUNREACH}}, // there is no resolver
		"no UDP":      {policy.Rules{DisableUDP: true}, policy.Decision{}},
		"no ways out": {policy.Rules{Internal: true}, policy.Decision{Action: policy.Refuse, Errno: unix.ENETUNREACH}},
	} {
		rules := tt.rules
		rules.Plan = addressingtest.New(t)
		g := New(Config{Rules: &rules, IsOwn: rules.Plan.IsOwn, Policy: p, Shard: s, Table: flow.New(s, flow.Limits{})})
		b := g.names.Bind("a.example", egress.Verdict{Allow: true}, 0)
		for _, addr := range []netip.Addr{b.Addr4(), b.Addr6()} {
			d := g.Decide(policy.Request{
				Origin: flow.FromGuest, Proto: unix.IPPROTO_UDP,
				Src: netip.AddrPortFrom(netip.MustParseAddr("10.0.2.100"), 4000), Dst: netip.AddrPortFrom(addr, 80),
			})
			if d.Action != tt.want.Action || d.Errno != tt.want.Errno {
				t.Errorf("%s, %v: %v %v, want %v %v", name, addr, d.Action, d.Errno, tt.want.Action, tt.want.Errno)
			}
		}
		g.Close()
	}
}
