package tap

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOpen_LoopbackOnly: no interface is made, lo is up, and the Device is one on which
// nothing ever happens.
func TestOpen_LoopbackOnly(t *testing.T) {
	g := newGuest(t, nesting{})
	d := open(t, Config{Target: Target{PID: g.pid}, LoopbackOnly: true})
	if link := g.link("tap0"); link.Exists || !link.LoopbackUp {
		t.Errorf("%+v", link)
	}
	b := make([]byte, 100)
	iov := []unix.Iovec{{Base: &b[0], Len: uint64(len(b))}}
	if n, errno := d.Readv(iov); errno != unix.EAGAIN {
		t.Errorf("read: %d, %v", n, errno)
	}
	if n, errno := d.Writev(iov); errno == 0 {
		t.Errorf("%d bytes are taken", n)
	}
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(d.FD()), Events: unix.POLLIN}}, 0); n != 0 || err != nil {
		t.Errorf("it polls as %d, %v", n, err)
	}
	if _, err := Open(t.Context(), Config{Target: Target{FD: int(os.Stdin.Fd()) + 1}, LoopbackOnly: true}); err == nil {
		t.Error("a descriptor is taken for no interface")
	}
}
