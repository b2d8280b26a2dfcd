package shard

import "fmt"

// Watch is the interest of one handler in one descriptor.
type Watch struct {
	s       *Shard
	fd      int32
	serial  uint32
	handler Handler
}

// Watch starts to deliver events (EPOLL* bits, EPOLLET for edge triggering)
// of fd to h. A descriptor has at most one watch.
func (s *Shard) Watch(fd int, events uint32, h Handler) (*Watch, error) {
	s.serial++
	w := &Watch{s: s, fd: int32(fd), serial: s.serial, handler: h}
	if err := s.poller.Add(fd, events, w.serial); err != nil {
		return nil, fmt.Errorf("watch descriptor %d: %w", fd, err)
	}
	if missing := fd + 1 - len(s.watches); missing > 0 {
		s.watches = append(s.watches, make([]*Watch, missing)...)
	}
	s.watches[fd] = w
	return w, nil
}

// Modify replaces the events of the watch.
func (w *Watch) Modify(events uint32) error {
	return w.s.poller.Modify(int(w.fd), events, w.serial)
}

// SetHandler sends the events that are still to come to another handler.
func (w *Watch) SetHandler(h Handler) { w.handler = h }

// Forget ends the watch of a descriptor that is closed right after: closing
// the last reference takes it out of the kernel's set without another system
// call.
func (w *Watch) Forget() {
	if w.s.watches[w.fd] == w {
		w.s.watches[w.fd] = nil
	}
}

// Close ends the watch and leaves the descriptor open.
func (w *Watch) Close() error {
	if w.s.watches[w.fd] != w {
		return nil
	}
	w.Forget()
	return w.s.poller.Remove(int(w.fd))
}
