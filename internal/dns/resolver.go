package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

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
	ResolvConf string           // default /etc/resolv.conf
	Port       uint16           // of the nameservers; default 53
	Logger     *slog.Logger     // default: discard
	Source     *outbound.Source // of the sockets; nil: the kernel chooses

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
	// with each vain try to 16 times its value. Default 10 s.
	Demotion time.Duration

	// Idle is how long a stream may have nothing to do before it is closed;
	// default 10 s. RFC 7766, section 6.2.3 wants "a few seconds".
	Idle time.Duration

	MaxInFlight int // queries over UDP not yet answered; default 1024
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

// Resolver forwards DNS messages to the host's nameservers. It belongs to the
// shard's thread, but for what its streams share.
type Resolver struct {
	cfg     Config
	shard   *shard.Shard
	lookout lookout
	active  []*exchange // each knows its place
	spare   []*exchange
	sockets map[*socket]struct{}
	ids     randomIDs
	batch   sockio.Batch
	closed  bool

	// For goroutines: those that look at resolv.conf and those of streams.
	conf    resolvConf
	start   time.Time
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup

	// Never held for longer than a moment, not while a warning is written
	// either: the shard's thread takes it too.
	mu         sync.Mutex
	named      []*server // guarded by mu, as are those below: at the last look of anybody
	confFailed bool
	ending     bool
	streams    int
}

// New makes a resolver. Nothing is read or opened before the first query. Close
// ends it.
func New(cfg Config) *Resolver {
	cfg = cfg.withDefaults()
	r := &Resolver{
		cfg:     cfg,
		shard:   cfg.Shard,
		sockets: make(map[*socket]struct{}),
		conf:    resolvConf{path: cfg.ResolvConf},
		start:   time.Now(),
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

// sinceStart is the time of the goroutines.
func (r *Resolver) sinceStart() time.Duration { return time.Since(r.start) }

// Submit takes one query as it came in a UDP datagram, between addresses that
// mean nothing here. It copies the query and never blocks. Shard's thread.
//
// reply is called at most once, at once or later. It is never called when the
// query is dropped: because it is none (shorter than a header, or a response),
// or because the resolver is closed.
//
// False means that MaxInFlight queries are waiting already, or that the
// resolver is closed; the query is dropped.
func (r *Resolver) Submit(query []byte, from, to netip.AddrPort, reply Reply) bool {
	if !isQuery(query) {
		return true
	}
	if r.closed || len(r.active) >= r.cfg.MaxInFlight {
		return false
	}
	x := r.begin(query, from, to, reply)
	if !r.lookout.needsLook(r.shard.Now()) {
		x.start()
		return true
	}
	x.arm(min(r.cfg.Retry, r.cfg.Timeout))
	r.await(x)
	return true
}

// Stream opens one DNS-over-TCP connection of a guest. It gives a connected
// AF_UNIX SOCK_STREAM descriptor, non-blocking and close-on-exec, which the
// caller owns: what it writes there is what the guest sent, what it reads is
// what the guest gets. A guest's half-close is passed on by shutdown(SHUT_WR);
// the end of the stream shows as end of file.
//
// Errors: ErrTooManyStreams, ErrClosed, and those of socketpair(2).
func (r *Resolver) Stream() (fd int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ending {
		return -1, ErrClosed
	}
	if r.streams >= r.cfg.MaxStreams {
		return -1, ErrTooManyStreams
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open DNS stream: %w", err)
	}
	file := os.NewFile(uintptr(pair[1]), "dns stream")
	conn, err := net.FileConn(file)
	file.Close()
	if err != nil {
		unix.Close(pair[0])
		return -1, fmt.Errorf("open DNS stream: %w", err)
	}
	r.streams++
	r.running.Add(1)
	go r.serveStream(conn)
	return pair[0], nil
}

// Close drops everything in flight and returns when all goroutines have ended
// and all descriptors but those given out by Stream are closed. No reply is
// called afterwards. The shard must have stopped serving.
func (r *Resolver) Close() error {
	r.mu.Lock()
	r.ending = true
	r.mu.Unlock()
	r.closed = true
	r.cancel()
	for len(r.active) > 0 {
		r.active[0].drop()
	}
	for s := range r.sockets {
		s.close()
	}
	r.running.Wait()
	return nil
}
