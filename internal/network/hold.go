package network

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/bypass"
)

// Holder is the member's side: it keeps the membership, whatever becomes of the network's
// processes.
type Holder struct {
	own     Handover
	member  Member // as it was granted
	log     *slog.Logger
	taken   *os.File // a policy received since joining; nil: none
	splicer splicer

	cancel context.CancelFunc
	done   chan struct{} // closed when hold has returned
	ended  chan struct{} // closed when the network has removed the member

	mu     sync.Mutex
	client *Client
}

// Pauses between tries to join again: the network starts within milliseconds, or somebody
// has to mend something first.
const (
	firstPause = 20 * time.Millisecond
	lastPause  = 2 * time.Second
)

// Hold keeps a membership that c.Join has granted, and takes c over. What was handed over
// must stay open until Close.
func Hold(c *Client, own Handover, granted Member, log *slog.Logger) *Holder {
	ctx, cancel := context.WithCancel(context.Background())
	h := &Holder{
		own: own, member: granted, log: log, client: c,
		cancel: cancel, done: make(chan struct{}), ended: make(chan struct{}),
	}
	h.splicer.tell = h.tell
	go h.hold(ctx)
	return h
}

// Ended is closed when the network has removed the member.
func (h *Holder) Ended() <-chan struct{} { return h.ended }

// Close leaves the network. Connections to neighbours that the member has ended may take
// windUpFor for what it has sent.
func (h *Holder) Close() error {
	h.splicer.windUp()
	h.cancel()
	h.mu.Lock()
	h.client.Close()
	h.mu.Unlock()
	<-h.done
	return nil
}

// hold waits for the end of the connection, and joins again.
func (h *Holder) hold(ctx context.Context) {
	defer close(h.done)
	defer func() {
		h.client.Close()
		h.splicer.close()
		if h.taken != nil {
			h.taken.Close()
		}
	}()
	for {
		var unasked reply
		fds, err := receive(h.client.conn, &unasked)
		if err == nil {
			if unasked.Removed {
				close(h.ended)
				return
			}
			h.hear(&unasked, fds)
			continue
		}
		if errors.Is(err, unix.EMFILE) { // what came was closed, and with it its connection
			h.log.Warn("a connection to a neighbour is lost", "error", err)
			continue
		}
		if ctx.Err() != nil {
			return
		}
		h.log.Warn("the network's process has ended; joining again")
		if !h.rejoin(ctx) {
			return
		}
		h.log.Info("joined the network again")
	}
}

// hear does what the network's process has sent unasked. All else answers what tell has sent.
func (h *Holder) hear(r *reply, fds []int) {
	switch {
	case r.Policy != "" && len(fds) == 1:
		h.takePolicy(r.Policy, fds[0])
		return
	case r.Take != nil && len(fds) == 2:
		if err := h.splicer.take(*r.Take, fds); err != nil {
			h.log.Warn("a connection to a neighbour cannot be carried", "error", err)
		}
		return
	case r.End != nil:
		h.splicer.end(*r.End)
	case r.List:
		h.splicer.tellAll()
	}
	closeAll(fds)
}

// tell tells the network's process about connections. The answer is empty.
func (h *Holder) tell(op operation, connections []bypass.Pair) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.client.conn.SetWriteDeadline(time.Now().Add(otherPatience))
	return send(h.client.conn, request{Op: op, Connections: connections})
}

// takePolicy replaces the policy with which the member would join again.
func (h *Holder) takePolicy(name string, fd int) {
	if h.taken != nil {
		h.taken.Close()
	}
	h.taken = os.NewFile(uintptr(fd), "policy")
	h.own.Policy, h.member.Policy = h.taken, name
}

// rejoin tries until the member has joined again, and returns false when ctx has ended.
func (h *Holder) rejoin(ctx context.Context) bool {
	said := ""
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		c, _, err := Open(ctx, h.client.path, h.client.start)
		if err == nil {
			if _, _, err = c.Join(ctx, h.member, h.own); err == nil {
				h.mu.Lock()
				h.client.Close()
				h.client = c
				h.mu.Unlock()
				h.splicer.tellAll()
				return ctx.Err() == nil
			}
			c.Close()
		}
		if text := err.Error(); ctx.Err() == nil && text != said {
			said = text
			h.log.Warn("cannot join the network again yet", "error", err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return false
		}
	}
}
