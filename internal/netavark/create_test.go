package netavark

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"epiphyte/internal/netdef"
)

func newPlugin(t *testing.T) *Plugin {
	t.Helper()
	dir := t.TempDir()
	p := &Plugin{
		Paths:       netdef.Paths{Runtime: dir, Config: filepath.Join(dir, "config")},
		Version:     "1.2.3",
		CheckPolicy: func(string) error { return errors.New("no such policy") },
		Logger:      slog.New(slog.DiscardHandler),
	}
	return p
}

// run is one call by netavark: what it reads, and whether the exit status is 0.
func run(t *testing.T, p *Plugin, stdin string, args ...string) (map[string]any, bool) {
	t.Helper()
	var stdout strings.Builder
	err := p.Run(t.Context(), args, strings.NewReader(stdin), &stdout)
	answer := map[string]any{}
	if stdout.Len() > 0 {
		if err := json.Unmarshal([]byte(stdout.String()), &answer); err != nil {
			t.Fatalf("%q is no JSON: %v", stdout.String(), err)
		}
	}
	if text, told := answer["error"].(string); told != (err != nil) || strings.Contains(text, "\n") {
		t.Errorf("error %v, told as %q", err, text)
	}
	return answer, err == nil
}

func TestInfo(t *testing.T) {
	answer, ok := run(t, newPlugin(t), "", Info)
	if !ok || answer["version"] != "1.2.3" || answer["api_version"] != "1.0.0" {
		t.Errorf("info: %v", answer)
	}
}

// What podman says comes back, unknown things and all, with subnets and gateways.
func TestCreate(t *testing.T) {
	p := newPlugin(t)
	answer, ok := run(t, p, `{"name":"web","id":"0abc","driver":"epiphyte","ipv6_enabled":true,"internal":true,"dns_enabled":false,
		"labels":{"a":"b"},"options":{"mtu":"1400","isolate":"true"},"ipam_options":{"driver":"host-local"},"future":[1]}`, Create)
	if !ok {
		t.Fatal(answer)
	}
	for name, want := range map[string]string{
		"name": `"web"`, "id": `"0abc"`, "driver": `"epiphyte"`, "labels": `{"a":"b"}`, "future": `[1]`, "ipv6_enabled": `true`,
		"options": `{"isolate":"true","mtu":"1400"}`,
	} {
		if got, _ := json.Marshal(answer[name]); string(got) != want {
			t.Errorf("%s is %s, was %s", name, got, want)
		}
	}
	d, defined, err := p.Paths.Load("web")
	if err != nil || !defined || d.MTU != 1400 || !d.Isolate || !d.Internal || !d.NoDNS || d.IPv4Only || d.Stay {
		t.Errorf("defined %v as %+v (%v)", defined, d, err)
	}
	want, _ := json.Marshal([]any{
		map[string]any{"subnet": d.Subnet, "gateway": d.Subnet.Addr().Next()},
		map[string]any{"subnet": d.Subnet6, "gateway": d.Subnet6.Addr().Next()},
	})
	got, _ := json.Marshal(answer["subnets"])
	var a, b any
	if json.Unmarshal(want, &a) != nil || json.Unmarshal(got, &b) != nil || len(b.([]any)) != 2 || string(got) != mustMarshal(t, a) {
		t.Errorf("subnets are %s, want %s", got, want)
	}
}

func mustMarshal(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Subnets that podman names stay, with the range that it gives addresses from.
func TestCreateNamed(t *testing.T) {
	p := newPlugin(t)
	answer, ok := run(t, p, `{"name":"web","dns_enabled":true,"subnets":[{"subnet":"10.77.5.0/24","gateway":"10.77.5.1","lease_range":{"start_ip":"10.77.5.9"}}]}`, Create)
	const want = `[{"gateway":"10.77.5.1","lease_range":{"start_ip":"10.77.5.9"},"subnet":"10.77.5.0/24"}]`
	if got := mustMarshal(t, answer["subnets"]); !ok || got != want {
		t.Errorf("subnets are %s, want %s", got, want)
	}
	// Left behind by podman network rm, and created again.
	answer, ok = run(t, p, `{"name":"web","dns_enabled":true,"subnets":[{"subnet":"10.77.6.0/24"}]}`, Create)
	d, _, err := p.Paths.Load("web")
	if !ok || err != nil || d.Subnet != netip.MustParsePrefix("10.77.6.0/24") {
		t.Errorf("created again: %v; defined as %+v (%v)", answer, d, err)
	}
}

// Networks that are created one after the other do not overlap.
func TestCreateChooses(t *testing.T) {
	p := newPlugin(t)
	for _, name := range []string{"one", "two"} {
		if answer, ok := run(t, p, `{"name":"`+name+`","dns_enabled":true}`, Create); !ok {
			t.Fatal(answer)
		}
	}
	one, _, _ := p.Paths.Load("one")
	two, _, _ := p.Paths.Load("two")
	if !one.Subnet.IsValid() || !two.Subnet.IsValid() || one.Subnet.Overlaps(two.Subnet) || !one.IPv4Only {
		t.Errorf("%+v and %+v", one, two)
	}
}

func TestCreateRefuses(t *testing.T) {
	for _, tt := range []struct{ stdin, says string }{
		{``, "read podman's description"},
		{`[]`, "read podman's description"},
		{`{"name":"../web"}`, "cannot be"},
		{`{"name":"web","options":{"nonsense":"1"}}`, `"nonsense"`},
		{`{"name":"web","options":{"policy":"relative"}}`, "whole path"},
		{`{"name":"web","options":{"policy":"/nowhere"}}`, "no such policy"},
		{`{"name":"web","options":{"mtu":"many"}}`, `mtu cannot be "many"`},
		{`{"name":"web","options":{"mtu":"9"}}`, "choose 68 to 65520"},
		{`{"name":"web","options":{"isolate":"strict"}}`, `isolate cannot be "strict"`},
		{`{"name":"web","internal":true,"options":{"allow_host_loopback":"true"}}`, "leave one of the two out"},
		{`{"name":"web","network_interface":"br0"}`, "--interface-name"},
		{`{"name":"web","network_dns_servers":["192.0.2.1"]}`, "--dns"},
		{`{"name":"web","routes":[{}]}`, "--route"},
		{`{"name":"web","ipam_options":{"driver":"dhcp"}}`, `"dhcp"`},
		{`{"name":"web","subnets":[{"subnet":"10.77.5.0/24","gateway":"10.77.5.2"}]}`, "--gateway"},
		{`{"name":"web","subnets":[{"subnet":"10.77.5.0/24"},{"subnet":"10.77.6.0/24"}]}`, "of one family"},
		{`{"name":"web","subnets":[{"subnet":"fd77::/48"}]}`, "not an IPv6 subnet"},
	} {
		p := newPlugin(t)
		answer, ok := run(t, p, tt.stdin, Create)
		if text, _ := answer["error"].(string); ok || !strings.Contains(text, tt.says) {
			t.Errorf("%s: %v, want an error with %q", tt.stdin, answer, tt.says)
		}
		if left, err := p.Paths.List(); len(left) > 0 || err != nil {
			t.Errorf("%s: defined %v (%v)", tt.stdin, left, err)
		}
	}
}

func TestAdopt(t *testing.T) {
	running := netdef.Definition{Name: "web", Subnet: netip.MustParsePrefix("10.90.3.0/24"), IPv4Only: true, MTU: netdef.DefaultMTU}
	for _, tt := range []struct {
		change func(*netdef.Definition)
		same   bool
	}{
		{func(*netdef.Definition) {}, true},
		{func(d *netdef.Definition) { d.Stay = true }, true},
		{func(d *netdef.Definition) { d.Subnet = running.Subnet }, true},
		{func(d *netdef.Definition) { d.Subnet = netip.MustParsePrefix("10.77.0.0/24") }, false},
		{func(d *netdef.Definition) { d.IPv4Only = false }, false},
		{func(d *netdef.Definition) { d.MTU = 1400 }, false},
		{func(d *netdef.Definition) { d.Internal = true }, false},
	} {
		d := netdef.Definition{Name: "web", IPv4Only: true}
		tt.change(&d)
		asked := d
		if same := adopt(&d, &running); same != tt.same || same && d.Subnet != running.Subnet {
			t.Errorf("%+v: %v, and becomes %+v", asked, same, d)
		}
	}
}
