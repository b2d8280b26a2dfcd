package network

import (
	"maps"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// connected are two ends of a connection.
func connected(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range []**net.UnixConn{&a, &b} {
		if *c, err = connOf(fds[i]); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { (*c).Close() })
	}
	return a, b
}

// Descriptors arrive as what they were sent as, whatever their order and number.
func TestDescriptorsKeepTheirRoles(t *testing.T) {
	a, b := connected(t)
	open := func() (fd int, inode uint64) {
		t.Helper()
		r, w, err := os.Pipe() // of an inode of its own
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close(); w.Close() })
		return int(r.Fd()), inodeOf(t, int(r.Fd()))
	}
	for _, roles := range [][]role{
		{roleTAP}, {roleTAP, roleProcess}, {roleTAP, roleConnection}, {roleTAP, roleAgent}, {roleConnection, roleAgent, roleTAP},
	} {
		sent, want := descriptors{}, map[role]uint64{}
		for _, r := range roles {
			sent[r], want[r] = open()
		}
		listed, fds := sent.list()
		if err := send(a, order{Op: opKeep, Roles: listed}, fds...); err != nil {
			t.Fatal(err)
		}
		var o order
		fds, err := receive(b, &o)
		if err != nil {
			t.Fatal(err)
		}
		received, err := assign(o.Roles, fds)
		if err != nil {
			t.Fatal(err)
		}
		got := map[role]uint64{}
		for r, fd := range received {
			got[r] = inodeOf(t, fd)
		}
		received.close()
		if !maps.Equal(got, want) {
			t.Errorf("%v: received %v, want %v", roles, got, want)
		}
	}
}

func inodeOf(t *testing.T, fd int) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

// What a message says of its descriptors must be true.
func TestDescriptorsWithoutRoles(t *testing.T) {
	for name, roles := range map[string][]role{
		"none named": nil, "one too few": {roleTAP}, "one too many": {roleTAP, roleAgent, roleProcess}, "one twice": {roleTAP, roleTAP},
	} {
		if d, err := assign(roles, []int{100, 101}); err == nil {
			t.Errorf("%s: taken for %v", name, d)
		}
	}
}
