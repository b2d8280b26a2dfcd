package dns

import (
	"net/netip"
	"slices"
	"time"
)

// server is one nameserver and what is known of it. It lives as long as
// resolv.conf keeps naming it.
type server struct {
	addr netip.AddrPort

	udp  health  // the shard's, as sock is
	sock *socket // takes new queries; nil: none does

	tcp  health    // guarded by Resolver.mu, as told is
	told time.Time // of the last warning
}

// health is how a nameserver has done over one transport. The zero value is
// that of one not yet asked: in favour. Times are the shard's over UDP, and
// since the resolver's start over TCP.
type health struct {
	demoted  bool
	answered time.Duration // last answer of any kind
	retryAt  time.Duration // demoted: when to try it beside another
	penalty  time.Duration
}

// silent notes that nothing came in answer to what was sent at the given time.
// It reports whether that demotes the server: an answer to another query in
// between shows that it is slow with one name, not dead.
func (h *health) silent(sent, now, penalty time.Duration) bool {
	if h.answered > sent {
		return false
	}
	return h.failed(now, penalty)
}

// failed notes a refusal, and reports whether that demotes the server.
func (h *health) failed(now, penalty time.Duration) bool {
	if h.demoted {
		return false
	}
	*h = health{demoted: true, answered: h.answered, retryAt: now + penalty, penalty: penalty}
	return true
}

func (h *health) answer(now time.Duration) {
	*h = health{answered: now}
}

// probe reports whether it is time to try a demoted server again; if so the
// next time is further away, until an answer makes all that moot.
func (h *health) probe(now, most time.Duration) bool {
	if !h.demoted || now < h.retryAt {
		return false
	}
	h.penalty = min(2*h.penalty, most)
	h.retryAt = now + h.penalty
	return true
}

// nameservers looks at resolv.conf and gives the nameservers of the moment in
// its order. It may wait for a file system: not on the shard's thread.
func (r *Resolver) nameservers() ([]*server, error) {
	addrs, err := r.conf.nameservers()
	r.mu.Lock()
	news := r.confFailed != (err != nil)
	r.confFailed = err != nil
	r.mu.Unlock()
	if err != nil {
		if news {
			r.cfg.Logger.Warn("no resolver configuration, answering SERVFAIL", "error", err)
		}
		return nil, err
	}
	list, changed := r.servers(addrs)
	if changed {
		r.cfg.Logger.Debug("nameservers", "addresses", addrs)
	}
	return list, nil
}

// servers gives the servers at the addresses, those known already as they are,
// and reports whether they are others than at the last look.
func (r *Resolver) servers(addrs []netip.Addr) (list []*server, changed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	same := slices.EqualFunc(addrs, r.named, func(a netip.Addr, s *server) bool {
		return a == s.addr.Addr()
	})
	if same {
		return r.named, false
	}
	list = make([]*server, 0, len(addrs))
	for _, a := range addrs {
		i := slices.IndexFunc(r.named, func(s *server) bool { return s.addr.Addr() == a })
		if i >= 0 {
			list = append(list, r.named[i])
			continue
		}
		list = append(list, &server{addr: netip.AddrPortFrom(a, r.cfg.Port)})
	}
	r.named = list
	return list, true
}

// preferredTCP gives the servers in the order in which to ask them over TCP:
// those in favour, then the demoted, each in the order of resolv.conf.
func (r *Resolver) preferredTCP(servers []*server) []*server {
	r.mu.Lock()
	defer r.mu.Unlock()
	order := make([]*server, 0, len(servers))
	for _, demoted := range [...]bool{false, true} {
		for _, s := range servers {
			if s.tcp.demoted == demoted {
				order = append(order, s)
			}
		}
	}
	return order
}

// demoteUDP notes that a nameserver failed over UDP. Shard's thread.
func (r *Resolver) demoteUDP(s *server, why error) {
	if s.udp.failed(r.shard.Now(), r.cfg.Demotion) {
		r.tellDemoted(s, "udp", why.Error())
	}
}

// tellDemoted logs that a server fell out of favour, at most once a minute for
// each.
func (r *Resolver) tellDemoted(s *server, transport, why string) {
	now := time.Now()
	r.mu.Lock()
	recent := !s.told.IsZero() && now.Sub(s.told) < time.Minute
	if !recent {
		s.told = now
	}
	r.mu.Unlock()
	if !recent {
		r.cfg.Logger.Warn("nameserver is asked last for a while",
			"nameserver", s.addr.Addr().String(), "transport", transport, "reason", why)
	}
}
