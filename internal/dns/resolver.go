package dns

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"epiphyte/internal/outbound"
	"epiphyte/internal/shard"
	"epiphyte/internal/sockio"
)

// Errors of Stream.
var (
	ErrClosed         = errors.New("resolver is closed")
	ErrTooManyStreams = errors.New("too many DNS streams")
)

// Config says where queries go and what they may cost. Shard is required; other
// zero fields mean the defaults given with each.
type Config struct {
	Shard      *shard.Shard
	ResolvConf string // default /etc/resolv.conf
	// Nameservers, if there are any, are asked and ResolvConf is not read.
	Nameservers []netip.Addr
	Port        uint16           // of the nameservers; default 53
	Logger      *slog.Logger     // default: discard
	Source      *outbound.Source // of the sockets; nil: the kernel chooses

	// Local answers queries from a table of its own, before any nameserver is
	// asked; ok is false for those to be forwarded. It is called on the shard's
	// thread for each query, of either transport, must not block and must not
	// keep or change query. The answer is copied. from is the guest's address as
	// given to Submit or Stream; stream says that the answer may have any length.
	// Default nil: every query is forwarded.
	Local func(query []byte, from netip.AddrPort, stream bool) (answer []byte, ok bool)

	// Rewrite returns the query to ask nameservers instead, and a function that makes the
	// answer from the response to it. It is called under the rules of Local. If finish is
	// nil the query is sent unchanged. Default nil.
	Rewrite func(query []byte, from netip.AddrPort, stream bool) (upstream []byte, finish func(response []byte) (answer []byte))

	// Retry is how long one nameserver may stay silent before the next is
	// asked too; default 800 ms, so that the second one's answer is there
	// within 2 s. With more than four nameservers it is shortened to ask all
	// of them within Timeout.
	Retry time.Duration

	// Timeout is how long the guest waits at most before it gets SERVFAIL;
	// default 4.5 s. The stub resolvers of glibc, musl and systemd give up on
	// a server, or on the name, after 5 s.
	Timeout time.Duration

	// Demotion is how long a silent nameserver is not tried again; it doubles
	// with each failed try, up to 16 times its value. Default 10 s.
	Demotion time.Duration

	// Idle is how long a stream may have nothing to do before it is closed;
	// default 10 s. RFC 7766, section 6.2.3 wants "a few seconds".
	Idle time.Duration

	MaxInFlight int // queries not yet answered, beyond which those over UDP are dropped; default 1024
	MaxStreams  int // default 128
}

func (c Config) withDefaults() Config {
	def := func(d *time.Duration, value time.Duration) {
		if *d <= 0 {
			*d = value
		}
	}
	if c.ResolvConf == "" {
		c.ResolvConf = "/etc/resolv.conf"
	}
	if c.Port == 0 {
		c.Port = 53
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	def(&c.Retry, 800*time.Millisecond)
	def(&c.Timeout, 4500*time.Millisecond)
	def(&c.Demotion, 10*time.Second)
	def(&c.Idle, 10*time.Second)
	if c.MaxInFlight <= 0 {
		c.MaxInFlight = 1024
	}
	if c.MaxStreams <= 0 {
		c.MaxStreams = 128
	}
	return c
}

// Reply takes the answer to a query, with the addresses given to Submit. It is
// called on the shard's thread; response is overwritten after the call.
type Reply = func(from, to netip.AddrPort, response []byte)

// Stats count queries since the start.
type Stats struct {
	Answered uint64 // by a nameserver
	Failed   uint64 // no nameserver answered, or none but with a failure
	Local    uint64 // answered here, by Config.Local
	Dropped  uint64 // there were too many
	Streams  uint64 // connections of the guest that were refused, as there were too many
}

// Stats must be called on the shard's thread.
func (r *Resolver) Stats() Stats { return r.stats }

// Resolver forwards DNS messages to the host's nameservers. It belongs to the
// shard's thread, except for the fields that its goroutines use.
type Resolver struct {
	cfg   Config
	shard *shard.Shard

	conf      resolvConf
	refreshed time.Duration // when conf was last checked
	servers   []*server     // in the order of conf

	stats    Stats
	inFlight int         // exchanges
	spare    []*exchange // for the next queries over UDP
	sockets  map[*socket]struct{}
	ids      randomIDs
	batch    sockio.Batch
	streams  int
	closed   bool

	// For the goroutines of streams and connections.
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
	slots   chan struct{} // taken by the queries over TCP under way
}

// New makes a resolver. Nothing is read or opened before the first query. Close
// ends it.
func New(cfg Config) *Resolver {
	cfg = cfg.withDefaults()
	r := &Resolver{
		cfg:       cfg,
		shard:     cfg.Shard,
		conf:      resolvConf{path: cfg.ResolvConf},
		refreshed: -1,
		sockets:   make(map[*socket]struct{}),
		slots:     make(chan struct{}, maxTCPQueries),
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.use(cfg.Nameservers[:min(len(cfg.Nameservers), maxServers)])
	return r
}

// Submit takes one query as it came in a UDP datagram, between addresses that
// mean nothing here. It copies the query and never blocks. Shard's thread.
//
// reply is called at most once, at once or later. It is never called when the
// query is dropped: because it is none (shorter than a header, or a response),
// or because the resolver is closed.
//
// False means that MaxInFlight queries are waiting already and this one would have
// to wait as well, or that the resolver is closed; the query is dropped.
func (r *Resolver) Submit(query []byte, from, to netip.AddrPort, reply Reply) bool {
	switch {
	case !isQuery(query):
		return true
	case r.closed:
		return false
	case r.answerLocally(udp, query, from, to, reply):
		return true
	case r.inFlight >= r.cfg.MaxInFlight:
		r.stats.Dropped++
		return false
	}
	r.forward(udp, query, from, to, reply)
	return true
}

// answerLocally reports whether the local table had the answer.
func (r *Resolver) answerLocally(via transport, query []byte, from, to netip.AddrPort, reply Reply) bool {
	if r.cfg.Local == nil {
		return false
	}
	answer, ok := r.cfg.Local(query, from, via == tcp)
	if ok {
		r.stats.Local++
		reply(from, to, answer)
	}
	return ok
}

// Ask asks nameservers a query of our own, over TCP if stream says so, without Local and
// Rewrite. reply is called once, at once or later, with a response that is overwritten
// after the call; false: the resolver is overloaded or closed, and reply is never called.
// Shard's thread.
func (r *Resolver) Ask(query []byte, stream bool, reply func(response []byte)) bool {
	if r.closed || r.inFlight >= r.cfg.MaxInFlight {
		return false
	}
	via := udp
	if stream {
		select {
		case r.slots <- struct{}{}:
		default:
			return false
		}
		via = tcp
	}
	r.refresh()
	r.begin(via, query, netip.AddrPort{}, netip.AddrPort{}, func(_, _ netip.AddrPort, response []byte) {
		if stream {
			<-r.slots
		}
		reply(response)
	}).start()
	return true
}

// forward begins an exchange with nameservers.
func (r *Resolver) forward(via transport, query []byte, from, to netip.AddrPort, reply Reply) {
	if r.cfg.Rewrite != nil {
		if upstream, finish := r.cfg.Rewrite(query, from, via == tcp); finish != nil {
			query = upstream
			passOn := reply
			reply = func(from, to netip.AddrPort, response []byte) { passOn(from, to, finish(response)) }
		}
	}
	r.refresh()
	r.begin(via, query, from, to, reply).start()
}

// Close drops everything in flight and returns when all goroutines have ended
// and all descriptors but those given out by Stream are closed. No reply is
// called afterwards. The shard must have stopped serving.
func (r *Resolver) Close() error {
	r.closed = true
	r.cancel()
	for s := range r.sockets {
		s.close()
	}
	r.running.Wait()
	return nil
}
