package sockio_test

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"epiphyte/internal/sockio"
	"epiphyte/internal/testnet"
)

// A stream socket has a peer once it is connected, be it itself.
func TestConnected(t *testing.T) {
	for family, addr := range map[int]string{unix.AF_INET: "127.0.0.1", unix.AF_INET6: "::1"} {
		at := func(port uint16) (netip.AddrPort, *sockio.Addr) {
			a := netip.AddrPortFrom(netip.MustParseAddr(addr), port)
			sa := new(sockio.Addr)
			sa.Set(a)
			return a, sa
		}
		open := func() int {
			fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			testnet.NeedAddress(t, err)
			t.Cleanup(func() { unix.Close(fd) })
			_, any := at(0)
			if errno := sockio.Bind(fd, any); errno != 0 {
				testnet.NeedAddress(t, errno)
			}
			return fd
		}
		self, listener, other := open(), open(), open()
		if err := unix.Listen(listener, 1); err != nil {
			t.Fatal(err)
		}
		if sockio.Connected(self) {
			t.Error("connected before connect")
		}
		for _, tt := range []struct{ fd, to int }{{self, self}, {other, listener}} {
			to, sa := at(sockio.LocalAddr(tt.to).Port())
			if errno := sockio.Connect(tt.fd, sa); errno != 0 {
				t.Fatalf("connect to %v: %v", to, errno)
			}
			if !sockio.Connected(tt.fd) {
				t.Errorf("not connected to %v", to)
			}
		}
	}
}
