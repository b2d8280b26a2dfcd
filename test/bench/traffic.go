package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// traffic is a running pair of generators in a scene.
type traffic struct {
	*page
	scene          *scene
	server, client *process
}

// process is a generator. What it writes says why it ended.
type process struct {
	cmd  *exec.Cmd
	out  strings.Builder // read after done
	done chan struct{}
}

// defaultPatience outlasts a peer that loses a SYN, which is sent again after
// one second and three.
const defaultPatience = 8 * time.Second

// newTraffic starts server and client and waits until the load has begun.
func (s *scene) newTraffic(ctx context.Context, l load) (_ *traffic, err error) {
	p, shared, err := newPage()
	if err != nil {
		return nil, err
	}
	defer shared.Close()
	p.rate.Store(l.rate)
	t := &traffic{page: p, scene: s}
	defer func() {
		if err != nil {
			t.close()
		}
	}()
	listener, port, err := s.listen(l)
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	if s.targetPort != 0 {
		port = s.targetPort
	}
	l.Target = netip.AddrPortFrom(s.target, port)
	client := l
	l.Server = true
	if t.server, err = startGenerator(s.servers, l, shared, listener); err != nil {
		return nil, err
	}
	if t.client, err = startGenerator(s.client, client, shared); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(l.patience, defaultPatience))
	defer cancel()
	if err := t.wait(ctx, func() bool { return t.ready.Load() >= uint64(l.ready) }); err != nil {
		return nil, err
	}
	if s.together {
		return t, t.together()
	}
	return t, nil
}

// listen makes the server's socket, which is ready for clients from then on.
func (s *scene) listen(l load) (f *os.File, port uint16, err error) {
	udp := l.udp()
	err = s.servers.Do(func() error {
		typ := unix.SOCK_STREAM
		if udp {
			typ = unix.SOCK_DGRAM
		}
		fd, err := unix.Socket(unix.AF_INET, typ|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		f = os.NewFile(uintptr(fd), "server")
		if udp && !l.defaultBuffer {
			// As much as is granted, so that loss is the path's and not the
			// server's, which waits for a processor at times.
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 8<<20)
		}
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: s.server.As4(), Port: int(s.port)}); err != nil {
			return os.NewSyscallError("bind", err)
		}
		if !udp {
			if err := unix.Listen(fd, 4096); err != nil {
				return os.NewSyscallError("listen", err)
			}
		}
		sa, err := unix.Getsockname(fd)
		if err != nil {
			return os.NewSyscallError("getsockname", err)
		}
		port = uint16(sa.(*unix.SockaddrInet4).Port)
		return nil
	})
	if err != nil && f != nil {
		f.Close()
	}
	return f, port, err
}

func startGenerator(ns *harness.NetNS, l load, files ...*os.File) (*process, error) {
	env, err := l.environment()
	if err != nil {
		return nil, err
	}
	g := &process{cmd: exec.Command("/proc/self/exe"), done: make(chan struct{})}
	g.cmd.Env = append(os.Environ(), env...)
	g.cmd.Stderr = &g.out
	g.cmd.ExtraFiles = files
	if err := ns.Start(g.cmd); err != nil {
		return nil, fmt.Errorf("start generator: %w", err)
	}
	go g.wait()
	return g, nil
}

func (g *process) wait() {
	_ = g.cmd.Wait() // it was killed, or has said why it ended
	close(g.done)
}

func (g *process) kill() {
	_ = g.cmd.Process.Signal(syscall.SIGKILL) // it may have ended already
	<-g.done
}

// wait waits until a condition holds or something has ended.
func (t *traffic) wait(ctx context.Context, f func() bool) error {
	for !f() {
		select {
		case <-t.server.done:
			return fmt.Errorf("server: %s", strings.TrimSpace(t.server.out.String()))
		case <-t.client.done:
			return fmt.Errorf("client: %s", strings.TrimSpace(t.client.out.String()))
		case <-ctx.Done():
			err := fmt.Errorf("%d connections carried a byte: %w", t.ready.Load(), ctx.Err())
			if t.scene.helper != nil {
				err = errors.Join(err, t.scene.helper.alive())
			}
			return err
		case <-time.After(2 * time.Millisecond):
		}
	}
	return nil
}

// together puts client, helper and server on one processor.
func (t *traffic) together() error {
	return errors.Join(t.scene.helper.pin(1), pin([]int{t.client.cmd.Process.Pid, t.server.cmd.Process.Pid}, 1))
}

func (t *traffic) close() {
	for _, g := range []*process{t.client, t.server} {
		if g != nil {
			g.kill()
		}
	}
	t.page.unmap()
}

// reading is the state of a load at one moment.
type reading struct {
	at    time.Time
	done  uint64
	sent  uint64
	timed uint64
	cpu   time.Duration // of the helper; 0 for a ceiling
	all   time.Duration // the same with client and server
}

func (t *traffic) read() (r reading, err error) {
	if r.cpu, err = t.scene.helperCPU(); err != nil {
		return r, err
	}
	r.all = r.cpu
	for _, g := range []*process{t.client, t.server} {
		used, err := processCPU(g.cmd.Process.Pid)
		if err != nil {
			return r, fmt.Errorf("read CPU clock of generator: %w", err)
		}
		r.all += used
	}
	r.at, r.done, r.sent, r.timed = time.Now(), t.total(), t.sent.Load(), t.timed.Load()
	return r, nil
}

// span is what happened between two readings.
type span struct {
	seconds float64
	done    float64
	sent    float64
	cpu     float64  // seconds, of the helper
	all     float64  // the same with client and server
	delays  []uint32 // sorted, nanoseconds
}

// window lets the load settle and watches it for d.
func (t *traffic) window(ctx context.Context, settle, d time.Duration) (s span, err error) {
	if err := pause(ctx, settle); err != nil {
		return s, err
	}
	a, err := t.read()
	if err != nil {
		return s, err
	}
	if err := pause(ctx, d); err != nil {
		return s, err
	}
	b, err := t.read()
	if err != nil {
		return s, err
	}
	return t.between(a, b), nil
}

func (t *traffic) between(a, b reading) span {
	s := span{
		seconds: b.at.Sub(a.at).Seconds(),
		done:    float64(b.done - a.done),
		sent:    float64(b.sent - a.sent),
		cpu:     (b.cpu - a.cpu).Seconds(),
		all:     (b.all - a.all).Seconds(),
		delays:  slices.Clone(t.delays[a.timed:b.timed]),
	}
	slices.Sort(s.delays)
	return s
}

// pause waits for d, unless ctx ends first.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
