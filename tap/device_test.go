package tap

import (
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"epiphyte/internal/testnet"

	"golang.org/x/sys/unix"
)

// iovec gathers buffers.
func iovec(bufs ...[]byte) []unix.Iovec {
	iov := make([]unix.Iovec, len(bufs))
	for i, b := range bufs {
		iov[i].Base = &b[0]
		iov[i].SetLen(len(b))
	}
	return iov
}

// patience bounds the wait for what comes by itself.
const patience = 10 * time.Second

// ready polls a descriptor until something happens to it.
func ready(t *testing.T, fd int, events int16, timeout time.Duration) bool {
	t.Helper()
	p := []unix.PollFd{{Fd: int32(fd), Events: events}}
	for deadline := time.Now().Add(timeout); ; {
		n, err := unix.Poll(p, max(0, int(time.Until(deadline).Milliseconds())))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			t.Fatalf("poll: %v", err)
		}
		return n == 1
	}
}

// exchangeARP asks the guest's kernel for the MAC of its address, as the gateway
// would, and waits for the answer among whatever else comes.
func exchangeARP(t *testing.T, d *Device) {
	t.Helper()
	exchangeARPBy(t, d, d)
}

// exchangeARPBy asks by one queue and is answered by any of several.
func exchangeARPBy(t *testing.T, d *Device, queues ...*Device) {
	t.Helper()
	exchangeARPAt(t, d.HardwareAddr(), d, queues...)
}

// exchangeARPAt is for a guest that has got another MAC than the device reports.
func exchangeARPAt(t *testing.T, mac [6]byte, d *Device, queues ...*Device) {
	t.Helper()
	head := 0
	if d.VNetHdr() {
		head = vnetHdrLen
	}
	gateway := []byte{0x52, 0x55, 10, 0, 2, 2}
	ask := make([]byte, head, head+42)
	ask = append(ask, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
	ask = append(ask, gateway...)
	ask = append(ask, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
	ask = append(ask, gateway...)
	ask = append(ask, 10, 0, 2, 2)
	ask = append(ask, 0, 0, 0, 0, 0, 0, 10, 0, 2, 100)
	// In two pieces, as the stack will write.
	if n, errno := d.Writev(iovec(ask[:head+14], ask[head+14:])); errno != 0 || n != len(ask) {
		t.Fatalf("write: %d, %v", n, errno)
	}
	buf := make([]byte, 70000)
	for range 100 {
		fds := make([]unix.PollFd, len(queues))
		for i, q := range queues {
			fds[i] = unix.PollFd{Fd: int32(q.FD()), Events: unix.POLLIN}
		}
		polled, err := unix.Poll(fds, 5000)
		if err == unix.EINTR {
			continue
		}
		if err != nil || polled == 0 {
			break
		}
		q := queues[slices.IndexFunc(fds, func(p unix.PollFd) bool { return p.Revents != 0 })]
		n, errno := q.Readv(iovec(buf[:head+14], buf[head+14:]))
		if errno != 0 {
			t.Fatalf("read: %v", errno)
		}
		frame := buf[head:n]
		if len(frame) < 42 || binary.BigEndian.Uint16(frame[12:]) != 0x0806 || frame[21] != 2 {
			continue
		}
		if [6]byte(frame[22:28]) != mac || [4]byte(frame[28:32]) != [4]byte{10, 0, 2, 100} {
			t.Errorf("reply %x, want %x at 10.0.2.100", frame, mac)
		}
		return
	}
	t.Error("no ARP reply")
}

func TestB3_DeletedDeviceIsNoticed(t *testing.T) {
	for _, plain := range []bool{false, true} {
		g := newGuest(t, nesting{})
		d := open(t, Config{Target: Target{PID: g.pid}, Name: "tap0", NoOffload: plain})
		buf := make([]byte, 2048)
		if _, errno := d.Readv(iovec(buf)); errno != unix.EAGAIN {
			t.Errorf("read of an idle device: %v", errno)
		}
		g.do(command{Do: "delete", Name: "tap0"})
		if !ready(t, d.FD(), unix.POLLIN, time.Second) {
			t.Error("nothing to poll for")
		}
		if _, errno := d.Readv(iovec(buf)); errno != unix.EBADFD {
			t.Errorf("read: %v, want EBADFD", errno)
		}
		if _, errno := d.Writev(iovec(buf)); errno != unix.EBADFD {
			t.Errorf("write: %v, want EBADFD", errno)
		}
	}
}

func TestOpen_Descriptor(t *testing.T) {
	g := newGuest(t, nesting{})
	for _, plain := range []bool{false, true} {
		made := open(t, Config{Target: Target{PID: g.pid}, Name: "tap0", NoOffload: plain, Configure: network()})
		d, err := Open(t.Context(), Config{Target: Target{FD: made.FD()}})
		if err != nil {
			t.Fatal(err)
		}
		if infoOf(d) != infoOf(made) {
			t.Errorf("info %+v, want %+v", infoOf(d), infoOf(made))
		}
		// The caller's copy may go.
		if err := made.Close(); err != nil {
			t.Error(err)
		}
		exchangeARP(t, d)
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
	t.Run("header without offloads", func(t *testing.T) {
		made := open(t, Config{Target: Target{PID: g.pid}, Name: "tap0", Configure: network()})
		d := open(t, Config{Target: Target{FD: made.FD()}, NoOffload: true})
		if !d.VNetHdr() || d.Offload() {
			t.Errorf("info %+v", infoOf(d))
		}
		exchangeARP(t, d)
	})
}

// A message socket carries frames as a TAP does, one per read.
func TestOpen_DescriptorOfSocket(t *testing.T) {
	sp, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(sp[0])
	defer unix.Close(sp[1])
	d := open(t, Config{Target: Target{FD: sp[0]}})
	if d.VNetHdr() || d.Offload() || d.HardwareAddr() != [6]byte{} {
		t.Errorf("info %+v", infoOf(d))
	}
	if n, errno := d.Writev(iovec([]byte("head"), []byte("body"))); n != 8 || errno != 0 {
		t.Errorf("write: %d, %v", n, errno)
	}
	buf := make([]byte, 64)
	if n, err := unix.Read(sp[1], buf); n != 8 || err != nil {
		t.Errorf("peer read %d, %v", n, err)
	}
	if _, errno := d.Readv(iovec(buf)); errno != unix.EAGAIN {
		t.Errorf("empty read: %v", errno)
	}
}

func TestOpen_DescriptorErrors(t *testing.T) {
	testnet.NeedTUN(t)
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	_, err = Open(t.Context(), Config{Target: Target{FD: fd}})
	wantError(t, err, unix.EBADFD, "without an interface")
	_, err = Open(t.Context(), Config{Target: Target{FD: 1 << 20}})
	wantError(t, err, unix.EBADF, "use fd 1048576", "open TAP")
}

func TestDevice_ClosedTwice(t *testing.T) {
	g := newGuest(t, nesting{})
	d := open(t, Config{Target: Target{PID: g.pid}, Name: "tap0"})
	for range 2 {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, errno := d.Readv(iovec(make([]byte, 1))); errno != unix.EBADF {
		t.Errorf("read after close: %v", errno)
	}
}
