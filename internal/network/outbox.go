package network

import (
	"sync"
	"time"
)

// outbox sends messages in order, and without making the caller wait: a receiver that has been
// stopped does not read.
type outbox struct {
	mu      sync.Mutex
	waiting []message
	sending bool
}

// message is one of an outbox.
type message struct {
	send func() error
	sent func(error) // called with the outcome; nil: nobody wants to know
}

// post sends m after all that was posted before, on a goroutine of tasks.
func (o *outbox) post(tasks *sync.WaitGroup, m message) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.waiting = append(o.waiting, m)
	if !o.sending {
		o.sending = true
		tasks.Go(o.sendAll)
	}
}

func (o *outbox) sendAll() {
	for {
		o.mu.Lock()
		if len(o.waiting) == 0 {
			o.sending = false
			o.mu.Unlock()
			return
		}
		next := o.waiting[0]
		o.waiting = o.waiting[1:]
		o.mu.Unlock()
		err := next.send()
		if next.sent != nil {
			next.sent(err)
		}
	}
}

// sendUnasked sends a member's client a message with descriptors, which stay the caller's until
// sent is called, if it is not nil.
func (w *Worker) sendUnasked(m *membership, r reply, sent func(error), fds ...int) {
	m.outbox.post(&w.tasks, message{sent: sent, send: func() error {
		m.conn.SetWriteDeadline(time.Now().Add(otherPatience))
		defer m.conn.SetWriteDeadline(time.Time{})
		return send(m.conn, r, fds...)
	}})
}

// sendUnaskedNow waits until the message was sent.
func (w *Worker) sendUnaskedNow(m *membership, r reply, fds ...int) error {
	sent := make(chan error, 1)
	w.sendUnasked(m, r, func(err error) { sent <- err }, fds...)
	return <-sent
}
