package sockio

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var hosts = []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}

// record is a DatagramOwner that notes what it is told.
type record struct {
	got    []string
	failed []unix.Errno
	during func() // of Received
}

func (r *record) Received(_ *Addr, _ []byte, segment int, parts [][]byte) {
	for _, p := range parts {
		for _, d := range cut(netip.AddrPort{}, max(segment, 1), p) {
			r.got = append(r.got, d.data)
		}
	}
	if r.during != nil {
		r.during()
	}
}

func (r *record) SendFailed(_ *Datagram, errno unix.Errno) { r.failed = append(r.failed, errno) }

func openDatagram(t testing.TB, host netip.Addr) (*DatagramSocket, Addr, *record) {
	t.Helper()
	r := new(record)
	fd, at := open(t, host)
	return &DatagramSocket{FD: fd, Owner: r}, at, r
}

// one is a datagram of a payload.
func one(to Addr, payload string) *Datagram {
	return &Datagram{To: to, Payload: [2][]byte{[]byte(payload)}}
}

// message is what a socket received as one: joined datagrams, if it may.
type message struct {
	data    string
	segment int
	from    netip.AddrPort
	control []byte
}

// receive takes what waits at a socket.
func receive(t testing.TB, fd int) (all []message) {
	t.Helper()
	b := new(Batch)
	for {
		n, errno := b.Receive(fd, true)
		if errno == unix.EAGAIN {
			return all
		}
		if errno != 0 {
			t.Fatal(errno)
		}
		for i := range n {
			segment, ok := b.segment(i)
			if !ok {
				t.Fatal("boundaries were lost")
			}
			all = append(all, message{string(b.Datagram(i)), segment, b.Addrs[i].AddrPort(), bytes.Clone(b.ControlOf(i))})
		}
	}
}

func wantData(t *testing.T, fd int, want ...string) {
	t.Helper()
	var got []string
	for _, m := range receive(t, fd) {
		got = append(got, m.data)
	}
	if !slices.Equal(got, want) {
		t.Errorf("received %q, want %q", got, want)
	}
}

// TestNeighboursAreJoined: datagrams of one size for one peer leave as one message,
// a shorter one as its last, and anything else begins another.
func TestNeighboursAreJoined(t *testing.T) {
	long, short := strings.Repeat("x", 100), strings.Repeat("y", 60)
	for _, host := range hosts {
		for _, tt := range []struct {
			name  string
			queue func(b *Batch, s *DatagramSocket, to Addr)
			sizes []int // of the messages, as the receiver's kernel joins them
		}{
			{"of one size", func(b *Batch, s *DatagramSocket, to Addr) {
				for range 5 {
					b.Queue(s, one(to, long))
				}
			}, []int{500}},
			{"a shorter last", func(b *Batch, s *DatagramSocket, to Addr) {
				for _, p := range []string{long, long, short, short, long} {
					b.Queue(s, one(to, p))
				}
			}, []int{260, 60, 100}},
			{"another TTL between", func(b *Batch, s *DatagramSocket, to Addr) {
				b.Queue(s, one(to, long))
				b.Queue(s, &Datagram{To: to, Payload: [2][]byte{[]byte(long)}, TTL: 9})
				b.Queue(s, one(to, long))
			}, []int{100, 100, 100}},
			{"in two pieces", func(b *Batch, s *DatagramSocket, to Addr) {
				for range 2 {
					b.Queue(s, &Datagram{To: to, Payload: [2][]byte{[]byte(long), []byte(long)}})
				}
			}, []int{200, 200}},
			{"empty ones", func(b *Batch, s *DatagramSocket, to Addr) {
				for range 2 {
					b.Queue(s, one(to, ""))
				}
			}, []int{0, 0}},
			{"a super-datagram", func(b *Batch, s *DatagramSocket, to Addr) {
				b.Queue(s, one(to, long))
				b.Queue(s, &Datagram{To: to, Payload: [2][]byte{[]byte(long + long), []byte(short)}, Segment: 100})
			}, []int{100, 260}},
		} {
			t.Run(fmt.Sprint(host, " ", tt.name), func(t *testing.T) {
				s, _, owner := openDatagram(t, host)
				peer, to := open(t, host)
				Join(peer)
				b := new(Batch)
				tt.queue(b, s, to)
				if waiting := receive(t, peer); len(waiting) > 0 {
					t.Errorf("%d messages left before Flush", len(waiting))
				}
				b.Flush()
				var sizes []int
				for _, m := range receive(t, peer) {
					sizes = append(sizes, len(m.data))
					if m.from != LocalAddr(s.FD) {
						t.Errorf("from %v, want %v", m.from, LocalAddr(s.FD))
					}
				}
				if !slices.Equal(sizes, tt.sizes) || len(owner.failed) > 0 {
					t.Errorf("messages of %v bytes, want %v; failed %v", sizes, tt.sizes, owner.failed)
				}
				b.Flush()
				wantData(t, peer) // once
			})
		}
	}
}

// A peer that does not have the kernel join gets the datagrams that were queued.
func TestJoinedAreCutAgain(t *testing.T) {
	for _, host := range hosts {
		s, _, _ := openDatagram(t, host)
		peer, to := open(t, host)
		b := new(Batch)
		var want []string
		for i := range 3*pendingMax + 5 { // Queue sends by itself when many wait
			want = append(want, strings.Repeat(fmt.Sprint(i%10), 100-i%3))
			b.Queue(s, one(to, want[i]))
		}
		b.Flush()
		wantData(t, peer, want...)
	}
}

// Datagrams of several sockets leave in the order of each, however they were mixed;
// those of a socket that was closed meanwhile are lost, and nothing else.
func TestFlushOfSeveralSockets(t *testing.T) {
	peer, to := open(t, hosts[0])
	b := new(Batch)
	var sockets []*DatagramSocket
	want := make(map[netip.AddrPort][]string)
	for range 3 {
		s, _, _ := openDatagram(t, hosts[0])
		sockets = append(sockets, s)
	}
	for round := range 2 { // the queues are used again
		for i := range 30 {
			s := sockets[i*7%3]
			data := fmt.Sprint(round, ":", i)
			b.Queue(s, one(to, data))
			want[LocalAddr(s.FD)] = append(want[LocalAddr(s.FD)], data)
		}
		b.Flush()
	}
	got := make(map[netip.AddrPort][]string)
	for _, m := range receive(t, peer) {
		got[m.from] = append(got[m.from], m.data)
	}
	for from, list := range want {
		if !slices.Equal(got[from], list) {
			t.Errorf("from %v: %q, want %q", from, got[from], list)
		}
	}

	for _, s := range sockets {
		b.Queue(s, one(to, "x"))
	}
	fd := sockets[1].FD
	sockets[1].FD = -1
	b.Flush()
	sockets[1].FD = fd
	b.Flush()
	if n := len(receive(t, peer)); n != 2 {
		t.Errorf("%d datagrams arrived of three sockets, one of them closed", n)
	}
}

// noSegments has the kernel refuse to cut what the socket sends, as it does on ways
// out that cannot: with UDP checksums off it says EIO (udp_send_skb in
// net/ipv4/udp.c).
func noSegments(t *testing.T, s *DatagramSocket) {
	t.Helper()
	if err := unix.SetsockoptInt(s.FD, unix.SOL_SOCKET, unix.SO_NO_CHECK, 1); err != nil {
		t.Fatal(err)
	}
}

// TestKernelThatDoesNotCut: what the kernel refuses to cut is cut here, and joined
// no more; nothing is lost, and nobody is told of an error.
func TestKernelThatDoesNotCut(t *testing.T) {
	s, _, owner := openDatagram(t, hosts[0])
	noSegments(t, s)
	peer, to := open(t, hosts[0])
	receiveTTL(t, peer)
	b := new(Batch)
	switch errno := errnoOfSegments(s.FD, to); {
	case errno == 0:
		t.Skip("this kernel cuts all the same")
	case !cannotSegment(errno):
		t.Fatalf("send a super-datagram: %v", errno)
	}
	b.Queue(s, &Datagram{To: to, Payload: [2][]byte{[]byte("aaaabb"), []byte("bbc")}, Segment: 4, TTL: 9})
	for range 3 {
		b.Queue(s, one(to, "dddd"))
	}
	b.Flush()
	var got []string
	for i, m := range receive(t, peer) {
		got = append(got, m.data)
		if ttl := ttlOf(m.control); i < 3 && ttl != 9 {
			t.Errorf("part %d of the super-datagram has TTL %d, want 9", i, ttl)
		}
	}
	if want := []string{"aaaa", "bbbb", "c", "dddd", "dddd", "dddd"}; !slices.Equal(got, want) || len(owner.failed) > 0 {
		t.Errorf("received %q, want %q; failed %v", got, want, owner.failed)
	}
	if !s.single {
		t.Error("datagrams will be joined again")
	}
}

// errnoOfSegments is what the kernel says to a super-datagram.
func errnoOfSegments(fd int, to Addr) unix.Errno {
	control := (&Datagram{To: to}).appendControl(nil, 2)
	v := Vec([]byte("abc"))
	h := unix.Msghdr{Iov: &v, Iovlen: 1, Control: &control[0]}
	h.SetControllen(len(control))
	to.Name(&h)
	return sendMessage(fd, h)
}

func receiveTTL(t *testing.T, fd int) {
	t.Helper()
	err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVTTL, 1)
	if LocalAddr(fd).Addr().Is6() {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func ttlOf(control []byte) int {
	d := FindControl(control, unix.IPPROTO_IP, unix.IP_TTL)
	if d == nil {
		d = FindControl(control, unix.IPPROTO_IPV6, unix.IPV6_HOPLIMIT)
	}
	if len(d) < 4 {
		return -1
	}
	return int(d[0])
}

// A TTL that is given is the datagram's, another is the host's.
func TestTTL(t *testing.T) {
	for _, host := range hosts {
		s, _, _ := openDatagram(t, host)
		peer, to := open(t, host)
		receiveTTL(t, peer)
		b := new(Batch)
		b.Send(s, one(to, "default"))
		normal := ttlOf(receive(t, peer)[0].control)
		want := []int{1, normal, 63, 255, normal}
		for _, ttl := range []uint8{1, 0, 63, 255, 0} {
			b.Queue(s, &Datagram{To: to, Payload: [2][]byte{[]byte("x")}, TTL: ttl})
		}
		b.Flush()
		var got []int
		for _, m := range receive(t, peer) {
			got = append(got, ttlOf(m.control))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%v: TTLs %v, want %v", host, got, want)
		}
	}
}

// TestSource: a datagram leaves from the address that its Source names, and is not
// joined to one that names another.
func TestSource(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var any Addr
	any.Set(netip.MustParseAddrPort("0.0.0.0:0"))
	if errno := Bind(fd, &any); errno != 0 {
		t.Fatal(errno)
	}
	s := &DatagramSocket{FD: fd, Owner: new(record)}
	peer, to := open(t, hosts[0])
	b := new(Batch)
	var want []netip.Addr
	for _, from := range []string{"127.0.0.1", "127.0.0.2", "127.0.0.2", "127.0.0.3"} {
		a := netip.MustParseAddr(from)
		ip := a.As4()
		info := make([]byte, unix.SizeofInet4Pktinfo)
		copy(info[4:], ip[:]) // ipi_spec_dst
		d := one(to, "answer")
		d.Source = AppendControl(nil, unix.IPPROTO_IP, unix.IP_PKTINFO, info)
		b.Queue(s, d)
		want = append(want, a)
	}
	b.Flush()
	var got []netip.Addr
	for _, m := range receive(t, peer) {
		got = append(got, m.from.Addr())
	}
	if !slices.Equal(got, want) {
		t.Errorf("received from %v, want %v", got, want)
	}
}

// TestControlFits: the largest control messages together have room in a Batch.
func TestControlFits(t *testing.T) {
	d := Datagram{TTL: 9, Source: AppendControl(nil, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, make([]byte, unix.SizeofInet6Pktinfo))}
	d.To.Set(netip.MustParseAddrPort("[::1]:1"))
	if n := len(d.appendControl(nil, 1000)); n > controlMax {
		t.Errorf("%d bytes of control messages, room for %d", n, controlMax)
	}
}

// TestErrorQueue: an ICMP error is told with what it is about, each once; it does
// not cost another peer its datagrams.
func TestErrorQueue(t *testing.T) {
	for _, host := range hosts {
		s, _, owner := openDatagram(t, host)
		level, option, origin, typ, code := unix.IPPROTO_IP, unix.IP_RECVERR, uint8(unix.SO_EE_ORIGIN_ICMP), uint8(3), uint8(3)
		if host.Is6() {
			level, option, origin, typ, code = unix.IPPROTO_IPV6, unix.IPV6_RECVERR, unix.SO_EE_ORIGIN_ICMP6, 1, 4
		}
		if err := unix.SetsockoptInt(s.FD, level, option, 1); err != nil {
			t.Fatal(err)
		}
		peer, to := open(t, host)
		dead, nobody := open(t, host)
		closeNow(t, dead)
		b := new(Batch)
		b.Queue(s, one(nobody, "to nobody"))
		b.Flush()
		for range 3 { // the error is pending now
			b.Queue(s, one(to, "to the peer"))
		}
		b.Flush()
		wantData(t, peer, "to the peer", "to the peer", "to the peer")
		if len(owner.failed) > 0 {
			t.Errorf("%v: failed: %v", host, owner.failed)
		}
		told := 0
		for range 2 {
			s.ReadErrors(func(e *QueuedError) {
				told++
				if e.Errno != unix.ECONNREFUSED || e.Origin != origin || e.Type != typ || e.Code != code ||
					e.Offender != host || e.To != nobody.AddrPort() || string(e.Data) != "to nobody" {
					t.Errorf("told %+v, data %q", e, e.Data)
				}
			})
		}
		if told != 1 {
			t.Errorf("%v: told %d times", host, told)
		}
		if errno := Error(s.FD); errno != 0 {
			t.Errorf("%v: %v is left on the socket", host, errno)
		}
	}
}

// closeNow closes a descriptor whose test closes it again: by then it is another.
func closeNow(t *testing.T, fd int) {
	t.Helper()
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(null)
	if err := unix.Dup3(null, fd, unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
}

// Errors are read a bounded number at a time.
func TestErrorsPerEvent(t *testing.T) {
	s, _, _ := openDatagram(t, hosts[0])
	if err := unix.SetsockoptInt(s.FD, unix.IPPROTO_IP, unix.IP_RECVERR, 1); err != nil {
		t.Fatal(err)
	}
	dead, nobody := open(t, hosts[0])
	closeNow(t, dead)
	b := new(Batch)
	const errors = errorsPerEvent + 8
	for range errors {
		b.Send(s, one(nobody, "x"))
	}
	var told []int
	for range 3 {
		n := 0
		s.ReadErrors(func(*QueuedError) { n++ })
		told = append(told, n)
	}
	if want := []int{errorsPerEvent, errors - errorsPerEvent, 0}; !slices.Equal(told, want) {
		t.Errorf("told %v, want %v", told, want)
	}
}

// TestSendFailed: the owner is told once of each datagram that the kernel refuses,
// and the ones behind it leave.
func TestSendFailed(t *testing.T) {
	s, _, owner := openDatagram(t, hosts[0])
	peer, to := open(t, hosts[0])
	b := new(Batch)
	b.Queue(s, one(to, "before"))
	b.Queue(s, one(to, strings.Repeat("x", 1<<16-8))) // more than a datagram takes
	b.Queue(s, one(to, "after"))
	b.Flush()
	wantData(t, peer, "before", "after")
	if want := []unix.Errno{unix.EMSGSIZE}; !slices.Equal(owner.failed, want) {
		t.Errorf("failed: %v, want %v", owner.failed, want)
	}
	owner.failed = nil
	b.Send(s, one(to, strings.Repeat("x", 1<<16-8)))
	if want := []unix.Errno{unix.EMSGSIZE}; !slices.Equal(owner.failed, want) {
		t.Errorf("failed at once: %v, want %v", owner.failed, want)
	}
}

// TestRead: all that waits is handed over in order, joined by the kernel from the
// second batch on, and in turns.
func TestRead(t *testing.T) {
	for _, host := range hosts {
		s, at, owner := openDatagram(t, host)
		unix.SetsockoptInt(s.FD, unix.SOL_SOCKET, unix.SO_RCVBUF, ReceiveBuffer)
		peer, _ := open(t, host)
		b := new(Batch)
		send := func(n int) (want []string) {
			for i := range n {
				want = append(want, fmt.Sprintf("%03d%s", i, strings.Repeat("x", i%3)))
				sendTo(peer, []byte(want[i]), &at)
			}
			return want
		}
		want := send(1)
		if bytes, more := b.Read(s); more || bytes != 3 || s.joins {
			t.Errorf("one datagram: read %d bytes, more %v; joins %v", bytes, more, s.joins)
		}
		want = append(want, send(2)...)
		if _, more := b.Read(s); more || !s.joins {
			t.Errorf("two datagrams: more %v, joins %v", more, s.joins)
		}
		want = append(want, send(BatchSize*TurnBatches+3)...)
		if _, more := b.Read(s); !more {
			t.Error("nothing more, though not all was read")
		}
		if _, more := b.Read(s); more {
			t.Error("more, though all was read")
		}
		if !slices.Equal(owner.got, want) {
			t.Errorf("%v: received %q, want %q", host, owner.got, want)
		}
		if bytes, more := b.Read(s); bytes != 0 || more {
			t.Errorf("nothing waits: read %d bytes, more %v", bytes, more)
		}
	}
}

// An owner that closes its socket on what it was handed is handed no more.
func TestReadOfSocketThatCloses(t *testing.T) {
	s, at, owner := openDatagram(t, hosts[0])
	peer, _ := open(t, hosts[0])
	for _, data := range []string{"one", "of another size", "the third"} {
		sendTo(peer, []byte(data), &at)
	}
	owner.during = func() { s.FD = -1 }
	if _, more := new(Batch).Read(s); more || !slices.Equal(owner.got, []string{"one"}) {
		t.Errorf("received %q, more %v", owner.got, more)
	}
}

// Datagrams cost nothing that is to be collected, whatever is asked of them.
func TestNoAllocationPerDatagram(t *testing.T) {
	s, at, _ := openDatagram(t, hosts[0])
	s.Owner = discard{}
	b := new(Batch)
	payload := bytes.Repeat([]byte("x"), 100)
	plain := Datagram{To: at, Payload: [2][]byte{payload}}
	meant := Datagram{To: at, Payload: [2][]byte{payload}, TTL: 5}
	begun := time.Now()
	step := func() {
		for range 8 {
			b.Queue(s, &plain)
		}
		b.Queue(s, &meant)
		b.Flush()
		b.Send(s, &plain)
		for bytes := 0; bytes < 1000 && time.Since(begun) < 10*time.Second; {
			n, _ := b.Read(s)
			bytes += n
		}
	}
	if n := testing.AllocsPerRun(100, step); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

type discard struct{}

func (discard) Received(*Addr, []byte, int, [][]byte) {}
func (discard) SendFailed(*Datagram, unix.Errno)      {}
