package test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Members of networks are found as other guests are, and entered and asked about by their
// names.
func TestFind_Members(t *testing.T) {
	t.Parallel()
	n := newNetworks(t)
	n.start(t, "run", "--quiet", "--network=dev", "--name=db", "sleep", "100")
	n.awaitGuests(t, 1)
	if out := n.do(t, "exec", "hostname"); out != "db\n" { // the only guest that runs
		t.Errorf("exec in the only member: %q", out)
	}
	n.start(t, "run", "--quiet", "--network=dev", "--network=other", "--name=web", "sleep", "200")
	list := n.awaitGuests(t, 3)
	var ids []string
	for _, g := range list {
		ids = append(ids, g.Network+"/"+g.Member)
	}
	if want := []string{"dev/db", "dev/web", "other/web"}; !slices.Equal(ids, want) {
		t.Fatalf("guests %q, want %q", ids, want)
	}
	table := n.do(t, "ps")
	for _, word := range []string{"dev/db ", "other/web ", "eth1", "sleep 100", fmt.Sprint(list[0].Process)} {
		if !strings.Contains(table, word) {
			t.Errorf("no %q in %s", word, table)
		}
	}
	for id, want := range map[string]string{"dev/db": "db\n", "DB": "db\n", "web": "web\n", fmt.Sprint(list[1].Process): "web\n"} {
		if out := n.do(t, "exec", "-i", id, "hostname"); out != want {
			t.Errorf("exec -i %s: %q, want %q", id, out, want)
		}
	}
	for _, c := range []struct{ args, says string }{
		{"exec true", "choose one by --id: dev/db (sleep 100), dev/web ("},
		{"exec -i nobody true", `there is no guest "nobody"; running are dev/db`},
		{"flows -i web", `"web" means 2 guests; choose one by --id: dev/web (sleep 200), other/web (`},
		{"why --network dev 192.0.2.1:80", `"dev" means 2 guests; choose one by --id: dev/db`},
		{"why --network nosuch 192.0.2.1:80", "network nosuch is not running"},
	} {
		if _, err, code := n.try(t, strings.Fields(c.args)...); code != 1 || !strings.Contains(err, c.says) || strings.Count(err, "\n") != 1 {
			t.Errorf("%s: status %d, %q, want %q", c.args, code, err, c.says)
		}
	}
	if out := n.do(t, "publish", "-i", "dev/db", "127.0.0.1:18098:80"); !strings.Contains(out, list[0].IPv4+":80") {
		t.Errorf("publish leads elsewhere than to %s: %s", list[0].IPv4, out)
	}
	if out := n.do(t, "top", "--network", "dev"); !strings.Contains(out, "PROTO") || !strings.Contains(out, "dropped ") {
		t.Errorf("top: %s", out)
	}
}

// flows of one member are its own.
func TestFind_FlowsOfMember(t *testing.T) {
	t.Parallel()
	n := newNetworks(t)
	for _, name := range []string{"a", "b"} {
		n.start(t, "run", "--quiet", "--network=dev", "--name="+name, "bash", "-c", "exec 3<>/dev/udp/198.51.100.9/9; echo x >&3; sleep 100")
	}
	n.awaitGuests(t, 2)
	var doc struct{ Flows []struct{ Member string } }
	eventually(t, deadline, func() error {
		if err := json.Unmarshal([]byte(n.do(t, "flows", "--json", "--network=dev")), &doc); err != nil || len(doc.Flows) < 2 {
			return fmt.Errorf("flows %+v, %v", doc, err)
		}
		return nil
	})
	if err := json.Unmarshal([]byte(n.do(t, "flows", "--json", "--id=b")), &doc); err != nil || len(doc.Flows) != 1 || doc.Flows[0].Member != "b" {
		t.Errorf("flows of b: %+v, %v", doc, err)
	}
	for _, command := range []string{"flows", "top"} {
		if out := n.do(t, command, "--id=dev/a"); strings.Count(out, "udp") != 1 {
			t.Errorf("%s of a: %s", command, out)
		}
	}
}

// why knows a network's neighbours and names, its gateway, and the policy of the member.
func TestWhy_Member(t *testing.T) {
	t.Parallel()
	n := newNetworks(t, "198.51.100.4")
	rules := filepath.Join(n.dir, "rules")
	if err := os.WriteFile(rules, []byte("deny 192.0.2.0/24\nallow 203.0.113.0/24:443\nallow host.example:443\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.do(t, "network", "create", "--internal", "inner")
	n.do(t, "network", "create", "--isolate", "apart")
	n.start(t, "run", "--quiet", "--network=dev", "--name=web", "--policy="+rules, "sleep", "100")
	for _, args := range []string{"dev db", "inner in", "apart x", "apart y"} {
		network, name, _ := strings.Cut(args, " ")
		n.start(t, "run", "--quiet", "--network="+network, "--name="+name, "sleep", "100")
	}
	address := map[string]string{}
	for _, g := range n.awaitGuests(t, 5) {
		address[g.Member] = g.IPv4
	}
	for _, c := range []struct{ who, flow, says string }{
		{"dev/web", "db:5432", "allowed|neighbour|to          " + address["db"] + ":5432|member      db"},
		{"web", address["db"] + ":1", "allowed|member      db"},
		{"web", "udp " + address["web"] + ":1", "allowed|own"},
		{"web", "192.0.2.1:443", "refused|a rule of the policy denies it|deny 192.0.2.0/24|rules:1"},
		{"web", "203.0.113.1:443", "allowed|rules:2"},
		{"web", "203.0.113.1:80", "refused|no rule"},
		{"web", "host.example:443", "allowed|198.51.100.4|rules:3"},
		{"db", "203.0.113.1:80", "allowed|203.0.113.1:80"},
		{"db", "web.dev:80", "allowed|member      web"},
		{"db", "_gateway:80", "refused|host's loopback"},
		{"db", address["db"][:strings.LastIndex(address["db"], ".")] + ".77:80", "dropped|in the guest's subnet"},
		{"in", "203.0.113.1:80", "refused|internal"},
		{"in", "host.example:80", "refused|no member has the name"},
		{"x", address["y"] + ":80", "dropped|apart"},
	} {
		out := n.do(t, append([]string{"why", "--id", c.who}, strings.Fields(c.flow)...)...)
		for _, word := range strings.Split(c.says, "|") {
			if !strings.Contains(out, word) {
				t.Errorf("why %s of %s: no %q in %s", c.flow, c.who, word, out)
			}
		}
	}
	if out := n.do(t, "why", "--json", "--network=inner", "icmp 203.0.113.1"); !strings.Contains(out, `"errno":"ENETUNREACH"`) {
		t.Errorf("of the only member of a network: %s", out)
	}
}

// why knows what DNS says of the host's names, and of names on the member's other networks.
func TestWhy_Names(t *testing.T) {
	t.Parallel()
	n := newNetworks(t, "198.51.100.4")
	n.do(t, "network", "create", "open", "--allow-host-loopback")
	n.do(t, "network", "create", "--isolate", "apart")
	n.start(t, "run", "--quiet", "--network=a", "--network=b", "--network=apart", "--name=x", "sleep", "100")
	n.awaitGuests(t, 3)
	for _, args := range []string{"a only", "b db", "apart y", "open o"} {
		network, name, _ := strings.Cut(args, " ")
		n.start(t, "run", "--quiet", "--network="+network, "--name="+name, "sleep", "100")
	}
	n.awaitGuests(t, 7)
	n.start(t, "run", "--quiet", "--disable-host-loopback", "sleep", "101")
	n.start(t, "run", "--quiet", "--disable-dns", "sleep", "102")
	address, program := map[string]string{}, map[string]string{}
	for _, g := range n.awaitGuests(t, 9) {
		address[g.Network+"/"+g.Member] = g.IPv4
		program[strings.Join(g.Command, " ")] = fmt.Sprint(g.Program)
	}
	closed, noDNS := program["sleep 101"], program["sleep 102"]
	for _, c := range []struct{ who, flow, says string }{
		{"a/x", "db:80", "allowed|neighbour|to          " + address["b/db"] + ":80|member      b/db"},
		{"a/x", "db.b:80", "allowed|member      b/db"},
		{"a/x", address["b/db"] + ":80", "allowed|member      b/db"},
		{"a/x", address["b/x"] + ":80", "allowed|own"},
		{"a/x", "y:80", "dropped|apart"},
		{"a/x", "only:80", "allowed|member      only"},
		{"a/only", "db:80", "allowed|looked up|nameserver  198.51.100.4"},
		{"a/x", "host.docker.internal:80", "refused|the name does not exist|--allow-host-loopback"},
		{"a/x", "x.host.docker.internal:80", "refused|the name does not exist"},
		{"open/o", "host.docker.internal:80", "allowed|127.0.0.1:80"},
		{closed, "host.docker.internal:80", "refused|the name does not exist|--disable-host-loopback"},
		{noDNS, "host.docker.internal:80", "cannot be looked up|--disable-dns"},
	} {
		out := n.do(t, "why", "--id", c.who, c.flow)
		for _, word := range strings.Split(c.says, "|") {
			if !strings.Contains(out, word) {
				t.Errorf("why %s of %s: no %q in %s", c.flow, c.who, word, out)
			}
		}
	}
}
