package bridge

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"epiphyte/internal/addressing"
	"epiphyte/internal/addressing/addressingtest"
	"epiphyte/internal/shard"
	"epiphyte/internal/testnet"
	"epiphyte/stack"
)

// patience bounds every wait of these tests.
const patience = 20 * time.Second

// world is a network of guests with a stack, on a shard that serves.
type world struct {
	t      *testing.T
	plan   addressing.Plan
	shard  *shard.Shard
	bridge *Bridge
	guests []*testnet.Guest
	ports  []*Port
}

// echo is the world outside: it sends every datagram back, and refuses connections.
type echo struct{ stack *stack.Stack }

func (e *echo) SYN(y *stack.SYN)   { e.stack.SendReset(y) }
func (e *echo) ICMP(*stack.Packet) {}
func (e *echo) Flush()             {}
func (e *echo) UDP(p *stack.Packet) {
	e.stack.SendUDP(netip.AddrPortFrom(p.Dst, p.DstPort()), netip.AddrPortFrom(p.Src, p.SrcPort()), p.Head[8:], p.Tail)
}

func newWorld(t *testing.T, members int, cfg Config) *world {
	t.Helper()
	testnet.CheckLeaks(t)
	w := &world{t: t, plan: addressingtest.New(t)}
	var err error
	if w.shard, err = shard.New(shard.Config{}); err != nil {
		t.Fatal(err)
	}
	cfg.Shard, cfg.Plan, cfg.Logger = w.shard, w.plan, slog.New(slog.DiscardHandler)
	if w.bridge, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	outside := new(echo)
	outside.stack, err = stack.New(stack.Config{
		Device: w.bridge, Shard: w.shard, Plan: w.plan, Handler: outside, Neighbors: w.bridge.Lookup, Logger: cfg.Logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	w.bridge.Attach(outside.stack)
	for i := range members {
		dev := testnet.NewDevice(t, testnet.DeviceConfig{Offload: true, MAC: member(i).MAC})
		plan := w.plan
		plan.Guest, plan.Guest6 = member(i).IPv4, member(i).IPv6
		w.guests = append(w.guests, testnet.NewGuest(t, dev, plan, 1500))
		p, err := w.bridge.Add(dev, member(i))
		if err != nil {
			t.Fatal(err)
		}
		w.ports = append(w.ports, p)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- w.shard.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-served, outside.stack.Close(), w.bridge.Close(), w.shard.Close()); err != nil {
			t.Error(err)
		}
	})
	return w
}

// families runs f for each; addr is a member's address of it.
func families(t *testing.T, f func(t *testing.T, v6 bool, addr func(Address) netip.Addr)) {
	t.Run("IPv4", func(t *testing.T) { f(t, false, func(a Address) netip.Addr { return a.IPv4 }) })
	t.Run("IPv6", func(t *testing.T) { f(t, true, func(a Address) netip.Addr { return a.IPv6 }) })
}

// transfer sends data from one guest to another's server and back.
func (w *world) transfer(from, to int, v6 bool, addr netip.Addr, data []byte) error {
	l, err := w.guests[to].ListenTCP(80, v6)
	if err != nil {
		return err
	}
	defer l.Close()
	var server sync.WaitGroup
	defer server.Wait()
	server.Go(func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		io.Copy(c, c)
	})
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	c, err := w.guests[from].DialTCP(ctx, 0, netip.AddrPortFrom(addr, 80))
	if err != nil {
		l.Close()
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	server.Go(func() {
		c.Write(data)
		c.CloseWrite()
	})
	back, err := io.ReadAll(c)
	if err == nil && !bytes.Equal(back, data) {
		err = errors.New("other data came back")
	}
	return err
}

// Guests find each other by ARP or neighbour solicitations and speak TCP, in segments
// that nobody cuts.
func TestGuestsTalkToEachOther(t *testing.T) {
	families(t, func(t *testing.T, v6 bool, addr func(Address) netip.Addr) {
		w := newWorld(t, 3, Config{})
		data := bytes.Repeat([]byte("0123456789abcdef"), 1<<18) // 4 MB
		for _, pair := range [][2]int{{0, 1}, {2, 0}} {
			if err := w.transfer(pair[0], pair[1], v6, addr(member(pair[1])), data); err != nil {
				t.Fatalf("from %d to %d: %v", pair[0], pair[1], err)
			}
		}
		for i, p := range w.ports {
			s := p.Stats()
			if s.Spoofed+s.Other+s.Rate+s.Refused > 0 || s.FromBytes < uint64(len(data)) {
				t.Errorf("member %d: %+v", i, s)
			}
		}
		if s := w.ports[1].Stats(); s.ToBytes/s.ToFrames < 1600 { // acknowledgements of what comes back included
			t.Errorf("%d bytes in %d frames: no super-segments", s.ToBytes, s.ToFrames)
		}
	})
}

// The stack answers each by its own address, and nobody else sees it.
func TestGuestsTalkToTheGateway(t *testing.T) {
	families(t, func(t *testing.T, v6 bool, addr func(Address) netip.Addr) {
		w := newWorld(t, 3, Config{Isolate: true})
		outside := outside4
		if v6 {
			outside = outside6
		}
		for i, g := range w.guests {
			c, err := g.DialUDP(5000, netip.AddrPortFrom(outside, 53), v6)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(patience))
			said, heard := []byte{byte(i), 1, 2, 3}, make([]byte, 100)
			if _, err := c.Write(said); err != nil {
				t.Fatal(err)
			}
			if n, err := c.Read(heard); err != nil || !bytes.Equal(heard[:n], said) {
				t.Errorf("guest %d heard %x, %v", i, heard[:n], err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			var refused *net.OpError
			if _, err := g.DialTCP(ctx, 0, netip.AddrPortFrom(outside, 80)); !errors.As(err, &refused) || !strings.Contains(err.Error(), "refused") {
				t.Errorf("guest %d was told %v, want a refusal", i, err)
			}
		}
		counted := make(chan struct{}) // a guest hears its answer just before it is counted
		w.shard.Post(shard.TaskFunc(func() { close(counted) }))
		<-counted
		for i, p := range w.ports { // an answer to ARP or a solicitation, one to the datagram, one to the SYN
			if s := p.Stats(); s.ToFrames != 3 {
				t.Errorf("guest %d got %d frames, want its own 3", i, s.ToFrames)
			}
		}
	})
}

func TestIsolatedGuestsDoNotTalkToEachOther(t *testing.T) {
	w := newWorld(t, 2, Config{Isolate: true})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if c, err := w.guests[0].DialTCP(ctx, 0, netip.AddrPortFrom(you.IPv4, 80)); err == nil {
		c.Close()
		t.Error("connected")
	} else if strings.Contains(err.Error(), "refused") {
		t.Errorf("the neighbour answered: %v", err)
	}
	if s := w.ports[1].Stats(); s.ToFrames > 0 {
		t.Errorf("the neighbour got %d frames", s.ToFrames)
	}
}

// A port leaves while its guest and others send at full speed; what is left goes on.
func TestPortLeavesUnderLoad(t *testing.T) {
	w := newWorld(t, 3, Config{})
	data := make([]byte, 1<<20)
	var load sync.WaitGroup
	started := make(chan struct{})
	load.Go(func() {
		l, err := w.guests[1].ListenTCP(81, false)
		if err != nil {
			t.Error(err)
			return
		}
		defer l.Close()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		c, err := w.guests[0].DialTCP(ctx, 0, netip.AddrPortFrom(you.IPv4, 81))
		close(started)
		if err != nil {
			t.Error(err)
			return
		}
		c.SetDeadline(time.Now().Add(time.Second))
		c.Write(data) // nobody reads it
		c.Reset()
	})
	<-started
	removed := make(chan struct{})
	w.shard.Post(shard.TaskFunc(func() {
		w.bridge.Remove(w.ports[1])
		close(removed)
	}))
	<-removed
	if err := w.transfer(0, 2, false, member(2).IPv4, data); err != nil {
		t.Errorf("between those that are left: %v", err)
	}
	load.Wait()
}
