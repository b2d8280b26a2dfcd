package main

import (
	"context"
	"net"
	"strings"
	"testing"
)

func TestCheckNames(t *testing.T) {
	all, err := choose("*")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, c := range all {
		if seen[c.name] {
			t.Errorf("%s is there twice", c.name)
		}
		seen[c.name] = true
		if c.says == "" || c.run == nil || !strings.Contains(c.name, "/") {
			t.Errorf("%s is not complete", c.name)
		}
	}
}

func TestChoose(t *testing.T) {
	for pattern, want := range map[string]bool{
		"podman/tcp-out": true, "podman/*": true, "*publish*": true, "nothing": false, "[": false,
	} {
		if got, err := choose(pattern); (err == nil) != want || want && len(got) == 0 {
			t.Errorf("choose(%q): %d checks, %v", pattern, len(got), err)
		}
	}
}

func TestVerdictIsTheFirstHelpers(t *testing.T) {
	checks := []check{{name: "a/b"}}
	with := func(o outcome) column {
		return column{helper: "h", results: map[string]result{"a/b": {Name: "a/b", Outcome: o}}}
	}
	for _, tt := range []struct {
		first, second outcome
		want          int
	}{
		{passed, failed, 0}, {skipped, passed, 0}, {failed, passed, 1}, {failed, failed, 1},
	} {
		if got := verdict(checks, []column{with(tt.first), with(tt.second)}); got != tt.want {
			t.Errorf("%s beside %s: exit status %d, want %d", tt.first, tt.second, got, tt.want)
		}
	}
}

// TestExchange holds a conversation with ourselves: what the checks conclude
// rests on it.
func TestExchange(t *testing.T) {
	closers, err := listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range closers {
		defer c.Close()
	}
	addrs := map[string]string{
		"tcp": closers[0].(net.Listener).Addr().String(),
		"udp": closers[1].(net.PacketConn).LocalAddr().String(),
	}
	for network, addr := range addrs {
		for _, size := range []int{1, 60000} {
			x, err := ask(context.Background(), new(net.Dialer).DialContext, network, addr, size)
			if err != nil || x.peer != x.local {
				t.Errorf("%s, %d bytes: %+v, %v", network, size, x, err)
			}
		}
	}
}

func TestDNSAnswers(t *testing.T) {
	good := "first 10.0.2.3\n" + outsideIPv4 + "\n" + outsideIPv6 + "\n" + outsideIPv6 + "\n" + outsideIPv4
	if err := dnsAnswers(good, "10.0.2.3"); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", "first 192.0.2.1", "first 10.0.2.3\n" + outsideIPv4, good[:len(good)-len(outsideIPv4)]} {
		if dnsAnswers(bad, "10.0.2.3") == nil {
			t.Errorf("%q passes", bad)
		}
	}
}
