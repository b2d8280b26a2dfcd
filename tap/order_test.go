package tap

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"testing"

	"golang.org/x/sys/unix"
)

// What is sent to us is not believed.
func TestAgent_ChecksSockets(t *testing.T) {
	tcp := func(family int) int {
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	a := &talk{}
	if err := a.check(tcp(unix.AF_INET), unix.AF_INET); err != nil {
		t.Errorf("a fresh socket: %v", err)
	}
	bound, listening := tcp(unix.AF_INET), tcp(unix.AF_INET)
	if err := errors.Join(unix.Bind(bound, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(listening, 1)); err != nil {
		t.Fatal(err)
	}
	udp, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(udp)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(pair[:])
	file, err := unix.Open("/dev/null", unix.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(file)
	blocking, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(blocking)
	for name, fd := range map[string]int{
		"of the other family": tcp(unix.AF_INET6), "bound": bound, "listening": listening,
		"UDP": udp, "local": pair[0], "a file": file, "blocking": blocking,
	} {
		if a.check(fd, unix.AF_INET) == nil {
			t.Errorf("a socket is accepted that is %s", name)
		}
	}
}

// B8: where the kernel has no IPv6 it is not asked for it again and again.
func TestB8_AgentWithoutIPv6(t *testing.T) {
	ours, theirs, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ours)
	asked := make(chan byte, 8)
	go func() { // in the agent's place
		defer close(asked)
		defer unix.Close(theirs)
		for {
			var request [requestLen]byte
			if n, err := unix.Read(theirs, request[:]); err != nil || n != requestLen {
				return
			}
			asked <- request[0]
			var answer [reportLen]byte
			var rights []byte
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
			if err == nil && request[0] == unix.AF_INET {
				rights = unix.UnixRights(fd)
			} else {
				binary.LittleEndian.PutUint16(answer[4:], uint16(unix.EAFNOSUPPORT))
			}
			_ = unix.Sendmsg(theirs, answer[:], rights, nil, 0)
			unix.Close(fd)
		}
	}()
	a := &Agent{log: slog.New(slog.DiscardHandler), size: 1, talk: talk{sock: ours}}
	for range 2 {
		if rest, err := a.fill(t.Context()); rest || err != nil {
			t.Errorf("it is to be asked again soon: %v, %v", rest, err)
		}
	}
	fd, ok := a.Socket(unix.AF_INET)
	if !ok {
		t.Fatal("no socket for IPv4")
	}
	unix.Close(fd)
	if _, ok := a.Socket(unix.AF_INET6); ok {
		t.Error("a socket for IPv6")
	}
	_ = unix.Shutdown(ours, unix.SHUT_RDWR)
	times := map[byte]int{}
	for family := range asked {
		times[family]++
	}
	if times[unix.AF_INET6] != 1 {
		t.Errorf("asked for IPv6 %d times", times[unix.AF_INET6])
	}
	a.closed = true
	closeAll(a.pool[v4])
}
