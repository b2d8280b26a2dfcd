package hostnet

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"epiphyte/internal/rtnetlink"
	"epiphyte/internal/shard"
)

// lookEvery is the least time between two looks at the host's network.
const lookEvery = 100 * time.Millisecond

// changes are the multicast groups of what Main depends on.
const changes = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE

// Config of a Watcher.
type Config struct {
	// Interface, if not empty, is the one whose addresses are the host's main ones,
	// while it has any.
	Interface string
}

// Watcher follows the host's network. Attach and what follows belong to a shard's thread.
type Watcher struct {
	cfg           Config
	events, asked *rtnetlink.Conn
	first         *Network
	main          [2]atomic.Pointer[netip.Addr] // of IPv4, IPv6
	own           atomic.Pointer[map[netip.Addr]bool]

	shard  *shard.Shard
	watch  *shard.Watch
	timer  shard.Timer
	looked time.Duration // when, by the shard's clock
	stale  bool          // something has changed since
}

// Open opens the sockets in the calling thread's network namespace and reads the network. The
// caller closes the Watcher when the shard has stopped.
func Open(cfg Config) (_ *Watcher, err error) {
	w := &Watcher{cfg: cfg, looked: -lookEvery}
	if w.events, err = rtnetlink.Open(changes); err != nil {
		return nil, err
	}
	if w.asked, err = rtnetlink.Open(0); err != nil {
		w.events.Close()
		return nil, err
	}
	strict(w.asked)
	if w.first, err = read(w.asked); err != nil {
		w.Close()
		return nil, err
	}
	w.take(w.first)
	return w, nil
}

// Network is the host's network when the Watcher was opened.
func (w *Watcher) Network() *Network { return w.first }

// Main is the host's main address of a family now, not valid if it has none; see
// Network.Main. Before Attach it is that of Network. Any goroutine may call it.
func (w *Watcher) Main(v6 bool) netip.Addr { return *w.main[index(v6)].Load() }

// Has reports whether an address is one of the host's now, of those that a Network lists. Any
// goroutine may call it.
func (w *Watcher) Has(a netip.Addr) bool { return (*w.own.Load())[a] }

func index(v6 bool) int {
	if v6 {
		return 1
	}
	return 0
}

func (w *Watcher) take(n *Network) {
	for _, v6 := range [...]bool{false, true} {
		a := n.Main(v6, w.cfg.Interface)
		w.main[index(v6)].Store(&a)
	}
	own := make(map[netip.Addr]bool, len(n.Addresses))
	for _, a := range n.Addresses {
		own[a.Prefix.Addr()] = true
	}
	w.own.Store(&own)
}

// Attach has a shard follow changes.
func (w *Watcher) Attach(s *shard.Shard) (err error) {
	w.shard = s
	if w.watch, err = s.Watch(w.events.FD, unix.EPOLLIN, w); err != nil {
		return fmt.Errorf("follow the host's network: %w", err)
	}
	return nil
}

// Close closes the sockets.
func (w *Watcher) Close() error {
	if w.watch != nil {
		w.watch.Forget()
	}
	return errors.Join(w.events.Close(), w.asked.Close())
}

// readMax bounds the messages read in a turn; epoll reports the rest again.
const readMax = 64

// Ready implements shard.Handler. It looks again only when no message is left: once some were
// lost, the kernel silently drops others until all have been read (netlink_overrun in
// net/netlink/af_netlink.c).
func (w *Watcher) Ready(uint32) {
	for range readMax {
		msgs, err := w.events.Receive()
		switch {
		case err == unix.EAGAIN:
			w.look()
			return
		case err != nil:
			w.stale = true
		}
		for i := range msgs {
			w.stale = w.stale || concerns(&msgs[i])
		}
	}
}

// look looks again if something has changed, now or once lookEvery has passed.
func (w *Watcher) look() {
	if !w.stale || w.shard.Armed(&w.timer) {
		return
	}
	if wait := w.looked + lookEvery - w.shard.Now(); wait > 0 {
		w.shard.Arm(&w.timer, wait, w)
		return
	}
	w.Run()
}

// Run implements shard.Task: it looks. If the kernel cannot be asked, all stays as it was.
func (w *Watcher) Run() {
	w.looked, w.stale = w.shard.Now(), false
	if n, err := read(w.asked); err == nil {
		w.take(n)
	}
}

// concerns reports whether a message is about something that Main depends on.
func concerns(m *syscall.NetlinkMessage) bool {
	switch m.Header.Type {
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		return len(m.Data) >= unix.SizeofRtMsg && nl.DeserializeRtMsg(m.Data).Dst_len == 0 && nl.DeserializeRtMsg(m.Data).Table == unix.RT_TABLE_MAIN
	}
	return true
}
