package egress

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// TestManyRulesOfOneTarget decide as they would one by one: by the first in the text, and
// where it allows, by the first with a proxy before that.
func TestManyRulesOfOneTarget(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	edges := []int{1, 2, 52, 53, 54, 443, 1000, 1001, 65534, 65535}
	for range 200 {
		var text strings.Builder
		for range fewRules + 1 + random.IntN(40) {
			verb, proto, via := "allow", []string{"", "tcp ", "udp ", "icmp "}[random.IntN(4)], ""
			if random.IntN(2) == 0 {
				verb = "deny"
			} else if (proto == "" || proto == "tcp ") && random.IntN(4) == 0 {
				via = " via socks5://192.0.2.1:1080"
			}
			ports := ""
			if proto != "icmp " && random.IntN(8) > 0 {
				for range 1 + random.IntN(3) {
					a, b := edges[random.IntN(len(edges))], edges[random.IntN(len(edges))]
					ports += fmt.Sprintf(",%d-%d", min(a, b), max(a, b))
				}
				ports = ":" + ports[1:]
				if strings.Trim(ports, ":,-53") == "" {
					continue // is refused
				}
			}
			fmt.Fprintf(&text, "%s %sa.example%s%s\n", verb, proto, ports, via)
		}
		p := parsed(t, text.String())
		for _, port := range append(edges, 0, 3, 444, 20000) {
			for _, proto := range []Proto{TCP, UDP, ICMP} {
				var want match
				for _, r := range p.rules {
					best := &want.allow
					if !r.allow {
						best = &want.deny
					}
					if r.covers(proto, uint16(port)) && r.goesBefore(*best) {
						*best = r
					}
				}
				if got := p.out.byName(&Flow{Proto: proto, Name: "a.example", Port: uint16(port)}); got != want {
					t.Fatalf("%s%v %d: %+v, want %+v", text.String(), proto, port, got, want)
				}
			}
		}
	}
}
