package test

import (
	"net"
	"testing"
)

// TestPolicyByQueues: whichever queue a flow comes by, its name is known, looked up and
// decided about alike.
func TestPolicyByQueues(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, f family) {
		server := serveTCP(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.server, "0"), echoTCP)
		udp := servePacket(t, env.Net.Net, "udp"+f.v, net.JoinHostPort(f.server, "0"), echoPacket)
		p := underPolicy(t, "allow a.example:"+port(server)+","+port(udp.LocalAddr())+"\n", "--queues=3")
		p.zone.lead(f, "a.example", f.server)
		addr, _ := p.find(t, "a.example", f.kind())
		const flows = 16
		for i := range flows {
			if c := p.dial(t, "tcp"+f.v, hostPort(addr, server)); answers(t, c, "allowed") != nil {
				t.Errorf("connection %d is not answered", i)
			}
			if c := p.dial(t, "udp"+f.v, hostPort(addr, udp.LocalAddr())); answers(t, c, "allowed") != nil {
				t.Errorf("datagram %d is not answered", i)
			}
			p.wantDenied(t, "tcp"+f.v, net.JoinHostPort(addr, "1"))
		}
		asked := 0
		for _, q := range p.zone.queries() {
			if q == "a.example. "+f.record() {
				asked++
			}
		}
		if asked >= 2*flows {
			t.Errorf("the nameserver was asked %d times for %d flows", asked, 2*flows)
		}
	})
}
