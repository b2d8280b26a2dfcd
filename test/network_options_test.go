package test

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// TestN8_OptionsThatCannotWork are one line that names what is wrong, at once, and
// leave nothing: no member and, where none was, no network.
func TestN8_OptionsThatCannotWork(t *testing.T) {
	t.Parallel()
	n := newNetworks(t)
	n.run(t, "web", "db", "--ip", "10.90.0.50")
	pid := fmt.Sprint(newGuest(t).PID)
	long := strings.Repeat("x", 64)
	for _, tc := range []struct{ args, says string }{
		{"run --network -web -- true", "-web"},
		{"run --network we/b -- true", "we/b"},
		{"run --network " + long + " -- true", "63"},
		{"run --network web --network web -- true", "twice"},
		{"run --network web --name d_b! -- true", "d_b!"},
		{"run --network web --name one --name two -- true", "--name"},
		{"run --network web --alias ..x -- true", "..x"},
		{"run --network web --name DB -- true", "DB"},
		{"run --network web --ip 10.90.0.50 -- true", "10.90.0.50"},
		{"run --network web --ip 10.91.0.2 -- true", "10.91.0.2"},
		{"run --network web --ip 10.90.0.1 -- true", "10.90.0.1"},
		{"run --network web --ip 10.90.0.0 -- true", "10.90.0.0"},
		{"run --network web --ip 10.90.0.255 -- true", "10.90.0.255"},
		{"run --network web --ip nonsense -- true", "nonsense"},
		{"run --network web --ip6 fd90:0:0:9::2 -- true", "fd90:0:0:9::2"},
		{"run --network web --ip6 10.90.0.3 -- true", "10.90.0.3"},
		{"run --network web --mac 01:00:00:00:00:01 -- true", "01:00:00:00:00:01"},
		{"run --network web --mac nonsense -- true", "nonsense"},
		{"run --network web --mtu 1500 -- true", "--mtu"},
		{"run --network web --queues 2 -- true", "--queues"},
		{"run --network web --cidr 10.1.0.0/24 -- true", "--cidr"},
		{"run --network web --disable-dns -- true", "--disable-dns"},
		{"run --network web --enable-ipv6 -- true", "--enable-ipv6"},
		{"run --name db -- true", "--network"},
		{"run --ip 10.90.0.3 -- true", "--network"},
		{"run --network web --name other -p nonsense -- true", "nonsense"},
		{"attach --network web", "process"},
		{"attach " + pid, "--network"},
		{"attach --network web 999999999", "999999999"},
		{"attach --network web /nonexistent", "/nonexistent"},
		{"attach --network web --name db " + pid, "db"},
		{"attach --network web " + pid + " averylonginterfacename", "averylonginterfacename"},
		{"network create we/b", "we/b"},
		{"network create web", "running"},
		{"network create x --subnet nonsense", "nonsense"},
		{"network create x --subnet 10.90.7.1/24", "10.90.7.0/24"},
		{"network create x --subnet 10.90.7.0/31", "10.90.7.0/31"},
		{"network create x --subnet 127.0.0.0/24", "127.0.0.0/24"},
		{"network create x --subnet fd00::/64", "fd00::/64"},
		{"network create x --subnet6 fd00::/96", "fd00::/96"},
		{"network create x --subnet6 10.90.7.0/24", "10.90.7.0/24"},
		{"network create x --mtu 70000", "MTU"},
		{"network create x --ipv4-only --subnet6 fd00::/64", "IPv6"},
		{"network create x --internal --allow-host-loopback", "loopback"},
		{"network rm nobody", "nobody"},
		{"network rm web", "members"},
		{"network inspect nobody", "nobody"},
		{"network disconnect nobody db", "nobody"},
		{"network disconnect web nobody", "nobody"},
		{"network upgrade nobody", "nobody"},
		{"ports --network nobody", "nobody is not running"},
		{"network connect web 999999999", "999999999"},
		{"network nonsense", "nonsense"},
		{"network ls extra", "ls"},
		{"network create", "create"},
	} {
		begin := time.Now()
		stdout, stderr, code := n.try(t, strings.Fields(tc.args)...)
		took := time.Since(begin)
		text := stdout + stderr
		if code != 1 || stderr == "" || !strings.Contains(stderr, tc.says) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%s: exit status %d, %q, want one line about %q", tc.args, code, text, tc.says)
		}
		if late(t, took, 3*time.Second) {
			t.Errorf("%s: took %v", tc.args, took)
		}
	}
	if all := n.list(t); len(all) != 1 || all[0].Name != "web" {
		t.Errorf("networks: %+v", all)
	}
	if members := n.inspect(t, "web").members; len(members) != 1 {
		t.Errorf("members: %+v", members)
	}
}

// TestN8_Definition: what is created counts when the network starts, outlives it, and
// goes by rm.
func TestN8_Definition(t *testing.T) {
	t.Parallel()
	n := newNetworks(t)
	n.do(t, "network", "create", "lab", "--subnet", "10.123.4.0/28", "--subnet6", "fd12:3456::/64", "--mtu", "1400", "--allow-host-loopback")
	if _, stderr, code := n.try(t, "network", "create", "lab"); code != 1 || !strings.Contains(stderr, "lab") {
		t.Errorf("created twice: exit status %d, %q", code, stderr)
	}
	if out := n.do(t, "network", "inspect", "lab"); !strings.Contains(out, "10.123.4.0/28") || !strings.Contains(out, "host-loopback") {
		t.Errorf("inspect before it runs:\n%s", out)
	}
	a := n.run(t, "lab", "a", "--ip", "10.123.4.9", "--ip6", "fd12:3456::99", "--mac", "02:00:00:00:00:99")
	b := n.run(t, "lab", "b")
	if a.IPv4.String() != "10.123.4.9" || a.IPv6.String() != "fd12:3456::99" || a.MAC != "02:00:00:00:00:99" ||
		b.IPv4.String() != "10.123.4.2" || b.IPv6.String() != "fd12:3456::2" {
		t.Errorf("members: %+v, %+v", a.shownMember, b.shownMember)
	}
	a.change(t, func(l netlink.Link) error {
		if l.Attrs().MTU != 1400 || l.Attrs().HardwareAddr.String() != a.MAC {
			t.Errorf("the interface has %+v", l.Attrs())
		}
		return nil
	})
	for _, f := range families() {
		if got := must(a.Address(a.Interface, f.af))(t); got.String() != a.address(f) {
			t.Errorf("the interface has %v, want %s", got, a.address(f))
		}
		loop := serveTCP(t, env.Host, "tcp"+f.v, net.JoinHostPort(f.loop, "0"), echoTCP)
		if err := says(client(t, a.NetNS, "tcp"+f.v, hostPort(a.gateway[f.af], loop)), "hello"); err != nil {
			t.Errorf("the host's %s: %v", f.loop, err)
		}
	}
	b.serveEcho(t)
	a.finds(t, b)
	// Of a /28 there are 13 members.
	for i := range 11 {
		n.connect(t, "lab", fmt.Sprint("m", i), newGuest(t).PID)
	}
	if _, stderr, code := n.try(t, "network", "connect", "lab", fmt.Sprint(newGuest(t).PID)); code != 1 || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "--subnet") {
		t.Errorf("one member too many: exit status %d, %q", code, stderr)
	}
	n.do(t, "network", "rm", "--force", "lab")
	if all := n.list(t); len(all) != 0 {
		t.Errorf("networks: %+v", all)
	}
	for _, m := range []*member{a, b} {
		eventually(t, deadline, func() error {
			if !strings.Contains(m.helper.Stderr.String(), "removed this guest") {
				return fmt.Errorf("%s said %q", m.Name, m.helper.Stderr)
			}
			return nil
		})
	}
}

// TestN8_SubnetsAreFree: networks get subnets that neither another one nor a route of
// the host has.
func TestN8_SubnetsAreFree(t *testing.T) {
	n := newNetworks(t)
	hostAddress(t, "up0", "10.90.1.9/24")
	n.do(t, "network", "create", "defined", "--subnet", "10.90.2.0/24")
	seen := map[string]string{}
	for _, name := range []string{"one", "two", "three"} {
		m := n.run(t, name, "m")
		subnet := n.inspect(t, name).Subnet.String()
		if other := seen[subnet]; other != "" || subnet == "10.90.1.0/24" || subnet == "10.90.2.0/24" {
			t.Errorf("%s has %s, which is %s's", name, subnet, other)
		}
		seen[subnet] = name
		m.leave()
	}
}

// TestN8_Shows what people and scripts ask for.
func TestN8_Shows(t *testing.T) {
	t.Parallel()
	n := newNetworks(t)
	n.do(t, "network", "create", "later", "--internal")
	db := n.run(t, "web", "db", "--alias", "postgres", "-p", "127.0.0.1:19301:5432")
	app := n.run(t, "web", "app")
	db.serveEcho(t)
	if err := app.tryTCP(t, families()[0], db.address(families()[0]), deadline); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ what, want string }{
		{"ls", `^NAME +SUBNET +IPV6 SUBNET +MEMBERS +OPTIONS$`},
		{"ls", `^web +10\.90\.0\.0/24 +fd90::/64 +2 +-$`},
		{"ls", `^later +- +- +- +internal$`},
		{"inspect web", `^network +web$`},
		{"inspect later", `^processes +none, it is not running$`},
		{"inspect web", `^gateway and DNS +10\.90\.0\.1 fd90::1$`},
		{"inspect web", `^MEMBER +ALIASES +IPV4 +IPV6 +PORTS +IN +OUT +DROPPED +POLICY +DENIED +SINCE$`},
		{"inspect web", `^db +postgres +10\.90\.0\.2 +fd90::2 +127\.0\.0\.1:19301:5432\S* +[0-9]{6,} +[0-9]{6,} +0 +- +0 +\d{4}-`},
	} {
		out := n.do(t, append([]string{"network"}, strings.Fields(tc.what)...)...)
		if !regexp.MustCompile("(?m)" + tc.want).MatchString(out) {
			t.Errorf("network %s: no line %q in\n%s", tc.what, tc.want, out)
		}
	}
	info := n.inspect(t, "web")
	for _, m := range info.members {
		if m.Interface != "eth0" || m.MAC == "" || time.Since(m.Since) > time.Minute || m.Stats.FromFrames == 0 || m.Stats.ToFrames == 0 {
			t.Errorf("inspect --json: %+v", m)
		}
	}
	for _, pid := range []int{info.Keeper, info.Worker} {
		if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err != nil || string(name) != "epiphyte\n" {
			t.Errorf("ps calls process %d %q, %v", pid, name, err)
		}
	}
	var all []map[string]any
	if err := json.Unmarshal([]byte(n.do(t, "network", "ls", "--json")), &all); err != nil || len(all) != 2 {
		t.Fatalf("ls --json: %v, %v", all, err)
	}
	// A definition that cannot be read is said, and hides no other.
	if err := os.WriteFile(filepath.Join(n.dir, "config/epiphyte/networks/broken.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	stdout, stderr, code := n.try(t, "network", "ls")
	if code != 1 || !strings.Contains(stderr, "broken") || strings.Count(stderr, "\n") != 1 || !strings.Contains(stdout, "later") || !strings.Contains(stdout, "web") {
		t.Errorf("ls with a broken definition: exit status %d, %q, %q", code, stdout, stderr)
	}
	n.do(t, "network", "rm", "--force", "broken")
	n.do(t, "network", "rm", "later")
	if out := n.do(t, "network", "ls"); strings.Contains(out, "later") || strings.Contains(out, "broken") {
		t.Errorf("ls after rm:\n%s", out)
	}
	for _, what := range [][]string{nil, {"--help"}, {"create", "--help"}, {"serve", "-h"}} {
		if out := n.do(t, append([]string{"network"}, what...)...); !strings.HasPrefix(out, "Usage: epiphyte network") {
			t.Errorf("network %q: %q", what, out)
		}
	}
}
