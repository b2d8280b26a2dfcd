package forwarder

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"epiphyte/internal/testnet"
	"epiphyte/stack"
)

const (
	ack = header.TCPFlagAck
	psh = header.TCPFlagPsh
	fin = header.TCPFlagFin
	rst = header.TCPFlagRst
	urg = header.TCPFlagUrg
)

func accept(t *testing.T, l *net.TCPListener) *net.TCPConn {
	t.Helper()
	l.SetDeadline(time.Now().Add(5 * time.Second))
	c, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(5 * time.Second))
	return c
}

// receiveFlags waits for a segment with these flags among its own.
func (r *rig) receiveFlags(want header.TCPFlags) header.TCP {
	r.T.Helper()
	for {
		if p := r.receive(stack.ProtoTCP); p.TCPFlags()&want == want {
			return header.TCP(p.Payload)
		}
	}
}

// readAll reads to the end while the shard turns.
func (r *rig) readAll(c *net.TCPConn) (b []byte, err error) {
	r.T.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		b, err = io.ReadAll(c)
	}()
	r.until("the end of the stream", func() bool {
		select {
		case <-done:
			return true
		default:
			return false
		}
	})
	return b, err
}

// TestB17_UrgentDataIsData: whatever the urgent pointer says, the host gets
// exactly the bytes sent, in order.
func TestB17_UrgentDataIsData(t *testing.T) {
	for _, pointer := range []uint16{0, 1, 3, 5, 6, 1000, 65535} {
		r := newRig(t, setup{})
		l, addr := listenTCP(t, "127.0.0.1:0")
		src, dst := at(guest4, 4000), at(gateway4, addr.Port())
		theirs := r.establish(src, dst, 1)
		host := accept(t, l)
		r.send(testnet.TCP(src, dst, ack|psh, 2, theirs, []byte("before")))
		r.send(urgent(src, dst, 8, theirs, pointer, []byte("urgent")))
		r.send(testnet.TCP(src, dst, ack|psh|fin, 14, theirs, []byte("after")))
		if b, err := r.readAll(host); err != nil || string(b) != "beforeurgentafter" {
			t.Errorf("pointer %d: the host read %q, %v", pointer, b, err)
		}
	}
}

// urgent is a segment with an urgent pointer.
func urgent(src, dst netip.AddrPort, seq, acked uint32, pointer uint16, payload []byte) []byte {
	frame := testnet.TCP(src, dst, ack|psh|urg, seq, acked, payload)
	h := header.TCP(frame[header.EthernetMinimumSize+header.IPv4MinimumSize:])
	// Both fields are summed as 16-bit words: what one gains the sum loses.
	h.SetUrgentPointer(pointer)
	sum := uint32(h.Checksum()) + uint32(^pointer)
	h.SetChecksum(uint16(sum) + uint16(sum>>16))
	return frame
}

// A guest that closed a connection may use its ports again at once, whichever
// side closed first.
func TestPortsAreUsedAgain(t *testing.T) {
	for _, hostFirst := range []bool{false, true} {
		r := newRig(t, setup{})
		l, addr := listenTCP(t, "127.0.0.1:0")
		src, dst := at(guest4, 4000), at(gateway4, addr.Port())
		seq := uint32(1)
		for round := range 5 {
			theirs := r.establish(src, dst, seq)
			host := accept(t, l)
			if hostFirst {
				host.Close()
				r.receiveFlags(fin)
				r.send(testnet.TCP(src, dst, ack|fin, seq+1, theirs+1, nil))
			} else {
				r.send(testnet.TCP(src, dst, ack|fin, seq+1, theirs, nil))
				if b, err := r.readAll(host); err != nil || len(b) > 0 {
					t.Fatalf("round %d: the host read %q, %v", round, b, err)
				}
				host.Close()
				r.receiveFlags(fin)
				r.send(testnet.TCP(src, dst, ack, seq+2, theirs+1, nil))
			}
			r.until("end of the flow", func() bool { return r.counts() == counts{} })
			seq += 100000
		}
	}
}

// TestGuestForgotItsConnection: a guest that restarted opens a connection whose
// old self still stands here. It is asked, says that it does not know the old
// one, and gets the new one (RFC 9293 section 3.5.1, RFC 5961 section 4).
func TestGuestForgotItsConnection(t *testing.T) {
	r := newRig(t, setup{})
	l, addr := listenTCP(t, "127.0.0.1:0")
	src, dst := at(guest4, 4000), at(gateway4, addr.Port())
	theirs := r.establish(src, dst, 1)
	old := accept(t, l)
	r.received()

	r.send(testnet.SYN(src, dst, 900000))
	challenge := r.receiveFlags(ack)
	if challenge.Flags() != ack || challenge.AckNumber() != 2 || challenge.SequenceNumber() != theirs {
		t.Errorf("answered with flags %v, sequence %d, ack %d", challenge.Flags(), challenge.SequenceNumber(), challenge.AckNumber())
	}
	r.wantCounts(counts{TCP: 1})
	r.send(testnet.TCP(src, dst, rst, challenge.AckNumber(), 0, nil))
	r.until("end of the old flow", func() bool { return r.counts() == counts{} })
	if _, err := old.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the host's old connection read %v, want ECONNRESET", err)
	}
	r.establish(src, dst, 900000)
	accept(t, l)
}

// TestB12_BlindReset: a RST beside the window ends nothing (RFC 5961 section 3).
func TestB12_BlindReset(t *testing.T) {
	r := newRig(t, setup{})
	l, addr := listenTCP(t, "127.0.0.1:0")
	src, dst := at(guest4, 4000), at(gateway4, addr.Port())
	theirs := r.establish(src, dst, 1)
	host := accept(t, l)
	r.send(testnet.TCP(src, dst, rst, 1<<31, 0, nil))
	r.wantCounts(counts{TCP: 1})
	r.send(testnet.TCP(src, dst, ack|psh, 2, theirs, []byte("alive")))
	b := make([]byte, 16)
	if n, err := host.Read(b); err != nil || !bytes.Equal(b[:n], []byte("alive")) {
		t.Errorf("the host read %q, %v", b[:n], err)
	}
}

// A segment of a connection that nobody knows is answered with a RST, and makes
// nothing.
func TestStraySegments(t *testing.T) {
	r := newRig(t, setup{})
	_, addr := listenTCP(t, "127.0.0.1:0")
	src, dst := at(guest4, 4000), at(gateway4, addr.Port())
	for _, flags := range []header.TCPFlags{ack, ack | psh, ack | fin, fin, header.TCPFlagSyn | ack} {
		r.send(testnet.TCP(src, dst, flags, 5, 6, []byte("x")))
		if got := r.receive(stack.ProtoTCP); got.TCPFlags()&rst == 0 || got.From() != dst {
			t.Errorf("%v answered with %v from %v", flags, got.TCPFlags(), got.From())
		}
		r.wantCounts(counts{})
	}
	r.send(testnet.TCP(src, dst, rst, 5, 0, nil), testnet.TCP(src, dst, rst|ack, 5, 6, nil))
	if got := r.received(); len(got) != 0 {
		t.Errorf("a RST was answered with %+v", got)
	}
	r.wantCounts(counts{})
}
