package test

import (
	"net"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"epiphyte/test/harness"
)

// TestPolicyByQueues: whichever queue a flow comes by, its name is known, looked up and
// decided about alike.
func TestPolicyByQueues(t *testing.T) {
	t.Parallel()
	server := serveTCP(t, env.Net.Net, "tcp4", harness.NetIPv4+":0", echoTCP)
	udp := servePacket(t, env.Net.Net, "udp4", harness.NetIPv4+":0", echoPacket)
	p := underPolicy(t, "allow a.example:"+port(server)+","+port(udp.LocalAddr())+"\n", "--queues=3")
	p.zone.set("a.example.", "A", "a.example. 60 IN A "+harness.NetIPv4)
	addr, _ := p.find(t, "a.example", dns.TypeA)
	const flows = 16
	for i := range flows {
		if c := p.dial(t, "tcp4", net.JoinHostPort(addr, port(server))); answers(t, c, "allowed") != nil {
			t.Errorf("connection %d is not answered", i)
		}
		if c := p.dial(t, "udp4", net.JoinHostPort(addr, port(udp.LocalAddr()))); answers(t, c, "allowed") != nil {
			t.Errorf("datagram %d is not answered", i)
		}
		p.wantDenied(t, "tcp4", net.JoinHostPort(addr, "1"))
	}
	asked := 0
	for _, q := range p.zone.queries() {
		if strings.HasPrefix(q, "a.example. A") {
			asked++
		}
	}
	if asked >= 2*flows {
		t.Errorf("the nameserver was asked %d times for %d flows", asked, 2*flows)
	}
}
