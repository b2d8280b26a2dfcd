package dns

import (
	"net/netip"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
)

// A guest that asks often does not have every query wait for a look at the file.
func TestB28_BusyGuestFollowsTheFile(t *testing.T) {
	port := freePort(t, "127.0.0.1", "127.0.0.2")
	serve(t, "127.0.0.1", port, says("192.0.2.1"))
	serve(t, "127.0.0.2", port, says("192.0.2.2"))
	r := start(t, Config{Port: port}, "127.0.0.1")
	const long = time.Hour // however long the test takes, it is one window
	r.do(func() { r.lookout.window = r.shard.Now() + long })
	for range 3 * lookQuota {
		wantA(t, r, "192.0.2.1")
	}
	r.do(func() {
		if n := r.lookout.started; n != lookQuota {
			t.Errorf("%d looks, want %d", n, lookQuota)
		}
	})
	writeConf(t, r.cfg.ResolvConf, "127.0.0.2")
	r.advance(long + lookWindow)
	wantA(t, r, "192.0.2.2")
}

// Queries that come together share looks, and none is content with one that
// had begun before it came.
func TestB28_QueriesShareLooks(t *testing.T) {
	port := freePort(t, "127.0.0.1")
	serve(t, "127.0.0.1", port, says("192.0.2.1"))
	r := start(t, Config{Port: port}, "127.0.0.1")
	const queries = 100
	got := make(chan []byte, queries)
	q := pack(t, query("name.example.", mdns.TypeA))
	submit := func() {
		if !r.Resolver.Submit(q, guestAt(), dnsAt(), func(_, _ netip.AddrPort, m []byte) { got <- append([]byte(nil), m...) }) {
			t.Error("query refused")
		}
	}
	r.conf.mu.Lock() // holds the first look
	r.do(func() {
		for range queries / 2 {
			submit()
		}
	})
	r.do(func() {
		for range queries / 2 {
			submit()
		}
	})
	r.conf.mu.Unlock()
	for range queries {
		checkA(t, unpack(t, <-got), "192.0.2.1")
	}
	r.do(func() {
		if n := r.lookout.started; n != 2 {
			t.Errorf("%d looks, want 2", n)
		}
		if r.lookout.ended != 2 || len(r.lookout.waiting) != 0 {
			t.Errorf("%d looks ended, %d queries wait", r.lookout.ended, len(r.lookout.waiting))
		}
	})
}

// A file system that hangs costs the guest a while, not the names that are
// served by nameservers known already.
func TestB28_HangingFileSystem(t *testing.T) {
	port := freePort(t, "127.0.0.1")
	serve(t, "127.0.0.1", port, says("192.0.2.1"))
	cfg := Config{Port: port, Retry: 20 * time.Millisecond, Timeout: time.Second}

	r := start(t, cfg, "127.0.0.1")
	r.conf.mu.Lock()
	if a := ask(t, r, query("name.example.", mdns.TypeA)); a.Rcode != mdns.RcodeServerFailure {
		t.Errorf("got %v, want SERVFAIL", a)
	}
	r.conf.mu.Unlock()
	wantA(t, r, "192.0.2.1")

	r.conf.mu.Lock()
	wantA(t, r, "192.0.2.1")
	wantA(t, r, "192.0.2.1")
	r.do(func() {
		if n := r.lookout.started - r.lookout.ended; n != 1 {
			t.Errorf("%d looks hang, want 1", n)
		}
		if len(r.lookout.waiting) != 0 {
			t.Errorf("%d queries wait", len(r.lookout.waiting))
		}
	})
	r.conf.mu.Unlock()
	wantA(t, r, "192.0.2.1")
}
