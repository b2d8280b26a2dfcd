package sockdiag

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func open(t testing.TB) *Socket {
	t.Helper()
	s, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// ports are those of a protocol now.
func ports(t testing.TB, s *Socket, proto uint8, wanted func(netip.Addr) bool) *Ports {
	t.Helper()
	p := new(Ports)
	if err := s.Ports(proto, p, wanted); err != nil {
		t.Fatal(err)
	}
	return p
}

// Servers of either protocol and family are found, and clients are not; those that are
// gone are not found any more.
func TestPorts(t *testing.T) {
	s := open(t)
	for _, host := range []string{"127.0.0.1", "::1", "::"} {
		at := net.JoinHostPort(host, "0")
		l, err := net.Listen("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		tcp := l.Addr().(*net.TCPAddr).AddrPort().Port()
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		client := c.LocalAddr().(*net.TCPAddr).AddrPort().Port()
		u, err := net.ListenPacket("udp", at)
		if err != nil {
			t.Fatal(err)
		}
		udp := u.LocalAddr().(*net.UDPAddr).AddrPort().Port()
		d, err := net.Dial("udp", u.LocalAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		udpClient := d.LocalAddr().(*net.UDPAddr).AddrPort().Port()

		listen, bound := ports(t, s, unix.IPPROTO_TCP, nil), ports(t, s, unix.IPPROTO_UDP, nil)
		if !listen.Has(tcp) || listen.Has(client) || !bound.Has(udp) || bound.Has(udpClient) {
			t.Errorf("%s: TCP %v, its client %v, UDP %v, its client %v", host, listen.Has(tcp), listen.Has(client), bound.Has(udp), bound.Has(udpClient))
		}
		only := ports(t, s, unix.IPPROTO_TCP, func(a netip.Addr) bool { return a == netip.MustParseAddr(host) })
		other := ports(t, s, unix.IPPROTO_TCP, func(a netip.Addr) bool { return a != netip.MustParseAddr(host) })
		if !only.Has(tcp) || other.Has(tcp) {
			t.Errorf("%s: by its address %v, without it %v", host, only.Has(tcp), other.Has(tcp))
		}
		for _, c := range []interface{ Close() error }{c, l, d, u} {
			c.Close()
		}
		if p := ports(t, s, unix.IPPROTO_TCP, nil); p.Has(tcp) {
			t.Errorf("%s: port %d is found after its end", host, tcp)
		}
		if p := ports(t, s, unix.IPPROTO_UDP, nil); p.Has(udp) {
			t.Errorf("%s: UDP port %d is found after its end", host, udp)
		}
	}
}

// What is no socket of sock_diag's is an error soon, not a wait.
func TestNotDiag(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[1])
	s := New(pair[0])
	defer s.Close()
	begin := time.Now()
	if err := s.Ports(unix.IPPROTO_TCP, new(Ports), nil); err == nil || time.Since(begin) > 3*patience {
		t.Errorf("%v after %v", err, time.Since(begin))
	}
}

// Thousands of servers fill several answers.
func TestMany(t *testing.T) {
	s := open(t)
	want := new(Ports)
	for range 3000 {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		want.Add(l.Addr().(*net.TCPAddr).AddrPort().Port())
	}
	begin := time.Now()
	got := ports(t, s, unix.IPPROTO_TCP, nil)
	t.Logf("3000 servers: %v", time.Since(begin))
	want.Subtract(got)
	if *want != (Ports{}) {
		t.Error("some servers are not found")
	}
}

func TestSet(t *testing.T) {
	var a, b Ports
	a.Add(1)
	a.Add(65535)
	b.Add(65535)
	b.Add(64)
	a.Union(&b)
	if !a.Has(1) || !a.Has(64) || !a.Has(65535) || a.Has(0) {
		t.Error("union")
	}
	a.Subtract(&b)
	a.Remove(1)
	if a != (Ports{}) {
		t.Error("difference")
	}
}

// FuzzRead: whatever a message says, it is read or refused.
func FuzzRead(f *testing.F) {
	f.Add([]byte{16, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{20, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 254, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		s := &Socket{sequence: 1}
		s.read(b, new(Ports), func(netip.Addr) bool { return true })
	})
}
