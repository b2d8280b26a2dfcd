package forwarder

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"epiphyte/internal/testnet"
	"epiphyte/stack"
)

// keepaliveSetUp is above the time after which a connection's keepalive is set up.
const keepaliveSetUp = 15 * time.Second

// TestB18_GuestThatVanishes: a guest that is idle for hours keeps its connection as long
// as it answers when it is asked, and loses it within minutes once it does not.
func TestB18_GuestThatVanishes(t *testing.T) {
	r := newRig(t, setup{})
	l, addr := testnet.ListenTCP(t, "127.0.0.1:0")
	src, dst := at(guest4, 4000), at(gateway4, addr.Port())
	theirs := r.establish(src, dst, 1)
	host := accept(t, l)
	r.received()
	r.pass(keepaliveSetUp)
	for range 30 {
		r.pass(5 * time.Minute)
		if probe := r.receiveFlags(ack); probe.SequenceNumber() != theirs-1 {
			t.Fatalf("the guest is sent sequence number %d, want one before %d", probe.SequenceNumber(), theirs)
		}
		r.send(testnet.TCP(src, dst, ack, 2, theirs, nil))
	}
	r.wantCounts(counts{TCP: 1})
	for range 15 {
		r.pass(time.Minute)
	}
	r.wantCounts(counts{})
	if _, err := host.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the host read %v, want ECONNRESET", err)
	}
}

// TestB18_HostThatNeverCloses: when the guest has closed its connection its kernel
// forgets it after a minute, and says so when it is asked: the host's socket goes, too.
func TestB18_HostThatNeverCloses(t *testing.T) {
	r := newRig(t, setup{})
	l, addr := testnet.ListenTCP(t, "127.0.0.1:0")
	src, dst := at(guest4, 4000), at(gateway4, addr.Port())
	theirs := r.establish(src, dst, 1)
	host := accept(t, l)
	r.send(testnet.TCP(src, dst, ack|fin, 2, theirs, nil))
	if b, err := r.readAll(host); err != nil || len(b) > 0 {
		t.Fatalf("the host read %q, %v", b, err)
	}
	r.received()
	r.pass(keepaliveSetUp)
	r.wantCounts(counts{TCP: 1}) // the host may still have something to say
	r.pass(65 * time.Second)
	probe := r.receiveFlags(ack)
	r.send(testnet.TCP(src, dst, rst, probe.AckNumber(), 0, nil))
	r.wantCounts(counts{})
	r.until("the host's socket is gone", func() bool {
		_, err := host.Write([]byte("x"))
		return errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
	})
}

// TestB17_WindowClosedForAMinute: a guest that takes nothing for longer than a minute,
// and says so whenever it is asked, then has all that was sent.
func TestB17_WindowClosedForAMinute(t *testing.T) {
	r := newRig(t, setup{})
	l, addr := testnet.ListenTCP(t, "127.0.0.1:0")
	src, dst := at(guest4, 4000), at(gateway4, addr.Port())
	next := r.establish(src, dst, 1)
	host := accept(t, l)
	sent := bytes.Repeat([]byte("0123456789"), 6000)
	var got []byte
	// take has the guest take what is there, within its window, and acknowledge it.
	take := func(window uint16) (asked int) {
		for _, p := range r.received() {
			segment := header.TCP(p.Payload)
			if window > 0 && segment.SequenceNumber() == next {
				got = append(got, segment.Payload()...)
				next += uint32(len(segment.Payload()))
			}
			asked++
		}
		r.send(acknowledgement(src, dst, 2, next, window))
		return asked
	}
	take(0)
	if _, err := host.Write(sent); err != nil {
		t.Fatal(err)
	}
	asked := 0
	for range 90 {
		r.pass(time.Second)
		asked += take(0)
	}
	if r.wantCounts(counts{TCP: 1}); asked == 0 || len(got) > 0 {
		t.Errorf("asked %d times, and %d bytes came", asked, len(got))
	}
	r.until("all bytes", func() bool { take(30000); return len(got) >= len(sent) })
	if !bytes.Equal(got, sent) {
		t.Error("other bytes arrived")
	}
}

// acknowledgement is a segment without data that opens or closes the window.
func acknowledgement(src, dst netip.AddrPort, seq, next uint32, window uint16) []byte {
	segment := testnet.Segment(src, dst, ack, seq, next, nil)
	binary.BigEndian.PutUint16(segment[14:], window)
	segment[16], segment[17] = 0, 0
	testnet.FixTransport(src.Addr(), dst.Addr(), stack.ProtoTCP, segment)
	return testnet.Packet{Src: src.Addr(), Dst: dst.Addr(), Proto: stack.ProtoTCP, Payload: segment}.Frame()
}
