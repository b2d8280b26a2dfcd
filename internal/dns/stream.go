package dns

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/shard"
)

const (
	// maxStreamQueries bounds the unanswered queries of one stream. Beyond it the
	// stream is not read until answers have left, and the guest's window closes.
	maxStreamQueries = 16
	// maxTCPQueries bounds those of all streams. With messages of 64 KiB at most,
	// they and their answers take up to 16 MiB.
	maxTCPQueries = 128
)

// stream is one connection of a guest.
type stream struct {
	r     *Resolver
	from  netip.AddrPort // the guest's end
	conn  net.Conn
	slots chan struct{} // taken by the queries under way
}

// Stream opens one DNS-over-TCP connection of a guest at from. It returns a connected
// AF_UNIX SOCK_STREAM descriptor, non-blocking and close-on-exec, which the
// caller owns: what it writes there is what the guest sent, what it reads is
// what the guest gets. A guest's half-close is passed on by shutdown(SHUT_WR);
// the end of the stream shows as end of file. Shard's thread.
//
// Errors: ErrTooManyStreams, ErrClosed, and those of socketpair(2).
func (r *Resolver) Stream(from netip.AddrPort) (fd int, err error) {
	if r.closed {
		return -1, ErrClosed
	}
	if r.streams >= r.cfg.MaxStreams {
		r.stats.Streams++
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
	s := &stream{r: r, from: from, conn: conn, slots: make(chan struct{}, maxStreamQueries)}
	r.streams++
	r.running.Go(s.serve)
	return pair[0], nil
}

// serve ends when the guest has closed its side, has broken the framing or has
// been idle, and has got all its answers.
func (s *stream) serve() {
	stop := context.AfterFunc(s.r.ctx, func() { s.conn.Close() })
	s.read()
	for range cap(s.slots) {
		s.take(s.slots)
	}
	stop()
	s.conn.Close()
	s.r.shard.Post(shard.TaskFunc(func() { s.r.streams-- }))
}

// read posts the guest's queries to the shard.
func (s *stream) read() {
	in := bufio.NewReader(s.conn)
	for {
		s.extend()
		m, err := readMessage(in)
		if err != nil || !isQuery(m) || !s.take(s.slots) || !s.take(s.r.slots) {
			return
		}
		s.r.shard.Post(shard.TaskFunc(func() {
			if !s.r.answerLocally(tcp, m, s.from, netip.AddrPort{}, s.reply) {
				s.r.forward(tcp, m, s.from, netip.AddrPort{}, s.reply)
			}
		}))
	}
}

// take waits for a free slot, and reports false when the resolver is closing.
func (s *stream) take(slots chan struct{}) bool {
	select {
	case slots <- struct{}{}:
		return true
	case <-s.r.ctx.Done():
		return false
	}
}

// extend lets the guest be idle for Config.Idle from now on.
func (s *stream) extend() { s.conn.SetReadDeadline(time.Now().Add(s.r.cfg.Idle)) }

// reply implements Reply.
func (s *stream) reply(_, _ netip.AddrPort, m []byte) {
	framed := frame(m)
	s.r.running.Go(func() { s.write(framed) })
}

// write sends an answer to the guest. The stream ends if the guest does not read it
// within Config.Idle. It runs on a goroutine of its own.
func (s *stream) write(framed []byte) {
	s.conn.SetWriteDeadline(time.Now().Add(s.r.cfg.Idle))
	if _, err := s.conn.Write(framed); err != nil {
		s.conn.Close()
	}
	s.extend()
	<-s.slots
	<-s.r.slots
}
