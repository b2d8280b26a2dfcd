package test

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// spliceOnly has pasta serve a guest in the background without an interface. What is said
// of one goes by unheard.
func spliceOnly(t testing.TB, g *harness.Guest, args ...string) *daemon {
	t.Helper()
	d := pastaDaemon(t, g, append([]string{"--splice-only"}, args...)...)
	if links, err := g.Links(); err != nil || len(links) > 0 {
		t.Errorf("interfaces beside lo: %v, %v", links, err)
	}
	return d
}

// TestPastaSpliceOnly: without an interface in the guest, ports of loopback are forwarded
// both ways, clients of the host's other addresses have none, and all ends with the guest.
func TestPastaSpliceOnly(t *testing.T) {
	t.Parallel()
	g := must(env.NewGuest())(t)
	var tcp, udp []string
	for i, f := range families() {
		tcp = append(tcp, fmt.Sprintf("%d:%s", 18300+i, hostService(t, f, tellWho)))
		udp = append(udp, fmt.Sprintf("%d:%s", 18300+i, port(servePacket(t, env.Host, "udp"+f.v, net.JoinHostPort(f.loop, "0"), echoPacket).LocalAddr())))
	}
	d := spliceOnly(t, g, "-t", "18302-18303:80-81", "-u", "18302:53", "-T", strings.Join(tcp, ","), "-U", strings.Join(udp, ","))
	if err := g.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err == nil && lo.Attrs().Flags&net.FlagUp == 0 {
			t.Error("lo is down")
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for i, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			serveTCP(t, g.NetNS, "tcp"+f.v, net.JoinHostPort(f.anyHostAddr(), "80"), tellBoth)
			servePacket(t, g.NetNS, "udp"+f.v, net.JoinHostPort(f.loop, "53"), peerOfDatagram)
			c := client(t, env.Host, "tcp"+f.v, net.JoinHostPort(f.loop, "18302"))
			if got, err := io.ReadAll(c); err != nil || string(got) != f.loop+" "+f.loop {
				t.Errorf("in: the server sees %q, %v", got, err)
			}
			if err := refusal(t, env.Host, "tcp"+f.v, net.JoinHostPort(f.loop, "18303")); !isErrno(err, unix.ECONNRESET) {
				t.Errorf("a port without a server: %v", err)
			}
			if err := refusal(t, env.Host, "tcp"+f.v, net.JoinHostPort(f.host(), "18302")); !isErrno(err, unix.ECONNRESET) {
				t.Errorf("a client of another address: %v", err)
			}
			wantPeer(t, client(t, env.Host, "udp"+f.v, net.JoinHostPort(f.loop, "18302")), f.loop)

			at := net.JoinHostPort(f.loop, strconv.Itoa(18300+i))
			c = client(t, g.NetNS, "tcp"+f.v, at)
			if got, err := io.ReadAll(c); err != nil || string(got) != f.loop {
				t.Errorf("out: the server sees %q, %v", got, err)
			}
			if err := says(client(t, g.NetNS, "udp"+f.v, at), "hello"); err != nil {
				t.Errorf("out by UDP: %v", err)
			}
		})
	}
	agents := childrenOf(t, d.pid)
	if len(agents) == 0 {
		t.Error("there is no agent, whose end could be seen")
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	d.endsSoon(t)
	for _, pid := range agents {
		eventually(t, deadline, func() error {
			if err := unix.Kill(pid, 0); err != unix.ESRCH {
				return fmt.Errorf("its child %d: %v", pid, err)
			}
			return nil
		})
	}
}

// childrenOf are the processes that a process has started.
func childrenOf(t testing.TB, pid int) (list []int) {
	t.Helper()
	for _, path := range must(filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid)))(t) {
		for _, child := range strings.Fields(string(must(os.ReadFile(path))(t))) {
			list = append(list, must(strconv.Atoi(child))(t))
		}
	}
	return list
}

// TestPastaSpliceOnlyAuto: ports follow servers in both directions, those of the guest's
// loopback too.
func TestPastaSpliceOnlyAuto(t *testing.T) {
	t.Parallel()
	g := newGuest(t)
	spliceOnly(t, g, "-t", "auto", "-u", "none", "-T", "auto", "-U", "none")
	serveTCP(t, g.NetNS, "tcp4", "127.0.0.1:18304", echoTCP)
	serveTCP(t, env.Host, "tcp4", "127.0.0.1:18305", echoTCP)
	for at, ns := range map[string]*harness.NetNS{"127.0.0.1:18304": env.Host, "127.0.0.1:18305": g.NetNS} {
		eventually(t, deadline, func() error {
			c, err := ns.Dial(timeout(t, deadline), "tcp4", at)
			if err != nil {
				return err
			}
			defer c.Close()
			return says(c, "hello")
		})
	}
}

// TestPastaSpliceOnlyCommand: a command has lo alone.
func TestPastaSpliceOnlyCommand(t *testing.T) {
	t.Parallel()
	args := append(slices.Clone(closedPorts), "--splice-only", "--", "sh", "-c", "tail -n +3 /proc/net/dev | cut -d: -f1; cat /proc/net/if_inet6 | cut -c1-32")
	got := call(t, pastaLink(t), args...)
	if want := []string{"lo", "00000000000000000000000000000001"}; got.code != 0 || !slices.Equal(strings.Fields(got.said), want) {
		t.Errorf("%+v, want %q", got, want)
	}
}
