package dns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"
)

var errNoServer = errors.New("no nameserver can be reached")

// dialResult is a connection and the nameserver it leads to, with those that
// failed before it; or an error.
type dialResult struct {
	conn   net.Conn
	srv    *server
	failed []*server
	err    error
}

// dialFirst connects to the first of the servers that lets it. The next one is
// tried when the one before has failed, or has been silent for Config.Retry;
// the earlier attempts go on meanwhile, and the first to succeed wins.
func (r *Resolver) dialFirst(ctx context.Context, servers []*server) dialResult {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	results := make(chan dialResult)
	running := 0
	var failed []*server
	stagger := time.NewTimer(0)
	defer stagger.Stop()
	for next := 0; next < len(servers) || running > 0; {
		select {
		case <-stagger.C:
			if next == len(servers) {
				continue
			}
			if next > 0 && running > 0 {
				r.demoteTCP(servers[next-1], "no answer")
			}
			srv := servers[next]
			next++
			running++
			stagger.Reset(r.cfg.Retry)
			go func() {
				conn, err := r.dial(ctx, srv)
				results <- dialResult{conn: conn, srv: srv, err: err}
			}()
		case d := <-results:
			running--
			if d.err == nil {
				cancel()
				for range running {
					if late := <-results; late.err == nil {
						late.conn.Close()
					}
				}
				d.failed = failed
				return d
			}
			failed = append(failed, d.srv)
			if ctx.Err() == nil {
				r.demoteTCP(d.srv, d.err.Error())
			}
			stagger.Reset(0)
		}
	}
	return dialResult{err: errNoServer}
}

// demoteTCP notes that a nameserver failed over TCP.
func (r *Resolver) demoteTCP(srv *server, why string) {
	r.mu.Lock()
	demoted := srv.tcp.failed(r.sinceStart(), r.cfg.Demotion)
	r.mu.Unlock()
	if demoted {
		r.tellDemoted(srv, "tcp", why)
	}
}

// dial connects to one server, from the configured source.
func (r *Resolver) dial(ctx context.Context, srv *server) (net.Conn, error) {
	from, _, err := r.cfg.Source.For(srv.addr.Addr())
	if err != nil {
		return nil, err
	}
	var d net.Dialer
	if from.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	return d.DialContext(ctx, "tcp", srv.addr.String())
}
