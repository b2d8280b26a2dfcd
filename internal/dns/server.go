package dns

import (
	"net/netip"
	"slices"
	"time"
)

// server is one nameserver and what is known of it. It lives as long as
// resolv.conf keeps naming it. Everything but addr is guarded by Resolver.mu.
type server struct {
	addr netip.AddrPort
	udp  health
	tcp  health
	sock *socket // takes new queries; nil: none does
	told time.Time
}

// health is how a nameserver has done over one transport. The zero value is
// that of one not yet asked: in favour.
type health struct {
	demoted  bool
	answered time.Time // last answer of any kind
	retryAt  time.Time // demoted: when to try it beside another
	penalty  time.Duration
}

// silent notes that nothing came in answer to what was sent at the given time.
// It reports whether that demotes the server: an answer to another query in
// between shows that it is slow with one name, not dead.
func (h *health) silent(sent, now time.Time, penalty time.Duration) bool {
	if h.answered.After(sent) {
		return false
	}
	return h.failed(now, penalty)
}

// failed notes a refusal, and reports whether that demotes the server.
func (h *health) failed(now time.Time, penalty time.Duration) bool {
	if h.demoted {
		return false
	}
	*h = health{demoted: true, answered: h.answered, retryAt: now.Add(penalty), penalty: penalty}
	return true
}

func (h *health) answer(now time.Time) {
	*h = health{answered: now}
}

// probe reports whether it is time to try a demoted server again; if so the
// next time is further away, until an answer makes all that moot.
func (h *health) probe(now time.Time, most time.Duration) bool {
	if !h.demoted || now.Before(h.retryAt) {
		return false
	}
	h.penalty = min(2*h.penalty, most)
	h.retryAt = now.Add(h.penalty)
	return true
}

// servers gives the nameservers of the moment in the order of resolv.conf.
func (r *Resolver) servers() ([]*server, error) {
	addrs, err := r.conf.nameservers()
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		if !r.confFailed {
			r.confFailed = true
			r.cfg.Logger.Warn("no resolver configuration, answering SERVFAIL", "error", err)
		}
		return nil, err
	}
	r.confFailed = false
	same := slices.EqualFunc(addrs, r.current, func(a netip.Addr, s *server) bool {
		return a == s.addr.Addr()
	})
	if same {
		return r.current, nil
	}
	list := make([]*server, 0, len(addrs))
	for _, a := range addrs {
		i := slices.IndexFunc(r.current, func(s *server) bool { return s.addr.Addr() == a })
		if i >= 0 {
			list = append(list, r.current[i])
			continue
		}
		list = append(list, &server{addr: netip.AddrPortFrom(a, r.cfg.Port)})
	}
	for _, s := range r.current {
		if s.sock != nil && !slices.Contains(list, s) {
			s.sock.retire()
		}
	}
	r.current = list
	r.cfg.Logger.Debug("nameservers", "addresses", addrs)
	return list, nil
}

// preferred gives the servers in the order in which to ask them: those in
// favour, then the demoted, each in the order of resolv.conf.
func preferred(servers []*server, of func(*server) *health) []*server {
	order := make([]*server, 0, len(servers))
	for _, demoted := range [...]bool{false, true} {
		for _, s := range servers {
			if of(s).demoted == demoted {
				order = append(order, s)
			}
		}
	}
	return order
}

func overUDP(s *server) *health { return &s.udp }
func overTCP(s *server) *health { return &s.tcp }

// tellDemoted logs that a server fell out of favour, at most once a minute for
// each. The caller holds r.mu.
func (r *Resolver) tellDemoted(s *server, transport, why string, now time.Time) {
	if !s.told.IsZero() && now.Sub(s.told) < time.Minute {
		return
	}
	s.told = now
	r.cfg.Logger.Warn("nameserver is asked last for a while",
		"nameserver", s.addr.Addr().String(), "transport", transport, "reason", why)
}
