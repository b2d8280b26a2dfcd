package netavark

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"epiphyte/internal/netdef"
	"epiphyte/internal/network"
)

func TestMember(t *testing.T) {
	const text = `{"container_id":"0abc","container_name":"db","container_hostname":"db-host","port_mappings":null,
		"network":{"name":"web"},"network_options":{"aliases":["data","0abc"],"interface_name":"eth1",
		"static_ips":["fd90::5","10.90.0.5"],"static_mac":"02:00:00:00:00:01","options":null}}`
	var r request
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatal(err)
	}
	m, err := r.member("/run/netns/x")
	if err != nil || m.ID != "0abc" || m.Name != "db" || m.Hostname != "db-host" || !slices.Equal(m.Aliases, []string{"data", "0abc"}) ||
		m.IPv4 != netip.MustParseAddr("10.90.0.5") || m.IPv6 != netip.MustParseAddr("fd90::5") || m.MAC != "02:00:00:00:00:01" ||
		!m.Detached || m.NetNS != "/run/netns/x" {
		t.Errorf("%+v, %v", m, err)
	}
	for _, tt := range []struct {
		change func(*wishes)
		says   string
	}{
		{func(w *wishes) { w.Options = map[string]string{"nonsense": "1"} }, `"nonsense"`},
		{func(w *wishes) { w.Addresses = append(w.Addresses, netip.MustParseAddr("10.90.0.6")) }, "one of each"},
	} {
		changed := r
		tt.change(&changed.Wishes)
		if _, err := changed.member("x"); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%v, want an error with %q", err, tt.says)
		}
	}
}

func TestRules(t *testing.T) {
	for _, tt := range []struct {
		mapping string
		ipv6    bool
		want    string
	}{
		{`{"container_port":80,"host_ip":"","host_port":8080,"protocol":"tcp","range":1}`, false, "8080:80"},
		{`{"container_port":80,"host_port":8080,"protocol":"tcp"}`, true, "8080:80 [::]:8080:80"},
		{`{"container_port":80,"host_port":80,"protocol":"tcp,udp","range":1}`, false, "80 80/udp"},
		{`{"container_port":81,"host_ip":"127.0.0.1","host_port":8081,"protocol":"udp","range":3}`, true, "127.0.0.1:8081-8083:81-83/udp"},
		{`{"container_port":81,"host_ip":"::1","host_port":8081,"protocol":"tcp","range":0}`, true, "[::1]:8081:81"},
	} {
		var m portMapping
		if err := json.Unmarshal([]byte(tt.mapping), &m); err != nil {
			t.Fatal(err)
		}
		rules, err := m.rules(tt.ipv6)
		if got := strings.Join(rules, " "); err != nil || got != tt.want {
			t.Errorf("%s: %q, %v; want %q", tt.mapping, got, err, tt.want)
		}
	}
	for _, mapping := range []string{
		`{"container_port":80,"host_ip":"nowhere","host_port":8080,"protocol":"tcp"}`,
		`{"container_port":80,"host_port":8080,"protocol":"sctp"}`,
		`{"container_port":80,"host_port":65535,"protocol":"tcp","range":2}`,
		`{"container_port":65535,"host_port":80,"protocol":"tcp","range":2}`,
	} {
		var m portMapping
		if err := json.Unmarshal([]byte(mapping), &m); err != nil {
			t.Fatal(err)
		}
		if rules, err := m.rules(false); err == nil {
			t.Errorf("%s: %v", mapping, rules)
		}
	}
}

// The status is netavark's to read: its field names, null nowhere.
func TestStatus(t *testing.T) {
	info := &network.Info{
		Definition: netdef.Definition{Name: "web", Subnet: netip.MustParsePrefix("10.90.0.0/24"), Subnet6: netip.MustParsePrefix("fd90::/64")},
		Gateway:    netip.MustParseAddr("10.90.0.1"), Gateway6: netip.MustParseAddr("fd90::1"),
	}
	m := &network.Member{Interface: "eth0", MAC: "52:56:0a:5a:00:05", IPv4: netip.MustParseAddr("10.90.0.5"), IPv6: netip.MustParseAddr("fd90::5")}
	const whole = `{"dns_search_domains":["web"],"dns_server_ips":["10.90.0.1"],"interfaces":{"eth0":{"mac_address":"52:56:0a:5a:00:05",` +
		`"subnets":[{"ipnet":"10.90.0.5/24","gateway":"10.90.0.1"},{"ipnet":"fd90::5/64","gateway":"fd90::1"}]}}}`
	if got := mustMarshal(t, statusOf(m, info)); got != whole {
		t.Errorf("%s, want %s", got, whole)
	}
	info.Internal, info.NoDNS, m.IPv6 = true, true, netip.Addr{}
	const bare = `{"dns_search_domains":[],"dns_server_ips":[],"interfaces":{"eth0":{"mac_address":"52:56:0a:5a:00:05","subnets":[{"ipnet":"10.90.0.5/24"}]}}}`
	if got := mustMarshal(t, statusOf(m, info)); got != bare {
		t.Errorf("%s, want %s", got, bare)
	}
}

// Leaving a network that is gone is nothing to complain of; joining what is not running
// from inside names the command that starts it.
func TestNotRunning(t *testing.T) {
	const container = `{"container_id":"0abc","container_name":"db","network":{"name":"web","dns_enabled":true},"network_options":{"interface_name":"eth0"}}`
	p := newPlugin(t)
	p.Rootless = true
	t.Setenv("PATH", t.TempDir()) // no service manager
	if answer, ok := run(t, p, container, Teardown, "/nowhere"); !ok || len(answer) > 0 {
		t.Errorf("teardown: %v", answer)
	}
	answer, ok := run(t, p, container, Setup, "/nowhere")
	if text, _ := answer["error"].(string); ok || !strings.Contains(text, "epiphyte network start web") {
		t.Errorf("setup: %v", answer)
	}
	if d, defined, err := p.Paths.Load("web"); err != nil || !defined || !d.Stay {
		t.Errorf("defined %v as %+v (%v), want it to stay once it is started", defined, d, err)
	}
	if answer, ok := run(t, p, container, Setup); ok {
		t.Errorf("setup without a namespace: %v", answer)
	}
}
