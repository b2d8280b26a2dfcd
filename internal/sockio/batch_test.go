package sockio

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// open makes a UDP socket on the host's loopback.
func open(t testing.TB, host netip.Addr) (fd int, at Addr) {
	t.Helper()
	family := unix.AF_INET
	if host.Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	at.Set(netip.AddrPortFrom(host, 0))
	switch errno := Bind(fd, &at); errno {
	case 0:
	case unix.EADDRNOTAVAIL:
		t.Skipf("the host lacks an address: %v", host)
	default:
		t.Fatalf("bind to %v: %v", host, errno)
	}
	at.Set(LocalAddr(fd))
	return fd, at
}

func sendMessage(fd int, h unix.Msghdr) unix.Errno {
	_, errno := SendMessages(fd, []Message{{Hdr: h}})
	return errno
}

// sendTo sends one datagram.
func sendTo(fd int, b []byte, to *Addr) unix.Errno {
	v := Vec(b)
	h := unix.Msghdr{Iov: &v, Iovlen: 1}
	to.Name(&h)
	return sendMessage(fd, h)
}

// sendSegments sends b as datagrams of segment bytes, by one system call.
func sendSegments(t testing.TB, fd int, b []byte, segment int, to *Addr) {
	t.Helper()
	size := [2]byte{byte(segment), byte(segment >> 8)}
	control := AppendControl(nil, unix.SOL_UDP, unix.UDP_SEGMENT, size[:])
	v := Vec(b)
	h := unix.Msghdr{Iov: &v, Iovlen: 1, Control: &control[0]}
	h.SetControllen(len(control))
	to.Name(&h)
	if errno := sendMessage(fd, h); errno != 0 {
		t.Fatalf("send %d bytes in segments of %d: %v", len(b), segment, errno)
	}
}

// sent is one datagram.
type sent struct {
	from netip.AddrPort
	data string
}

// TestSenderIsTheSameAfterOneOfAnotherFamily: owners compare senders.
func TestSenderIsTheSameAfterOneOfAnotherFamily(t *testing.T) {
	four, at4 := open(t, netip.MustParseAddr("127.0.0.1"))
	six, at6 := open(t, netip.IPv6Loopback())
	var b Batch
	from := func(fd int, at Addr) Addr {
		t.Helper()
		if errno := sendTo(fd, []byte("x"), &at); errno != 0 {
			t.Fatal(errno)
		}
		if n, errno := b.Receive(fd, false); n != 1 {
			t.Fatal(n, errno)
		}
		return b.Addrs[0]
	}
	before := from(four, at4)
	from(six, at6)
	if after := from(four, at4); after != before {
		t.Errorf("one sender is %v and %v", before, after)
	}
}

// TestRunsKeepBoundaries: whatever arrives, and however the kernel joins it,
// the runs cut by their segment size are the datagrams that were sent.
func TestRunsKeepBoundaries(t *testing.T) {
	for _, host := range []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()} {
		for _, join := range []bool{false, true} {
			to, at := open(t, host)
			one, _ := open(t, host)
			two, _ := open(t, host)
			if join {
				Join(to)
			}
			rng := rand.New(rand.NewPCG(1, 2))
			// Stale addresses of the other family must not hinder.
			b := new(Batch)
			for i := range b.Addrs {
				b.Addrs[i].Set(netip.AddrPortFrom(netip.AddrFrom16([16]byte{byte(i), 1: 5, 15: 7}), uint16(i)))
			}
			joined := 0
			for round := range 300 {
				var want, got []sent
				for range 1 + rng.IntN(8) {
					from := one
					if rng.IntN(6) == 0 {
						from = two
					}
					size, segment := []int{0, 1, 99, 100, 100, 100, 101}[rng.IntN(7)], 101
					data := bytes.Repeat([]byte{byte(round), byte(len(want))}, 500)[:size]
					if rng.IntN(2) == 0 {
						segment = []int{1, 99, 100, 100, 200}[rng.IntN(5)]
						data = bytes.Repeat([]byte{byte(len(want)), byte(round)}, 700)[:segment+1+rng.IntN(5*segment)]
						sendSegments(t, from, data, segment, &at)
					} else {
						if errno := sendTo(from, data, &at); errno != 0 {
							t.Fatal(errno)
						}
					}
					want = append(want, cut(LocalAddr(from), segment, data)...)
				}
				for {
					n, errno := b.Receive(to, join)
					if errno != 0 {
						break
					}
					for i := 0; i < n; {
						from := b.Addrs[i].AddrPort()
						segment, parts, next := b.Run(i, n)
						for j, p := range parts {
							if j < len(parts)-1 && len(p)%segment != 0 {
								t.Fatalf("part %d of %d has %d bytes, of segments of %d", j, len(parts), len(p), segment)
							}
							got = append(got, cut(from, segment, p)...)
						}
						joined += next - i - 1
						i = next
					}
				}
				if diff := cmp.Diff(want, got, cmp.AllowUnexported(sent{}), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
					t.Fatalf("%v, joined %v, round %d:\n%s", host, join, round, diff)
				}
			}
			if joined == 0 {
				t.Errorf("%v, joined %v: no run is longer than a message", host, join)
			}
		}
	}
}

func cut(from netip.AddrPort, segment int, data []byte) (all []sent) {
	if len(data) == 0 {
		return []sent{{from: from}}
	}
	for len(data) > 0 {
		n := min(segment, len(data))
		all = append(all, sent{from, string(data[:n])})
		data = data[n:]
	}
	return all
}

// A run is no larger than one datagram may be.
func TestRunsAreBounded(t *testing.T) {
	to, at := open(t, netip.MustParseAddr("127.0.0.1"))
	from, _ := open(t, netip.MustParseAddr("127.0.0.1"))
	for range 5 {
		sendTo(from, make([]byte, 30000), &at)
	}
	b := new(Batch)
	n, errno := b.Receive(to, false)
	if n != 5 {
		t.Fatalf("received %d, %v", n, errno)
	}
	for i, want := range []int{2, 4, 5} {
		_, _, next := b.Run([]int{0, 2, 4}[i], n)
		if next != want {
			t.Errorf("run %d ends at %d, want %d", i, next, want)
		}
	}
}

// Joined datagrams of which the kernel could not say where they part are lost,
// and not taken for one.
func TestRunsWithoutBoundaries(t *testing.T) {
	to, at := open(t, netip.MustParseAddr("127.0.0.1"))
	from, _ := open(t, netip.MustParseAddr("127.0.0.1"))
	Join(to)
	unix.SetsockoptInt(to, unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
	b := new(Batch)
	for _, c := range []struct {
		spoiled []int
		next    int
		parts   int
	}{{nil, 4, 4}, {[]int{0}, 4, 3}, {[]int{1}, 1, 1}, {[]int{3}, 3, 3}, {[]int{0, 1, 2, 3}, 4, 0}} {
		for range 4 {
			sendSegments(t, from, make([]byte, 500), 100, &at)
		}
		if n, errno := b.Receive(to, true); n != 4 {
			t.Fatalf("received %d, %v", n, errno)
		}
		for _, i := range c.spoiled {
			// As if UDP_GRO's message, which is the first, had not fitted.
			h := &b.Msgs[i].Hdr
			h.Flags |= unix.MSG_CTRUNC
			clear(b.Control[i][:unix.CmsgSpace(4)])
			h.SetControllen(0)
		}
		segment, parts, next := b.Run(0, 4)
		if next != c.next || len(parts) != c.parts || len(parts) > 0 && segment != 100 {
			t.Errorf("%v spoiled: %d parts of segments of %d up to %d, want %d up to %d", c.spoiled, len(parts), segment, next, c.parts, c.next)
		}
	}
}

// BenchmarkReceive is what one datagram costs that comes alone.
func BenchmarkReceive(b *testing.B) {
	for _, join := range []bool{false, true} {
		b.Run(map[bool]string{false: "plain", true: "joined"}[join], func(b *testing.B) {
			to, at := open(b, netip.MustParseAddr("127.0.0.1"))
			from, _ := open(b, netip.MustParseAddr("127.0.0.1"))
			if join {
				Join(to)
			}
			data, batch := []byte{0}, new(Batch)
			for b.Loop() {
				sendTo(from, data, &at)
				if n, errno := batch.Receive(to, join); n != 1 {
					b.Fatal(n, errno)
				}
				batch.Run(0, 1)
			}
		})
	}
}
