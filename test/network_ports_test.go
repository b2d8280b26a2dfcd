package test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// tellClients makes a member's servers say who a client is.
func (m *member) tellClients(t testing.TB) {
	t.Helper()
	for _, f := range families() {
		serveTCP(t, m.NetNS, "tcp"+f.v, f.anyHost()+":"+guestPort, func(c *net.TCPConn) {
			fmt.Fprintf(c, "%s: %s", m.Name, c.RemoteAddr())
		})
		servePacket(t, m.NetNS, "udp"+f.v, f.anyHost()+":"+guestPort, func(_ []byte, from net.Addr) []byte {
			return fmt.Appendf(nil, "%s: %s", m.Name, from)
		})
	}
}

// TestN6_Publishes ports of two members at once, TCP and UDP over IPv4 and IPv6: each
// client reaches the right one, which sees the client's own address.
func TestN6_Publishes(t *testing.T) {
	t.Parallel()
	n := newNetworks(t)
	ports := map[string]string{"one": "19201", "two": "19202"}
	for name, port := range ports {
		var flags []string
		for _, f := range families() {
			for _, proto := range []string{"/tcp", "/udp"} {
				flags = append(flags, f.rule(port)+":"+guestPort+proto)
			}
		}
		n.run(t, "web", name, flags...).tellClients(t)
	}
	info := n.inspect(t, "web")
	for name, port := range ports {
		for _, f := range families() {
			seen := origins(f)
			seen[0].seen = info.Gateway.String() // of loopback
			if f.v == "6" {
				seen[0].seen = info.Subnet6.Addr().Next().String()
			}
			for _, o := range seen {
				for _, network := range []string{"tcp", "udp"} {
					c := o.dial(t, f, network+f.v, net.JoinHostPort(o.to, port))
					if network == "udp" {
						if _, err := c.Write([]byte("who am I?")); err != nil {
							t.Fatal(err)
						}
					}
					b := make([]byte, 100)
					k, err := c.Read(b)
					if want := name + ": " + hostPort(o.seen, c.LocalAddr()); err != nil || string(b[:k]) != want {
						t.Errorf("%s by %s over %s: %q, %v, want %q", o.name, network, f.name, b[:k], err, want)
					}
					c.Close()
				}
			}
		}
	}
	for _, m := range info.members {
		if len(m.Publish) != 4 {
			t.Errorf("%s publishes %q", m.Name, m.Publish)
		}
	}
}

// TestN6_BusyPort is one line that says which, and leaves neither a member nor
// another port, whether the host or another member has it.
func TestN6_BusyPort(t *testing.T) {
	t.Parallel()
	n := newNetworks(t)
	n.run(t, "web", "first", "-p", "127.0.0.1:19212:7000")
	busy := must(env.Host.Listen("tcp4", "127.0.0.1:19211"))(t)
	defer busy.Close()
	for _, port := range []string{"19211", "19212"} {
		_, stderr, code := n.try(t, "run", "--network", "web", "--name", "second",
			"-p", "127.0.0.1:19213:7000", "-p", "127.0.0.1:"+port+":7000", "--", "true")
		if code != 1 || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "127.0.0.1:"+port) {
			t.Errorf("%s: exit status %d, %q", port, code, stderr)
		}
		if err := refusal(t, env.Host, "tcp4", "127.0.0.1:19213"); !isErrno(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: the other port: %v", port, err)
		}
		if members := n.inspect(t, "web").members; len(members) != 1 {
			t.Errorf("%s: members: %v", port, members)
		}
	}
	_, stderr, code := n.try(t, "run", "--network", "web", "--name", "first", "--", "true")
	if code != 1 || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "first") {
		t.Errorf("a name that is taken: exit status %d, %q", code, stderr)
	}
}

// TestN6_ControlSocket: ports of members are published and unpublished by the network's
// HTTP socket, and stay when the worker is replaced; flows name their member.
func TestN6_ControlSocket(t *testing.T) {
	t.Parallel()
	outside := newOutside(t)
	n := newNetworks(t)
	db := n.run(t, "web", "db")
	db.serveEcho(t)
	socket := n.file("web.api")
	if _, stderr, code := n.try(t, "publish", "--http-socket", socket, "127.0.0.1:19221:7000"); code != 1 || strings.Count(stderr, "\n") != 1 {
		t.Errorf("a port of nobody: exit status %d, %q", code, stderr)
	}
	if _, stderr, code := n.try(t, "publish", "--http-socket", socket, "--guest", "10.90.0.99", "127.0.0.1:19221:7000"); code != 1 || strings.Count(stderr, "\n") != 1 {
		t.Errorf("a port of an address that nobody has: exit status %d, %q", code, stderr)
	}
	n.do(t, "publish", "--network", "web", "--guest", db.IPv4.String(), "127.0.0.1:19221:7000")
	n.do(t, "publish", "--network", "web", "--guest", db.IPv6.String(), "[::1]:19221:7000")
	reached := func() error {
		for _, to := range []string{"127.0.0.1:19221", "[::1]:19221"} {
			c, err := env.Host.Dial(timeout(t, deadline), "tcp", to)
			if err != nil {
				return err
			}
			err = says(c, "hello")
			c.Close()
			if err != nil {
				return err
			}
		}
		return nil
	}
	if err := reached(); err != nil {
		t.Fatal(err)
	}
	if members := n.inspect(t, "web").members; len(members) != 1 || len(members[0].Publish) != 2 {
		t.Errorf("members: %+v", members)
	}
	kill(t, n.inspect(t, "web").Worker)
	eventually(t, 2*deadline, reached)

	c := client(t, db.NetNS, "tcp4", net.JoinHostPort(outside.v4, echoPort))
	in := client(t, env.Host, "tcp4", "127.0.0.1:19221")
	for _, c := range []io.ReadWriter{c, in} {
		if err := says(c, "hello"); err != nil {
			t.Fatal(err)
		}
	}
	var flows struct {
		Flows []struct{ Member, Guest, Remote, Origin string }
	}
	if err := json.Unmarshal([]byte(n.do(t, "flows", "--http-socket", socket, "--json")), &flows); err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, f := range flows.Flows {
		found[f.Origin+" "+f.Member] = true
	}
	if !found["guest db"] || !found["published db"] {
		t.Errorf("flows: %+v", flows)
	}
	if table := n.do(t, "flows", "--network", "web"); !regexp.MustCompile(`(?m)^MEMBER +PROTO .*\n(.*\n)*db +tcp +`).MatchString(table) {
		t.Errorf("flows:\n%s", table)
	}

	var ports struct {
		Ports []struct {
			ID       int    `json:"id"`
			HostAddr string `json:"host_addr"`
		}
	}
	if err := json.Unmarshal([]byte(n.do(t, "ports", "--network", "web", "--json")), &ports); err != nil || len(ports.Ports) != 2 {
		t.Fatalf("ports: %+v, %v", ports, err)
	}
	for _, p := range ports.Ports {
		n.do(t, "unpublish", "--network", "web", fmt.Sprint(p.ID))
	}
	for _, to := range []string{"127.0.0.1:19221", "[::1]:19221"} {
		if err := refusal(t, env.Host, "tcp", to); !isErrno(err, syscall.ECONNREFUSED) {
			t.Errorf("%s after unpublish: %v", to, err)
		}
	}
	if err := says(in, "still there"); err != nil {
		t.Errorf("the client from before: %v", err)
	}
	if members := n.inspect(t, "web").members; len(members) != 1 || len(members[0].Publish) != 0 {
		t.Errorf("members: %+v", members)
	}
}

// TestN6_InternalPublishesNothing and says so.
func TestN6_InternalPublishesNothing(t *testing.T) {
	t.Parallel()
	n := newNetworks(t)
	n.do(t, "network", "create", "vault", "--internal")
	_, stderr, code := n.try(t, "run", "--network", "vault", "-p", "127.0.0.1:19236:7000", "--", "true")
	if code != 1 || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "internal") {
		t.Errorf("exit status %d, %q", code, stderr)
	}
	if err := refusal(t, env.Host, "tcp4", "127.0.0.1:19236"); !isErrno(err, syscall.ECONNREFUSED) {
		t.Errorf("the port: %v", err)
	}
}

// TestN6_UnpublishedStaysSo: a port that was asked for at join and taken back is not back
// with the next worker, in whichever form it was asked for.
func TestN6_UnpublishedStaysSo(t *testing.T) {
	t.Parallel()
	n := newNetworks(t)
	n.run(t, "web", "db", "-p", "19231:80", "-p", "19232/udp", "-p", "lo:19233", "-p", "19234-19235:90")
	var listed struct {
		Ports []struct{ ID int } `json:"ports"`
	}
	if err := json.Unmarshal([]byte(n.do(t, "ports", "--json", "--network", "web")), &listed); err != nil || len(listed.Ports) != 4 {
		t.Fatalf("published: %+v, %v", listed, err)
	}
	for _, p := range listed.Ports {
		n.do(t, "unpublish", "--network", "web", fmt.Sprint(p.ID))
	}
	before := n.inspect(t, "web")
	if published := before.members[0].Publish; len(published) > 0 {
		t.Errorf("still published: %q", published)
	}
	if err := syscall.Kill(before.Worker, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, deadline, func() error {
		after, err := n.tryInspect(t, "web")
		if err == nil && after.Worker == before.Worker {
			err = fmt.Errorf("worker %d is there", after.Worker)
		}
		return err
	})
	if out := n.do(t, "ports", "--network", "web"); strings.Contains(out, "1923") {
		t.Errorf("published again:\n%s", out)
	}
}
