package gate

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/egress"
	"epiphyte/internal/flow"
	"epiphyte/internal/policy"
)

// TestLookupIsKept: a name is asked for when it is connected to, once for all that wait and
// for as long as the answer says, also where it has addresses of one family only.
func TestLookupIsKept(t *testing.T) {
	r := newRig(t, "allow a.example:443\n")
	to := netip.AddrPortFrom(r.addr("a.example"), 443)
	var late []policy.Decision
	for port := range uint16(3) {
		d := r.out(unix.IPPROTO_TCP, port, to)
		if d.Action != policy.Wait {
			t.Fatalf("%+v", d)
		}
		d.Pending.Then(func(d policy.Decision) { late = append(late, d) })
	}
	if len(r.asked) != 2 {
		t.Fatalf("%d questions, want one for each family", len(r.asked))
	}
	r.answerAll(map[string][]string{"a.example. A": {"20 IN A 203.0.113.1", "20 IN A 203.0.113.2", "20 IN A 10.0.0.1"}})
	if len(late) != 3 || late[0].To.String() != "203.0.113.1:443" || fmt.Sprint(late[0].Others) != "[203.0.113.2:443]" {
		t.Fatalf("decided: %+v", late)
	}
	r.zone = nil
	r.pass(19 * time.Second)
	if d := r.out(unix.IPPROTO_TCP, 4, to); d.Action != policy.Allow {
		t.Errorf("within its time: %+v", d)
	}
	r.pass(2 * time.Second)
	if d := r.out(unix.IPPROTO_TCP, 5, to); d.Action != policy.Wait || len(r.asked) != 2 {
		t.Errorf("after its time: %+v, %d questions", d, len(r.asked))
	}
}

// TestLookupLeadsToTheGuestsFamilyFirst: and to the other then.
func TestLookupLeadsToTheGuestsFamilyFirst(t *testing.T) {
	r := newRig(t, "allow a.example:443\n")
	r.zone = map[string][]string{
		"a.example. A": {"60 IN A 203.0.113.1", "60 IN A 203.0.113.2"}, "a.example. AAAA": {"60 IN AAAA 2001:db8:9::1"},
	}
	b := r.names.Find(r.addr("a.example"))
	for dst, want := range map[netip.Addr]string{
		b.Addr4(): "203.0.113.1:443 [203.0.113.2:443 [2001:db8:9::1]:443]",
		b.Addr6(): "[2001:db8:9::1]:443 [203.0.113.1:443 203.0.113.2:443]",
	} {
		d := r.out(unix.IPPROTO_TCP, 1, netip.AddrPortFrom(dst, 443))
		if got := fmt.Sprint(d.To, " ", d.Others); got != want {
			t.Errorf("%v leads to %s, want %s", dst, got, want)
		}
	}
}

// TestLookupFails: where a name leads nowhere the guest is told so, and asks again after
// a second.
func TestLookupFails(t *testing.T) {
	r := newRig(t, "allow a.example:443\n")
	r.zone = map[string][]string{}
	to := netip.AddrPortFrom(r.addr("a.example"), 443)
	if d := r.out(unix.IPPROTO_TCP, 1, to); d.Action != policy.Refuse || d.Errno != unix.EHOSTUNREACH {
		t.Errorf("%+v", d)
	}
	r.zone = map[string][]string{"a.example. AAAA": {"60 IN AAAA 2001:db8:9::1"}}
	if d := r.out(unix.IPPROTO_TCP, 2, to); d.Action != policy.Refuse {
		t.Errorf("at once again: %+v", d)
	}
	r.pass(minKept)
	if d := r.out(unix.IPPROTO_TCP, 3, to); d.Action != policy.Allow || d.To.String() != "[2001:db8:9::1]:443" {
		t.Errorf("after a second: %+v", d)
	}
}

// TestLookupsAreBounded: flows to names that nobody answers for wait in bounds, for one
// name and for all; those beyond are refused, and all are decided in the end.
func TestLookupsAreBounded(t *testing.T) {
	r := newRig(t, "default allow\n")
	waiting, refused, decided := 0, 0, 0
	for n := range 2 * waitAll / waitMost {
		to := netip.AddrPortFrom(r.addr(fmt.Sprintf("n%d.example", n)), 443)
		for port := range uint16(waitMost + 10) {
			switch d := r.out(unix.IPPROTO_TCP, port, to); d.Action {
			case policy.Wait:
				waiting++
				d.Pending.Then(func(policy.Decision) { decided++ })
			case policy.Refuse:
				refused++
			}
		}
	}
	if waiting != waitAll || waiting+refused != 2*waitAll/waitMost*(waitMost+10) {
		t.Errorf("%d wait, %d are refused", waiting, refused)
	}
	r.answerAll(map[string][]string{})
	if decided != waiting || r.look.waiting != 0 {
		t.Errorf("%d of %d are decided, %d still count", decided, waiting, r.look.waiting)
	}
}

// TestLookupAgainByTCP: an answer that did not fit is asked for by TCP.
func TestLookupAgainByTCP(t *testing.T) {
	r := newRig(t, "allow a.example:443\n")
	to := netip.AddrPortFrom(r.addr("a.example"), 443)
	d := r.out(unix.IPPROTO_TCP, 1, to)
	truncated := r.asked[0].query
	truncated.Response, truncated.Truncated = true, true
	b, err := truncated.Pack()
	if err != nil {
		t.Fatal(err)
	}
	first := r.asked
	r.asked = nil
	first[0].reply(b)
	if len(r.asked) != 1 || !r.asked[0].stream {
		t.Fatalf("asked again: %+v", r.asked)
	}
	r.asked = append(r.asked, first[1])
	var late policy.Decision
	d.Pending.Then(func(d policy.Decision) { late = d })
	r.answerAll(map[string][]string{"a.example. A": {"60 IN A 203.0.113.1"}})
	if late.Action != policy.Allow {
		t.Errorf("%+v", late)
	}
}

// TestNamesInUseStay: however many names a guest asks for, those of its flows keep their
// addresses, and the host's own address is not had through a translator.
func TestNamesInUseStay(t *testing.T) {
	r := newRig(t, "default allow\n", func(cfg *Config) { cfg.Memory = NewMemory(egress.MaxNames / 64) })
	r.zone = map[string][]string{
		"a.example. A": {"60 IN A 203.0.113.1"}, "b.example. A": {"60 IN A 203.0.113.1"},
		"host.example. AAAA": {"60 IN AAAA 64:ff9b::c000:201"},
	}
	a, b := netip.AddrPortFrom(r.addr("a.example"), 443), netip.AddrPortFrom(r.addr("b.example"), 443)
	conn := r.begin(r.out(unix.IPPROTO_TCP, 1, a))
	r.out(unix.IPPROTO_UDP, 2, b)
	gone := r.addr("unused.example")
	for i := range 1000 {
		r.addr(fmt.Sprintf("n%d.example", i))
	}
	if r.addr("a.example") != a.Addr() || r.addr("b.example") != b.Addr() || r.names.Find(gone) != nil {
		t.Error("a name lost its address to others though it has flows, or one without did not")
	}
	r.table.Each(flow.Conn, r.table.End)
	for i := range 100 {
		r.addr(fmt.Sprintf("m%d.example", i))
	}
	if !conn.ended || r.names.Find(a.Addr()) != nil {
		t.Error("a name whose flows are over keeps its address")
	}
	if d := r.out(unix.IPPROTO_TCP, 3, netip.AddrPortFrom(r.addr("host.example"), 443)); d.Action != policy.Refuse || d.Errno != unix.EACCES {
		t.Errorf("the host behind a translator: %+v", d)
	}
}
