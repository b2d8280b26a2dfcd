package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/outbound"
)

// Errors of Stream.
var (
	ErrClosed         = errors.New("resolver is closed")
	ErrTooManyStreams = errors.New("too many DNS streams")
)

// Config says where queries go and what they may cost. Zero fields mean the
// defaults given with each.
type Config struct {
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

// Resolver forwards DNS messages to the host's nameservers. Its methods may be
// called from any goroutine.
type Resolver struct {
	cfg      Config
	conf     resolvConf
	now      func() time.Time
	inbox    chan *exchange
	inFlight atomic.Int64
	buffers  sync.Pool // *[maxMessage]byte
	ctx      context.Context
	cancel   context.CancelFunc
	running  sync.WaitGroup

	mu         sync.Mutex
	closed     bool // guarded by mu, as are those below
	current    []*server
	confFailed bool
	sockets    map[*socket]struct{}
	active     map[*exchange]struct{}
	finished   []finished // replies to be called once mu is free

	// Apart from mu, which is held while a socket is opened or a warning
	// written: Stream is called from the data path.
	streamMu sync.Mutex
	ending   bool // guarded by streamMu
	streams  int  // guarded by streamMu
}

type finished struct {
	reply func([]byte)
	resp  []byte
}

// New makes a resolver and starts its dispatcher; Close ends it. Nothing is
// read or opened before the first query.
func New(cfg Config) *Resolver {
	cfg = cfg.withDefaults()
	r := &Resolver{
		cfg:     cfg,
		conf:    resolvConf{path: cfg.ResolvConf},
		now:     time.Now,
		inbox:   make(chan *exchange, cfg.MaxInFlight),
		buffers: sync.Pool{New: func() any { return new([maxMessage]byte) }},
		sockets: make(map[*socket]struct{}),
		active:  make(map[*exchange]struct{}),
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.running.Add(1)
	go r.dispatch()
	return r
}

// Submit takes one query as it came in a UDP datagram. It copies the query,
// opens nothing and never blocks.
//
// reply is called at most once, from another goroutine, with an answer that is
// the callee's to keep; it must not block. It is never called when the query is
// dropped: because it is none (shorter than a header, or a response), or because
// the resolver is closed.
//
// False means that MaxInFlight queries are waiting already, or that the
// resolver is closed; the query is dropped.
func (r *Resolver) Submit(query []byte, reply func(resp []byte)) bool {
	if !isQuery(query) {
		return true
	}
	if r.ctx.Err() != nil {
		return false
	}
	if r.inFlight.Add(1) > int64(r.cfg.MaxInFlight) {
		r.inFlight.Add(-1)
		return false
	}
	// inbox has room for every query in flight.
	r.inbox <- newExchange(r, query, reply)
	return true
}

// dispatch starts the exchanges. It is apart from Submit because looking at
// resolv.conf may wait for a file system.
func (r *Resolver) dispatch() {
	defer r.running.Done()
	for {
		select {
		case <-r.ctx.Done():
			return
		case x := <-r.inbox:
			servers, err := r.servers()
			r.mu.Lock()
			if err != nil {
				x.finish(servFail(x.query))
			} else {
				x.start(servers)
			}
			r.unlock()
		}
	}
}

// unlock releases mu and then calls the replies that became due under it.
func (r *Resolver) unlock() {
	due := r.finished
	r.finished = nil
	r.mu.Unlock()
	for _, f := range due {
		f.reply(f.resp)
	}
}

// Stream opens one DNS-over-TCP connection of a guest. It gives a connected
// AF_UNIX SOCK_STREAM descriptor, non-blocking and close-on-exec, which the
// caller owns: what it writes there is what the guest sent, what it reads is
// what the guest gets. A guest's half-close is passed on by shutdown(SHUT_WR);
// the end of the stream shows as end of file.
//
// Errors: ErrTooManyStreams, ErrClosed, and those of socketpair(2).
func (r *Resolver) Stream() (fd int, err error) {
	r.streamMu.Lock()
	defer r.streamMu.Unlock()
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
// called afterwards. It must not be called from a reply.
func (r *Resolver) Close() error {
	r.streamMu.Lock()
	r.ending = true
	r.streamMu.Unlock()
	r.mu.Lock()
	r.closed = true
	r.cancel()
	for x := range r.active {
		x.drop()
	}
	for s := range r.sockets {
		s.abandon()
	}
	r.mu.Unlock()
	r.running.Wait()
	return nil
}
