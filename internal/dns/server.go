package dns

import (
	"net/netip"
	"slices"
	"time"
)

// transport is that of a query and its answer.
type transport uint8

const (
	udp transport = iota
	tcp
)

func (t transport) String() string { return [...]string{"udp", "tcp"}[t] }

// server is one nameserver and its state. It lives as long as resolv.conf names it.
type server struct {
	addr   netip.AddrPort
	health [2]health // by transport
	sock   *socket   // takes new queries; nil: none does
}

// health is how a nameserver has done over one transport. The zero value is
// that of one not yet asked: in favour. Times are the shard's.
type health struct {
	demoted  bool
	answered time.Duration // last answer of any kind
	retryAt  time.Duration // demoted: when to probe it
	penalty  time.Duration
	warned   time.Duration // when its demotion was last logged; 0: never
}

func (h *health) answer(now time.Duration) {
	*h = health{answered: now, warned: h.warned}
}

// probe reports whether it is time to try a demoted server again; if so it doubles
// the pause until the next time. An answer reinstates the server.
func (h *health) probe(now, most time.Duration) bool {
	if !h.demoted || now < h.retryAt {
		return false
	}
	h.penalty = min(2*h.penalty, most)
	h.retryAt = now + h.penalty
	return true
}

// demote notes that a nameserver failed, and logs that it fell out of favour at
// most once a minute.
func (r *Resolver) demote(s *server, via transport, reason string) {
	h := &s.health[via]
	if h.demoted {
		return
	}
	now := r.shard.Now()
	h.demoted, h.penalty, h.retryAt = true, r.cfg.Demotion, now+r.cfg.Demotion
	if h.warned == 0 || now-h.warned >= time.Minute {
		h.warned = now
		r.cfg.Logger.Warn("nameserver is asked last for a while",
			"nameserver", s.addr.Addr().String(), "transport", via.String(), "reason", reason)
	}
}

// refresh updates the list of nameservers from resolv.conf. It checks the file once
// in a turn of the shard. Without a file the list is empty.
func (r *Resolver) refresh() {
	now := r.shard.Now()
	if now == r.refreshed || len(r.cfg.Nameservers) > 0 {
		return
	}
	r.refreshed = now
	if !r.conf.refresh() {
		return
	}
	if err := r.conf.err; err != nil {
		r.cfg.Logger.Warn("no names are resolved, as the host's nameservers cannot be read; put one into the file, and all goes on", "error", err)
	} else {
		r.cfg.Logger.Debug("nameservers", "addresses", r.conf.servers)
	}
	r.use(r.conf.servers)
}

// First is the first nameserver listed, not valid if there is none. Shard's thread.
func (r *Resolver) First() netip.Addr {
	r.refresh()
	if len(r.servers) == 0 {
		return netip.Addr{}
	}
	return r.servers[0].addr.Addr()
}

// use replaces the nameservers. Those that stay keep their state.
func (r *Resolver) use(list []netip.Addr) {
	old := r.servers
	r.servers = make([]*server, 0, len(list))
	for _, a := range list {
		i := slices.IndexFunc(old, func(s *server) bool { return s.addr.Addr() == a })
		if i >= 0 {
			r.servers = append(r.servers, old[i])
		} else {
			r.servers = append(r.servers, &server{addr: netip.AddrPortFrom(a, r.cfg.Port)})
		}
	}
	for _, s := range old {
		if s.sock != nil && !slices.Contains(r.servers, s) {
			s.sock.retire()
		}
	}
}
