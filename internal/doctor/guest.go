package doctor

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"

	"epiphyte/internal/namespace"
	"epiphyte/tap"
)

const (
	guestThing = "guest"
	tapName    = "tap0"
)

// guest is the result of an attempt to make one.
type guest struct {
	err          error
	offload, uso bool // of its TAP
}

// tryGuest makes namespaces with a TAP, and ends them.
func tryGuest() guest {
	p, err := namespace.Start(namespace.Config{Command: []string{"true"}, Interfaces: []string{tapName}})
	if err != nil {
		return guest{err: err}
	}
	defer p.Close()
	d, err := tap.Open(context.Background(), tap.Config{Target: tap.Target{PID: p.PID()}, Name: tapName, Transient: true})
	if err != nil {
		return guest{err: err}
	}
	defer d.Close()
	return guest{offload: d.Offload(), uso: d.USO()}
}

func (g guest) finding() Finding {
	if g.err != nil {
		return fault(guestThing, "a guest cannot start: "+g.err.Error(), "")
	}
	return ok(guestThing, "namespaces and a TAP were made, and given back")
}

func (g guest) offloads() Finding {
	const thing = "offloads"
	switch {
	case g.err != nil:
		return ok(thing, "not known without a guest")
	case g.uso:
		return ok(thing, "the TAP takes segments of TCP and UDP")
	case g.offload:
		return limited(thing, "the TAP takes segments of TCP, but not of UDP, which is slower: Linux 6.2 has them", "", "")
	}
	return limited(thing, "the TAP takes no segments: every packet is carried by itself, which is slower", "", "")
}

// tunDevice opens the TUN device, without attaching to anything.
func tunDevice() Finding {
	const (
		thing  = "TAP device"
		device = "/dev/net/tun"
	)
	fd, err := unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case err == nil:
		unix.Close(fd)
		return ok(thing, device+" opens")
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return fault(thing, device+" is not open to this user", "chmod 0666 "+device)
	case errors.Is(err, unix.ENOENT):
		return fault(thing, "there is no "+device+"; a container is given it by --device "+device,
			"modprobe tun && mkdir -p /dev/net && { test -e "+device+" || mknod -m 0666 "+device+" c 10 200; }")
	}
	return fault(thing, device+": "+err.Error(), "modprobe tun")
}
