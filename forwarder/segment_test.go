package forwarder

import (
	"bytes"
	"errors"
	"io"
	"net"
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

// A guest that closed a connection may use its ports again at once, whichever
// side closed first.
func TestPortsAreUsedAgain(t *testing.T) {
	for _, hostFirst := range []bool{false, true} {
		r := newRig(t, setup{})
		l, addr := testnet.ListenTCP(t, "127.0.0.1:0")
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
	l, addr := testnet.ListenTCP(t, "127.0.0.1:0")
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
	l, addr := testnet.ListenTCP(t, "127.0.0.1:0")
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
