package test

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// B19: nearly all descriptors that the helper may have are there for connections, if
// that is what the guest wants; beyond them it is told so, and the log tells once why.
func TestB19_FewDescriptors(t *testing.T) {
	ours(t, "a log line of this kind")
	const limit, want = 300, 250
	w := serveWith(t, harness.HelperConfig{Wrap: []string{"sh", "-c", `ulimit -n 300; exec "$0" "$@"`}})
	f := families()[0]
	addr := serveTCP(t, env.Net.Net, "tcp4", net.JoinHostPort(f.server, "0"), echoTCP)
	n := 0
	for ; n < limit; n++ {
		c, err := w.Dial(timeout(t, deadline), "tcp4", hostPort(f.server, addr))
		if err != nil {
			if !isErrno(err, unix.EHOSTUNREACH) {
				t.Errorf("connection %d: %v", n, err)
			}
			break
		}
		defer c.Close()
	}
	t.Logf("%d connections with %d descriptors", n, limit)
	if n < want || n == limit {
		t.Errorf("%d connections with %d descriptors, want %d", n, limit, want)
	}
	saysOnce(t, w.helper, "ulimit -n")
}
