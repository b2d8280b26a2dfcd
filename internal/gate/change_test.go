package gate

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"epiphyte/internal/egress"
	"epiphyte/internal/flow"
	"epiphyte/internal/policy"
)

// TestSet: what was allowed goes on under another policy, or ends if that says so and
// denies it; its counters begin anew, and what waits is decided by the new one.
func TestSet(t *testing.T) {
	r := newRig(t, "allow a.example\nallow b.example\nallow 203.0.113.9\n")
	a, b := netip.AddrPortFrom(r.addr("a.example"), 443), netip.AddrPortFrom(r.addr("b.example"), 443)
	var waits policy.Decision
	r.out(unix.IPPROTO_TCP, 1, b).Pending.Then(func(d policy.Decision) { waits = d })
	r.zone = map[string][]string{"a.example. A": {"60 IN A 203.0.113.1"}}
	conns := []*owner{r.begin(r.out(unix.IPPROTO_TCP, 2, a)), r.begin(r.out(unix.IPPROTO_TCP, 3, netip.MustParseAddrPort("203.0.113.9:22")))}
	r.out(unix.IPPROTO_UDP, 4, a)
	ended := func() (list []bool) {
		for _, o := range conns {
			list = append(list, o.ended)
		}
		return append(list, r.out(unix.IPPROTO_UDP, 4, a).Action != policy.Allow)
	}
	if c := r.Counts(); c.Rules[0] != 2 || c.Rules[2] != 1 || c.Denied != 0 {
		t.Errorf("counted %+v", c)
	}
	r.Set(r.parse("allow c.example\n"))
	if got := ended(); slices.Contains(got, true) {
		t.Errorf("with flows keep, ended: %v", got)
	}
	if c := r.Counts(); len(c.Rules) != 1 || c.Rules[0] != 0 || c.Denied != 0 {
		t.Errorf("counted %+v", c)
	}
	r.answerAll(map[string][]string{"b.example. A": {"60 IN A 203.0.113.1"}})
	if waits.Action != policy.Refuse || r.Counts().Denied != 1 {
		t.Errorf("what waited: %+v, counted %+v", waits, r.Counts())
	}
	r.Set(r.parse("allow a.example:80\nallow 203.0.113.0/24:22\nflows kill\n"))
	if got := ended(); !slices.Equal(got, []bool{true, false, true}) {
		t.Errorf("with flows kill, ended: %v", got)
	}
	for _, rec := range r.log {
		if rec.Protocol == "tcp" && rec.Name == "a.example" && rec.Verdict == egress.Denied && rec.Reason == egress.ByDefault {
			return
		}
	}
	t.Errorf("the end is not recorded: %+v", r.log)
}

// TestSetWhileWaiting: a flow that waits for a name, of its server or of a proxy, is decided by
// the policy that is in force once that is found, also if it then waits for another.
func TestSetWhileWaiting(t *testing.T) {
	const byProxy = "allow a.example via socks5://proxy.corp.test:1080\n"
	zone := map[string][]string{
		"a.example. A": {"60 IN A 203.0.113.1"}, "proxy.corp.test. A": {"60 IN A 203.0.113.8"}, "other.corp.test. A": {"60 IN A 203.0.113.9"},
	}
	for _, tt := range []struct {
		name, before, after string
		action              policy.Action
		to                  string
		by                  bool // a proxy
	}{
		{"the same", byProxy, byProxy, policy.Allow, "203.0.113.8:1080", true},
		{"denied", byProxy, "deny a.example\n", policy.Refuse, "", false},
		{"by none", byProxy, "allow a.example\n", policy.Allow, "203.0.113.1:443", false},
		{"by another", byProxy, "allow a.example via http-connect://other.corp.test:3128\n", policy.Allow, "203.0.113.9:3128", true},
		{"by a proxy", "allow a.example\n", byProxy, policy.Allow, "203.0.113.8:1080", true},
		{"name denied", "allow a.example\n", "allow b.example\n", policy.Refuse, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, tt.before)
			d := r.out(unix.IPPROTO_TCP, 1, netip.AddrPortFrom(r.addr("a.example"), 443))
			if d.Action != policy.Wait {
				t.Fatalf("%+v, want to wait", d)
			}
			var got []policy.Decision
			d.Pending.Then(func(d policy.Decision) { got = append(got, d) })
			r.Set(r.parse(tt.after))
			r.answerAll(zone)
			if len(got) != 1 {
				t.Fatalf("%d decisions: %+v", len(got), got)
			}
			if d := got[0]; d.Action != tt.action || tt.to != "" && d.To != netip.MustParseAddrPort(tt.to) || (d.Proxy != nil) != tt.by {
				t.Errorf("%+v", d)
			}
			if c := r.Counts(); (c.Denied == 1) != (tt.action == policy.Refuse) || c.Denied == 0 && c.Rules[0] != 1 {
				t.Errorf("counted %+v", c)
			}
		})
	}
}

// TestSetEndsClients: likewise those of published ports, two of which may lead one client
// to one server.
func TestSetEndsClients(t *testing.T) {
	r := newRig(t, "allow in from 203.0.113.0/24\n")
	in := func(from string) policy.Decision {
		return r.Decide(policy.Request{
			Origin: flow.FromPublished, Direction: policy.In, Proto: unix.IPPROTO_UDP,
			Src: netip.MustParseAddrPort(from), Dst: netip.MustParseAddrPort("10.0.2.100:80"),
		})
	}
	begin := func(from string) *owner {
		d, o := in(from), new(owner)
		f := &flow.Flow{Owner: o, Kind: flow.Session, Origin: flow.FromPublished, Proto: unix.IPPROTO_UDP, FD: -1,
			Src: d.To, Remote: netip.MustParseAddrPort(from)}
		r.table.Add(f)
		d.Watch.Flow(f, d.To)
		return o
	}
	clients := []*owner{begin("203.0.113.1:1"), begin("203.0.113.200:1"), begin("203.0.113.200:1")}
	if n := r.Counts().Rules[0]; n != 3 {
		t.Errorf("%d flows are counted", n)
	}
	r.Set(r.parse("allow in from 203.0.113.0/25\n"))
	for from, want := range map[string]policy.Action{"203.0.113.1:1": policy.Allow, "203.0.113.200:1": policy.Allow, "203.0.113.200:2": policy.Refuse} {
		if d := in(from); d.Action != want {
			t.Errorf("with flows keep, %s: %v", from, d.Action)
		}
	}
	r.Set(r.parse("allow in from 203.0.113.0/25\nflows kill\n"))
	if clients[0].ended || !clients[1].ended || !clients[2].ended {
		t.Errorf("ended: %v, %v, %v", clients[0].ended, clients[1].ended, clients[2].ended)
	}
	if d := in("203.0.113.200:1"); d.Action != policy.Refuse {
		t.Errorf("with flows kill: %+v", d)
	}
}

// TestPins: a real address is allowed for the names that it was the answer for, by their
// rules, for as long as the answer lives, and its traffic is for one of them.
func TestPins(t *testing.T) {
	r := newRig(t, "names pin\nallow a.example:443\nallow b.example:443,80\ndeny c.example\n")
	r.zone = map[string][]string{"a.example. A": {"10 IN A 203.0.113.1"}, "b.example. A": {"100 IN A 203.0.113.1", "100 IN A 192.0.2.1"}}
	to := netip.MustParseAddrPort("203.0.113.1:443")
	if d := r.out(unix.IPPROTO_TCP, 1, to); d.Action != policy.Refuse {
		t.Errorf("before it was asked for: %+v", d)
	}
	for _, name := range []string{"a.example.", "b.example."} {
		q, err := new(dns.Msg).SetQuestion(name, dns.TypeA).Pack()
		if err != nil {
			t.Fatal(err)
		}
		upstream, finish := r.Rewrite(q, netip.AddrPort{}, false)
		r.Ask(upstream, false, func(response []byte) { finish(response) })
	}
	for dst, want := range map[string]policy.Action{
		"203.0.113.1:443": policy.Allow, "203.0.113.1:80": policy.Allow, "203.0.113.1:22": policy.Refuse, "203.0.113.2:443": policy.Refuse,
		"192.0.2.1:443": policy.Refuse, // the host's own
	} {
		if d := r.out(unix.IPPROTO_TCP, 1, netip.MustParseAddrPort(dst)); d.Action != want {
			t.Errorf("%s: %+v", dst, d)
		}
	}
	for host, want := range map[string]policy.Sight{"a.example": policy.Passed, "b.example": policy.Passed, "c.example": policy.Forbidden, "d.example": policy.Forbidden} {
		d := r.out(unix.IPPROTO_TCP, 1, to)
		if got := d.Watch.Sees([]byte("GET / HTTP/1.1\r\nHost: "+host+"\r\n\r\n"), false); got != want {
			t.Errorf("a request for %s: %v", host, got)
		}
	}
	r.pass(egress.MinPin + time.Second)
	if d := r.out(unix.IPPROTO_TCP, 1, netip.MustParseAddrPort("203.0.113.1:80")); d.Action != policy.Allow {
		t.Errorf("after 31 s, b.example: %+v", d)
	}
	r.pass(100 * time.Second)
	if d := r.out(unix.IPPROTO_TCP, 1, to); d.Action != policy.Refuse {
		t.Errorf("after its time: %+v", d)
	}
}
