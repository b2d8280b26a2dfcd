package tap

import (
	"errors"
	"log/slog"
	"unsafe"

	"golang.org/x/sys/unix"
)

// deviceInfo is what is known of a device.
type deviceInfo struct {
	name     string
	vnetHdr  bool
	offload  bool
	uso      bool
	outlives bool // us, who attached to it: Close leaves it as it was
	ipv6     bool // the guest has Network.Address6
}

// Device is an open TAP: one queue of frames to and from the guest, or the first
// of several.
//
// What its methods report does not change after Open. Readv and Writev may be
// called by any number of goroutines; Close must not run at the same time as they
// do.
type Device struct {
	deviceInfo
	fd   int
	mac  [6]byte
	more []*Device
}

// newDevice is the device that queues are attached to.
func newDevice(info deviceInfo, queues []result) *Device {
	d := &Device{deviceInfo: info, fd: queues[0].fd}
	// Unknown stays zero: a device that vanished meanwhile shows at the
	// first read.
	d.mac, _ = hardwareAddr(d.fd)
	for _, q := range queues[1:] {
		queue := *d
		queue.fd, queue.more, queue.outlives = q.fd, nil, false
		d.more = append(d.more, &queue)
	}
	return d
}

// Queues returns all queues of the device, itself first. Its Close closes them all.
func (d *Device) Queues() []*Device { return append([]*Device{d}, d.more...) }

// adopt makes a Device of a descriptor that is open already.
func adopt(cfg Config) (*Device, error) {
	op := "use " + cfg.Target.String()
	fd, err := unix.FcntlInt(uintptr(cfg.Target.FD), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fail(op, err, "the caller must pass an open TAP")
	}
	info, err := inspect(op, fd, cfg)
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return newDevice(info, []result{{fd: fd}}), nil
}

// inspect finds out what a foreign descriptor is and settles its offloads.
func inspect(op string, fd int, cfg Config) (info deviceInfo, err error) {
	name, flags, err := tunFlags(fd)
	switch {
	case errors.Is(err, unix.EBADFD):
		return info, fail(op, err, "it is "+tunPath+" without an interface: attach one with TUNSETIFF first")
	case err != nil:
		// Something else that carries frames, like a SOCK_SEQPACKET socket.
		return deviceInfo{name: cfg.Target.String()}, nil
	case flags&unix.IFF_TAP == 0:
		return info, fail(op, errors.New(name+" is a TUN, not a TAP"), "")
	case flags&unix.IFF_NO_PI == 0:
		return info, fail(op, errors.New(name+" has packet information before each frame"), "open it with IFF_NO_PI")
	}
	info = deviceInfo{name: name}
	err = info.settle(fd, flags, !cfg.NoOffload)
	return info, err
}

func (d *Device) log(cfg Config) {
	if cfg.Logger == nil {
		return
	}
	cfg.Logger.Debug("TAP ready",
		slog.String("name", d.name), slog.String("target", cfg.Target.String()),
		slog.Bool("vnet_hdr", d.vnetHdr), slog.Bool("offload", d.offload), slog.Bool("uso", d.uso), slog.Int("queues", 1+len(d.more)))
}

// FD is the descriptor: non-blocking, close-on-exec, pollable. It stays the
// Device's; -1 after Close.
func (d *Device) FD() int { return d.fd }

// Name is the interface's name in the guest's namespace, "fd N" for a target
// descriptor that is no TAP.
func (d *Device) Name() string { return d.name }

// VNetHdr reports whether a virtio-net header of 10 bytes, little-endian,
// precedes each frame in both directions. It may hold without Offload.
func (d *Device) VNetHdr() bool { return d.vnetHdr }

// Offload reports whether the guest's kernel sends partial checksums and TCP
// segments of up to 64 KiB (TSO4 and TSO6), and takes the same from us. It
// implies VNetHdr.
func (d *Device) Offload() bool { return d.offload }

// USO reports whether it sends UDP segments (UDP_SEGMENT) as well. It implies
// Offload.
func (d *Device) USO() bool { return d.uso }

// HasIPv6 reports whether Open has given the guest Network.Address6. If not, although
// it was asked to, IPv6 is off in the guest.
func (d *Device) HasIPv6() bool { return d.ipv6 }

// HardwareAddr is the MAC of the guest's side as it was at Open, zero if
// unknown. The guest may change it at any time.
func (d *Device) HardwareAddr() [6]byte { return d.mac }

// Readv reads one frame, with its header where VNetHdr says so, into iov and
// returns its length in bytes; what does not fit is lost. It never blocks:
// EAGAIN when there is nothing. EBADFD means that the interface was deleted.
func (d *Device) Readv(iov []unix.Iovec) (int, unix.Errno) { return d.transfer(unix.SYS_READV, iov) }

// Writev writes one frame, with its header where VNetHdr says so, gathered from
// iov and returns its length in bytes. It never blocks. EBADFD means that the
// interface was deleted, EIO that it is down, EINVAL that the frame or its
// header is malformed.
func (d *Device) Writev(iov []unix.Iovec) (int, unix.Errno) { return d.transfer(unix.SYS_WRITEV, iov) }

// transfer is a system call that bypasses the scheduler, which is right for a call
// that does not block and wrong for any other.
func (d *Device) transfer(call uintptr, iov []unix.Iovec) (int, unix.Errno) {
	if len(iov) == 0 {
		return 0, unix.EINVAL
	}
	n, _, errno := unix.RawSyscall(call, uintptr(d.fd), uintptr(unsafe.Pointer(&iov[0])), uintptr(len(iov)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

// Close gives the device up. The interface goes with it, unless the caller made
// it persistent or another copy of the descriptor is open. One that Open was given
// (Target.FD) is only closed, because others may go on with theirs. A second Close
// does nothing.
func (d *Device) Close() error {
	if d.fd < 0 {
		return nil
	}
	for _, q := range d.more {
		q.Close()
	}
	fd := d.fd
	d.fd = -1
	if d.outlives && d.offload {
		// The next user of the interface may ask for no header. That an
		// interface which was deleted refuses does not matter.
		setOffload(fd, 0)
	}
	if err := unix.Close(fd); err != nil {
		return fail("close "+d.name, err, "")
	}
	return nil
}
