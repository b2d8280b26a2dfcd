package guest_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"epiphyte/internal/addressing/addressingtest"
	"epiphyte/internal/guest"
	"epiphyte/internal/policy"
	"epiphyte/internal/testnet"
	"epiphyte/portfwd"
	"epiphyte/stack"
)

// TestSeveralWorkersLeaveNothing, used or not.
func TestSeveralWorkersLeaveNothing(t *testing.T) {
	for _, cfg := range []guest.Config{{}, {Rules: policy.Rules{DisableDNS: true}}} {
		for _, workers := range []int{2, 16} {
			for _, serve := range []bool{false, true} {
				t.Run(fmt.Sprint(workers, serve), func(t *testing.T) {
					testnet.CheckLeaks(t)
					startWorkers(t, cfg, workers, serve)
				})
			}
		}
	}
}

// TestB3_AnyQueueGone: the end of one queue is the end of all.
func TestB3_AnyQueueGone(t *testing.T) {
	for gone := range 3 {
		testnet.CheckLeaks(t)
		f := startWorkers(t, guest.Config{}, 3, true)
		f.ports[gone].Close()
		if err := f.wait(t, time.Second); !errors.Is(err, stack.ErrDeviceGone) {
			t.Errorf("without queue %d Serve said %v, want %v", gone, err, stack.ErrDeviceGone)
		}
	}
}

// next returns the next packet of a protocol for the guest, and the queue it comes
// by.
func (f *fixture) next(t *testing.T, proto uint8) (p testnet.Packet, queue int) {
	t.Helper()
	frame, queue := f.nextFrame(t, proto)
	p, _ = testnet.Parse(frame)
	return p, queue
}

func (f *fixture) nextFrame(t *testing.T, proto uint8) (frame []byte, queue int) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		for i, port := range f.ports {
			frame, err := port.Read(time.Now().Add(time.Millisecond))
			if err == unix.ETIMEDOUT {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			if p, err := testnet.Parse(frame); err == nil && p.Proto == proto {
				return frame, i
			}
		}
	}
	t.Fatal("nothing for the guest")
	return nil, 0
}

// raw is a TCP connection of the guest's whose every segment is of the test's
// making: what comes for it must come by one queue.
type raw struct {
	f        *fixture
	src, dst netip.AddrPort
	seq, ack uint32
	worker   int // -1: not known yet
}

func (r *raw) send(t *testing.T, queue int, flags header.TCPFlags, payload string) {
	t.Helper()
	if err := r.f.ports[queue].Write(testnet.TCP(r.src, r.dst, flags, r.seq, r.ack, []byte(payload))); err != nil {
		t.Fatal(err)
	}
	r.seq += uint32(len(payload))
	if flags&(header.TCPFlagSyn|header.TCPFlagFin) != 0 {
		r.seq++
	}
}

// receive waits for data or for flags, other than the acknowledgement's.
func (r *raw) receive(t *testing.T) (flags header.TCPFlags, payload string) {
	t.Helper()
	for {
		p, queue := r.f.next(t, stack.ProtoTCP)
		if p.DstPort() != r.src.Port() {
			continue
		}
		if r.worker < 0 {
			r.worker = queue
		}
		if queue != r.worker {
			t.Fatalf("%v: a segment from worker %d, and one from %d", r.src, r.worker, queue)
		}
		h := header.TCP(p.Payload)
		flags, payload = h.Flags(), string(h.Payload())
		if payload == "" && flags == header.TCPFlagAck {
			continue
		}
		r.ack = h.SequenceNumber() + uint32(len(payload))
		if flags&(header.TCPFlagSyn|header.TCPFlagFin) != 0 {
			r.ack++
		}
		return flags, payload
	}
}

// TestConnectionsByAnyQueue: the kernel forgets by which queue a flow was answered
// after 3 s, and deals it out by its own hash again. So each segment comes by
// another queue here, and the connection goes on regardless: one connection, one
// worker, on the host one peer.
func TestConnectionsByAnyQueue(t *testing.T) {
	testnet.CheckLeaks(t)
	const workers, flows = 3, 24
	p := addressingtest.New(t)
	f := startWorkers(t, guest.Config{Rules: policy.Rules{Plan: p}}, workers, true)
	host, addr := testnet.ListenTCP(t, "127.0.0.1:0")
	used := map[int]int{}
	for i := range flows {
		r := &raw{f: f, worker: -1, seq: 1000,
			src: netip.AddrPortFrom(p.Guest, uint16(40000+i)),
			dst: netip.AddrPortFrom(p.Gateway, addr.Port()),
		}
		r.send(t, i%workers, header.TCPFlagSyn, "")
		if flags, _ := r.receive(t); flags != header.TCPFlagSyn|header.TCPFlagAck {
			t.Fatalf("the SYN was answered by %v", flags)
		}
		r.send(t, (i+1)%workers, header.TCPFlagAck, "")
		c, err := host.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		for queue := range 2 * workers {
			text := fmt.Sprintf("flow %d by %d", i, queue)
			r.send(t, queue%workers, header.TCPFlagAck|header.TCPFlagPsh, text)
			b := make([]byte, len(text))
			if _, err := io.ReadFull(c, b); err != nil || string(b) != text {
				t.Fatalf("%q arrived as %q, %v", text, b, err)
			}
			io.WriteString(c, text)
			if _, got := r.receive(t); got != text {
				t.Fatalf("%q came back as %q", text, got)
			}
		}
		r.send(t, (i+2)%workers, header.TCPFlagAck|header.TCPFlagFin, "")
		if n, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Fatalf("the guest's end arrived as %d bytes, %v", n, err)
		}
		c.Close()
		if flags, _ := r.receive(t); flags&header.TCPFlagFin == 0 {
			t.Errorf("the host's end arrived as %v", flags)
		}
		r.send(t, i%workers, header.TCPFlagAck, "")
		used[r.worker]++
	}
	if len(used) != workers {
		t.Errorf("%d connections in the workers %v", flows, used)
	}
	stats := f.guest.Stats()
	if len(stats.Workers) != workers || stats.Total.Connections != flows {
		t.Errorf("%d connections of %d, by the statistics", stats.Total.Connections, flows)
	}
	for i, l := range stats.Workers {
		if l.Connections != uint64(used[i]) || l.Frames.Own == 0 || l.Frames.Handed == 0 || l.Frames.Lost > 0 {
			t.Errorf("worker %d: %+v, want %d connections", i, l, used[i])
		}
	}
}

// A reset of the guest's reaches its connection by any queue, and what belongs to
// none is answered by a reset.
func TestResetsByAnyQueue(t *testing.T) {
	testnet.CheckLeaks(t)
	p := addressingtest.IPv4Only(t)
	f := startWorkers(t, guest.Config{Rules: policy.Rules{Plan: p}}, 2, true)
	host, addr := testnet.ListenTCP(t, "127.0.0.1:0")
	for i := range 8 {
		r := &raw{f: f, worker: -1, seq: 1,
			src: netip.AddrPortFrom(p.Guest, uint16(41000+i)),
			dst: netip.AddrPortFrom(p.Gateway, addr.Port()),
		}
		r.send(t, 0, header.TCPFlagSyn, "")
		r.receive(t)
		r.send(t, 0, header.TCPFlagAck, "")
		c, err := host.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		r.send(t, 1, header.TCPFlagRst, "")
		c.SetDeadline(time.Now().Add(patience))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
			t.Fatalf("the guest's reset arrived as %v", err)
		}
		r.send(t, 1, header.TCPFlagAck, "stray")
		if flags, _ := r.receive(t); flags&header.TCPFlagRst == 0 {
			t.Errorf("a stray segment was answered by %v", flags)
		}
	}
}

// TestB21_OneMappingByAnyQueue: whichever queues a socket's datagrams come by, and
// wherever they go, the host sees one port, and what comes back comes by one queue.
func TestB21_OneMappingByAnyQueue(t *testing.T) {
	testnet.CheckLeaks(t)
	const workers = 3
	p := addressingtest.New(t)
	f := startWorkers(t, guest.Config{Rules: policy.Rules{Plan: p}}, workers, true)
	var hosts []*net.UDPConn
	for range 4 {
		c, _ := testnet.ListenUDP(t, "127.0.0.1:0")
		hosts = append(hosts, c)
	}
	used := map[int]bool{}
	for i := range 16 {
		src := netip.AddrPortFrom(p.Guest, uint16(42000+i))
		var mapped netip.AddrPort
		worker := -1
		for round, host := range append(hosts, hosts...) {
			dst := netip.AddrPortFrom(p.Gateway, host.LocalAddr().(*net.UDPAddr).AddrPort().Port())
			text := fmt.Sprint("round ", round)
			if err := f.ports[(i+round)%workers].Write(testnet.UDP(src, dst, 64, []byte(text))); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 64)
			n, from, err := host.ReadFromUDPAddrPort(b)
			if err != nil || string(b[:n]) != text {
				t.Fatalf("%q arrived as %q, %v", text, b[:n], err)
			}
			if mapped.IsValid() && from != mapped {
				t.Fatalf("%v is %v on the host, and %v", src, mapped, from)
			}
			mapped = from
			host.WriteToUDPAddrPort(b[:n], from)
			answer, queue := f.next(t, stack.ProtoUDP)
			if got := string(answer.Payload[8:]); got != text || answer.DstPort() != src.Port() || answer.From() != dst {
				t.Fatalf("%q was answered %q from %v", text, got, answer.From())
			}
			if worker >= 0 && queue != worker {
				t.Fatalf("%v: answers from worker %d, and from %d", src, worker, queue)
			}
			worker = queue
		}
		used[worker] = true
	}
	if len(used) != workers {
		t.Errorf("16 sockets in %d workers", len(used))
	}
}

// Workers send fragments from the same address to the same, at the same time: each
// number is one worker's.
func TestFragmentsOfWorkersDoNotMix(t *testing.T) {
	testnet.CheckLeaks(t)
	const workers = 3
	p := addressingtest.IPv4Only(t)
	f := startWorkers(t, guest.Config{Rules: policy.Rules{Plan: p}, MTU: 1500}, workers, true)
	host, addr := testnet.ListenUDP(t, "127.0.0.1:0")
	dst := netip.AddrPortFrom(p.Gateway, addr.Port())
	worker, used := map[uint16]int{}, map[int]bool{}
	for i := range 48 {
		if err := f.ports[0].Write(testnet.UDP(netip.AddrPortFrom(p.Guest, uint16(43000+i)), dst, 64, []byte("x"))); err != nil {
			t.Fatal(err)
		}
		_, from, err := host.ReadFromUDPAddrPort(make([]byte, 8))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := host.WriteToUDPAddrPort(make([]byte, 3000), from); err != nil {
			t.Fatal(err)
		}
		id := uint16(0)
		for part := range 3 {
			frame, queue := f.nextFrame(t, stack.ProtoUDP)
			if id = binary.BigEndian.Uint16(frame[18:]); frame[20]&0x3f == 0 && frame[21] == 0 {
				t.Fatalf("part %d is whole: % x", part, frame[:34])
			}
			if other, ok := worker[id]; ok && other != queue {
				t.Errorf("datagram %d: number %d is worker %d's and worker %d's", i, id, other, queue)
			}
			worker[id] = queue
			used[queue] = true
		}
	}
	if len(worker) != 48 || len(used) != workers {
		t.Errorf("%d numbers of %d workers", len(worker), len(used))
	}
}

// Clients of published ports reach the guest by the TAP, and its answers, by
// whichever queue they come, reach them.
func TestPublishedAnswersByAnyQueue(t *testing.T) {
	testnet.CheckLeaks(t)
	const workers = 3
	p := addressingtest.IPv4Only(t)
	f := startWorkers(t, guest.Config{Rules: policy.Rules{Plan: p}, PublishMode: portfwd.StackOnly}, workers, true)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	host := map[string]uint16{}
	for _, proto := range []string{portfwd.TCP, portfwd.UDP} {
		host[proto] = testnet.FreePort(t, proto, loopback)
		if _, err := f.guest.Ports().Add(ctx, portfwd.Rule{Proto: proto, Host: loopback, HostPort: host[proto], GuestPort: 80}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 12 {
		c, err := net.Dial("tcp", netip.AddrPortFrom(loopback, host["tcp"]).String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		syn, queue := f.next(t, stack.ProtoTCP)
		if syn.TCPFlags() != header.TCPFlagSyn || queue != 0 {
			t.Fatalf("a client has the guest sent %v by queue %d", syn.TCPFlags(), queue)
		}
		r := &raw{f: f, worker: 0, src: netip.AddrPortFrom(p.Guest, 80), dst: syn.From(), seq: 5,
			ack: header.TCP(syn.Payload).SequenceNumber() + 1}
		r.send(t, i%workers, header.TCPFlagSyn|header.TCPFlagAck, "")
		io.WriteString(c, "question")
		if _, got := r.receive(t); got != "question" {
			t.Fatalf("the guest was asked %q", got)
		}
		r.send(t, (i+1)%workers, header.TCPFlagAck|header.TCPFlagPsh, "answer")
		b := make([]byte, 6)
		if _, err := io.ReadFull(c, b); err != nil || string(b) != "answer" {
			t.Fatalf("the answer arrived as %q, %v", b, err)
		}
		r.send(t, (i+2)%workers, header.TCPFlagRst, "")
		if _, err := c.Read(b); !errors.Is(err, unix.ECONNRESET) {
			t.Fatalf("the guest's reset arrived as %v", err)
		}

		u, err := net.Dial("udp", netip.AddrPortFrom(loopback, host["udp"]).String())
		if err != nil {
			t.Fatal(err)
		}
		defer u.Close()
		u.SetDeadline(time.Now().Add(patience))
		io.WriteString(u, "question")
		asked, _ := f.next(t, stack.ProtoUDP)
		if string(asked.Payload[8:]) != "question" {
			t.Fatalf("the guest was asked %+v", asked)
		}
		if err := f.ports[i%workers].Write(testnet.UDP(netip.AddrPortFrom(p.Guest, 80), asked.From(), 64, []byte("answer"))); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(u, b); err != nil || string(b) != "answer" {
			t.Fatalf("the answer arrived as %q, %v", b, err)
		}
	}
}

// TestB6_WorkersEndUnderLoad: the same as with one worker.
func TestB6_WorkersEndUnderLoad(t *testing.T) {
	testnet.CheckLeaks(t)
	p := addressingtest.IPv4Only(t)
	f := startWorkers(t, guest.Config{Rules: policy.Rules{Plan: p}}, 4, true)
	for i := range 2000 {
		src, dst := netip.AddrPortFrom(p.Guest, uint16(20000+i)), netip.AddrPortFrom(p.Gateway, uint16(30000+i%7))
		f.ports[i%4].Write(testnet.SYN(src, dst, 1), testnet.UDP(src, dst, 64, []byte("x")))
	}
	begin := time.Now()
	f.cancel()
	if err := f.wait(t, patience); err != nil {
		t.Errorf("Serve said %v", err)
	}
	f.close(t)
	if d := time.Since(begin); d > time.Second {
		t.Errorf("the end took %v", d)
	}
}
