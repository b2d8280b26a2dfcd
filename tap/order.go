package tap

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// orderPause is how long the agent is left alone when it has nothing to
	// give, as when descriptors have run out.
	orderPause = 200 * time.Millisecond
)

// talk is the conversation with the agent's process: an order for sockets of a
// family, then its answer. Nobody holds mu for long but the ordering goroutine,
// which waits for answers; others leave it to that one if it is at it.
type talk struct {
	mu      sync.Mutex
	sock    int     // our end, -1: none
	join    *join   // for what to say of failures
	asked   int     // the family whose sockets are on the way, 0: none are
	resting [2]bool // of the families, whether there were none a moment ago
	absent  [2]bool // of the families, whether the kernel has it not
	broken  error   // why it cannot go on
	cookie  uint64  // of the namespace, 0: not known
}

// refill goes on with the conversation when a family's pool is half empty, on
// the goroutine that takes the sockets: it orders what is missing, and takes the
// answer with half of the rest still left. It never waits. To wake the ordering
// goroutine for each batch, and have it wait in system calls, cost an eighth of
// the time of a short connection, a third of it in the runtime's monitor thread
// (make bench ROWS=published-connect-16).
func (a *Agent) refill(family, left int) {
	t := &a.talk
	if !t.mu.TryLock() {
		return
	}
	defer t.mu.Unlock()
	if t.sock < 0 || t.broken != nil || t.resting[familyIndex(family)] {
		return
	}
	if t.asked == 0 {
		if t.ask(family, a.size-left) != nil {
			a.wantMore() // there it is found out why
		}
		return
	}
	if left > a.size/4 {
		return
	}
	n, err := a.collect(unix.MSG_DONTWAIT)
	if err == unix.EAGAIN {
		return
	}
	if t.broken = err; err != nil || n == 0 {
		a.wantMore()
	}
}

// order keeps the pool filled until the agent is silent or ctx ends. It takes
// the socket over.
func (a *Agent) order(ctx context.Context, sock int, j *join) error {
	t := &a.talk
	t.mu.Lock()
	t.sock, t.join = sock, j
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		unix.Close(t.sock) // the agent ends with it
		t.sock = -1
		t.mu.Unlock()
	}()
	wait := time.NewTimer(orderPause)
	defer wait.Stop()
	for {
		rest, err := a.fill(ctx)
		if err != nil {
			return err
		}
		a.becomeReady()
		more := a.short
		if rest {
			wait.Reset(orderPause)
			more = nil
		} else {
			wait.Stop()
		}
		select {
		case <-more:
		case <-wait.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// fill orders until the pool of each family is full or the agent has nothing to
// give, and says whether it had not.
func (a *Agent) fill(ctx context.Context) (rest bool, err error) {
	t := &a.talk
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.broken != nil {
		return false, t.broken
	}
	for f, family := range [2]int{v4: unix.AF_INET, v6: unix.AF_INET6} {
		t.resting[f] = t.absent[f]
		for ctx.Err() == nil && !t.absent[f] {
			if t.asked == 0 {
				want := a.missing(f)
				if want <= 0 {
					break
				}
				if err := t.ask(family, want); err != nil {
					if fault := t.lastWords(); fault != nil {
						return false, fault
					}
					return false, fmt.Errorf("ask for sockets: %w", err)
				}
			}
			n, err := a.collect(0)
			if err != nil {
				return false, err
			}
			if n == 0 {
				t.resting[f], rest = true, rest || !t.absent[f]
				break
			}
		}
	}
	return rest, nil
}

// missing is how many sockets the pool is short of.
func (a *Agent) missing(f int) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.later = false
	return a.size - len(a.pool[f])
}

// ask orders sockets of a family. It does not wait: no other order is unread.
func (t *talk) ask(family, want int) error {
	_, err := unix.Write(t.sock, []byte{byte(family), byte(want)})
	if err == nil {
		t.asked = family
	}
	return err
}

// collect receives what was ordered, adds the sockets that are as they should
// be, and returns how many they were.
func (a *Agent) collect(flags int) (int, error) {
	t := &a.talk
	msg, fds, err := receiveMessage(t.sock, reportLen+1, maxSockets, flags)
	if err == unix.EAGAIN { // the answer may come any moment, see lastWords
		return 0, err
	}
	if err != nil {
		if fault := t.lastWords(); fault != nil {
			return 0, fault
		}
		return 0, fmt.Errorf("receive sockets: %w", err)
	}
	family := t.asked
	t.asked = 0
	if len(msg) == 0 {
		return 0, errSilent
	}
	if len(msg) == reportLen && msg[0] != 0 {
		closeAll(fds)
		return 0, reported(msg, t.join)
	}
	for _, fd := range fds {
		if err := t.check(fd, family); err != nil {
			closeAll(fds)
			return 0, fmt.Errorf("receive sockets: %w", err)
		}
	}
	f := familyIndex(family)
	if len(fds) == 0 && len(msg) == reportLen {
		switch errno := unix.Errno(binary.LittleEndian.Uint16(msg[4:])); errno {
		case 0, unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ENOBUFS: // it passes
		default:
			// A kernel without IPv6, say: the other family goes on.
			t.absent[f] = errno == unix.EAFNOSUPPORT
			a.log.Debug("no sockets of this family", "family", family, "error", errno)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		closeAll(fds)
		return 0, errSilent
	}
	a.pool[f] = append(a.pool[f], fds...)
	return len(fds), nil
}

// lastWords is the report of an agent that failed before its first answer.
func (t *talk) lastWords() error {
	buf := make([]byte, reportLen)
	n, _, err := unix.Recvfrom(t.sock, buf, unix.MSG_DONTWAIT)
	if err != nil || n != reportLen || buf[0] == 0 {
		return nil
	}
	return reported(buf, t.join)
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
