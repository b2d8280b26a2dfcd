package main

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long a stream may take, on a machine that is busy with other work.
const patience = 2 * time.Minute

// kind is how a stream goes.
type kind uint8

const (
	both   kind = iota // bytes both ways at once, each end of stream for itself
	answer             // the server answers the end of the question
	echo               // message by message
	resetUp
	resetDown
	kinds
)

func (k kind) String() string {
	return [...]string{"both ways", "question and answer", "echo", "reset by the client", "reset by the server"}[k]
}

// order is what a client begins a stream with.
type order struct {
	Kind     kind
	ID       uint64
	Up, Down uint32 // bytes to send, at most; Down is not for echo
	Pause    uint16 // milliseconds for which each reader stops once
}

// anyOrder is mostly small, at times megabytes, and seldom has readers stop.
func anyOrder(r *rand.Rand) order {
	size := func() uint32 { return uint32(r.IntN(1 + 1<<r.IntN(24))) }
	o := order{Kind: kind(r.IntN(int(kinds))), ID: r.Uint64(), Up: size(), Down: size()}
	if r.IntN(10) == 0 {
		o.Pause = uint16(r.IntN(3000))
	}
	return o
}

func (o order) pause() time.Duration { return time.Duration(o.Pause) * time.Millisecond }

// bytes that the exchange carries if nobody resets it.
func (o order) bytes() uint64 {
	if o.Kind == echo {
		return 2 * uint64(o.Up)
	}
	return uint64(o.Up) + uint64(o.Down)
}

// ask is the client's part, order included.
func (o order) ask(c *net.TCPConn) error {
	defer c.Close()
	var head bytes.Buffer
	_ = binary.Write(&head, binary.BigEndian, o) // a buffer does not fail
	if _, err := c.Write(head.Bytes()); err != nil {
		return fmt.Errorf("write order: %w", err)
	}
	out, in := newPattern(o.ID, up), newPattern(o.ID, down)
	switch o.Kind {
	case both:
		return o.atOnce(c, out, int(o.Up), in, int(o.Down))
	case answer:
		return errors.Join(sendAll(c, out, int(o.Up)), in.whole(c, int(o.Down), o.pause()))
	case echo:
		return o.converse(c)
	case resetUp:
		// Before this byte the server might not have heard of us.
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			return fmt.Errorf("read greeting: %w", err)
		}
		return errors.Join(out.send(c, int(o.Up)), c.SetLinger(0))
	default:
		return untilReset(c, in, int(o.Down), o.pause())
	}
}

// serve is the server's part, once the order is read. The caller closes c.
func (o order) serve(c *net.TCPConn) error {
	in, out := newPattern(o.ID, up), newPattern(o.ID, down)
	switch o.Kind {
	case both:
		return o.atOnce(c, out, int(o.Down), in, int(o.Up))
	case answer:
		return errors.Join(in.whole(c, int(o.Up), o.pause()), sendAll(c, out, int(o.Down)))
	case echo:
		// Between bare connections io.Copy would splice.
		if _, err := io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c}); err != nil {
			return fmt.Errorf("echo: %w", err)
		}
		return c.CloseWrite()
	case resetUp:
		if _, err := c.Write([]byte{1}); err != nil {
			return fmt.Errorf("greet: %w", err)
		}
		return untilReset(c, in, int(o.Up), o.pause())
	case resetDown:
		return errors.Join(out.send(c, int(o.Down)), c.SetLinger(0))
	}
	return fmt.Errorf("an order of kind %d", o.Kind)
}

// atOnce sends and reads at the same time.
func (o order) atOnce(c *net.TCPConn, out pattern, send int, in pattern, read int) error {
	var sent error
	var wg sync.WaitGroup
	wg.Go(func() { sent = sendAll(c, out, send) })
	err := in.whole(c, read, o.pause())
	wg.Wait()
	return errors.Join(err, sent)
}

// converse sends messages and waits for each to come back.
func (o order) converse(c *net.TCPConn) error {
	const most = 4 << 10
	p := newPattern(o.ID, up)
	got := make([]byte, most)
	for left := int(o.Up); left > 0; {
		b := p.next(min(left, 1+left%most))
		if _, err := c.Write(b); err != nil {
			return fmt.Errorf("write message: %w", err)
		}
		if _, err := io.ReadFull(c, got[:len(b)]); err != nil {
			return fmt.Errorf("read echo: %w", err)
		}
		if !bytes.Equal(got[:len(b)], b) {
			return fmt.Errorf("echo of %d bytes: %w", len(b), errWrong)
		}
		left -= len(b)
	}
	if err := c.CloseWrite(); err != nil {
		return err
	}
	return p.whole(c, 0, 0)
}

func sendAll(c *net.TCPConn, p pattern, n int) error {
	if err := p.send(c, n); err != nil {
		return err
	}
	return c.CloseWrite()
}

// untilReset reads what was sent before a reset, of which any part may be missing.
func untilReset(c *net.TCPConn, p pattern, n int, pause time.Duration) error {
	if got, err := p.prefix(c, n, pause); !errors.Is(err, unix.ECONNRESET) {
		return fmt.Errorf("read %d bytes, want a reset: %w", got, err)
	}
	return nil
}

// ledger brings the server's verdict on an order to its client.
type ledger struct {
	mu      sync.Mutex
	waiting map[uint64]chan error // guarded by mu
}

func newLedger() *ledger { return &ledger{waiting: map[uint64]chan error{}} }

// open is called before the order is sent; done ends the wait.
func (l *ledger) open(id uint64) (verdict <-chan error, done func()) {
	ch := make(chan error, 1)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting[id] = ch
	return ch, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.waiting, id)
	}
}

func (l *ledger) settle(id uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ch := l.waiting[id]; ch != nil {
		delete(l.waiting, id) // there is one verdict
		ch <- err
	}
}

// run carries an order out on a connection, and wants both ends to be content.
func (l *ledger) run(o order, c *net.TCPConn, verdict <-chan error) error {
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	asked := o.ask(c)
	wait := patience
	if asked != nil {
		wait = time.Second // it may know why, or may not have heard of us
	}
	served := errors.New("has not seen the end")
	select {
	case served = <-verdict:
	case <-time.After(wait):
	}
	if asked == nil && served == nil {
		return nil
	}
	return fmt.Errorf("%+v: client: %w; server: %w", o, cmp.Or(asked, errContent), cmp.Or(served, errContent))
}

// errContent stands for the end that has nothing to complain of.
var errContent = errors.New("content")

// handle serves one connection.
func (l *ledger) handle(c *net.TCPConn) {
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return
	}
	var o order
	if err := binary.Read(c, binary.BigEndian, &o); err != nil {
		return // the client tells
	}
	err := o.serve(c)
	c.Close() // by a reset, if it is so ordered, before the client hears of it
	l.settle(o.ID, err)
}
