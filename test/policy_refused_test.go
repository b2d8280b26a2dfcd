package test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// policedOverHTTP is a guest under a policy, and its HTTP socket.
func policedOverHTTP(t testing.TB, text string) (p *policed, socket string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil { // a plain user makes it
		t.Fatal(err)
	}
	socket = filepath.Join(dir, "http")
	return underPolicy(t, text, "--http-socket", socket), socket
}

// denied is how many flows the policy has denied.
func denied(t testing.TB, socket string) uint64 {
	t.Helper()
	_, body, _ := strings.Cut(overHTTP(t, socket, "GET", "/v1/policy", ""), "\r\n\r\n")
	var doc struct{ Denied uint64 }
	if err := json.Unmarshal([]byte(body), &doc); err != nil {
		t.Fatal(err)
	}
	return doc.Denied
}

// TestPolicyRefusal: what is denied is refused at once, in words that the guest's programs
// understand, told in one line however often it is tried, and counted each time.
func TestPolicyRefusal(t *testing.T) {
	t.Parallel()
	ping := needs(t, "ping")
	eachFamily(t, func(t *testing.T, f family) {
		p, socket := policedOverHTTP(t, "deny "+f.server+"\nallow "+f.other+"\n")
		const times = 20
		for i := range times {
			begin := time.Now()
			p.wantDenied(t, "tcp"+f.v, net.JoinHostPort(f.server, "443"))
			c := p.dial(t, "udp"+f.v, net.JoinHostPort(f.server, "444"))
			if err := answers(t, c, "denied"); !isErrno(err, unix.EHOSTUNREACH, unix.EACCES, unix.ENETUNREACH) {
				t.Errorf("UDP: %v", err)
			}
			// An ICMP error is ignored while connect still has its socket locked (tcp_v6_err), and
			// the SYN is sent again after a second: on a busy machine, now and then.
			if took := time.Since(begin); late(t, took, 2*time.Second) {
				t.Errorf("refused after %v", took)
			}
			if i > 0 {
				continue
			}
			if out, err := p.Run(timeout(t, deadline), ping, "-n", "-c", "1", "-W", "5", f.server); err == nil ||
				!strings.Contains(out+err.Error(), "Packet filtered") && !strings.Contains(out+err.Error(), "dministratively prohibited") {
				t.Errorf("ping: %v, %s", err, out)
			}
		}
		const want = 2*times + 1
		n := denied(t, socket)
		if n < want || n > want+times {
			t.Errorf("%d flows are counted as denied, want %d", n, want)
		}
		metrics := overHTTP(t, socket, "GET", "/metrics", "")
		if !strings.Contains(metrics, fmt.Sprintf("policy_denied_total %d\n", n)) {
			t.Errorf("no such count in\n%s", metrics)
		}
		for _, port := range []string{"443", "444"} {
			p.wantRecord(t, net.JoinHostPort(f.server, port), "deny", "rule")
			list := p.records(t, net.JoinHostPort(f.server, port))
			if len(list) != 1 || list[0]["rule"] != p.file+":1: deny "+f.server {
				t.Errorf("port %s: recorded %v", port, list)
			}
		}
	})
}

// TestPolicyFloodOfDenials: root in the guest has as many flows denied as it can send, each
// of them another: neither the log nor memory grows with them, and others are served.
func TestPolicyFloodOfDenials(t *testing.T) {
	p, socket := policedOverHTTP(t, "allow "+harness.OtherIPv4+"\n")
	server := serveTCP(t, env.Net.Net, "tcp4", harness.OtherIPv4+":0", echoTCP)
	w := p.wire(t)
	rng := rand.New(rand.NewPCG(12, 12))
	const flows = 200_000
	// Made before, so that what is measured is not the test.
	packets := make([][]byte, 4096)
	port := func() int { return 1024 + rng.IntN(60000) }
	for i := range packets {
		src, dst := netip.AddrFrom4([4]byte{10, 0, 2, byte(16 + rng.IntN(200))}), netip.AddrFrom4([4]byte{203, 0, byte(rng.IntN(256)), byte(rng.IntN(256))})
		packet := synPacket(src, dst, port(), port())
		if i%2 == 0 {
			packet = udpPacket(src, dst, port(), port(), "flood")
		}
		packets[i] = append(ethernet(w.gateway, packet), packet...)
	}
	before, begin := p.usage(t), time.Now()
	sent := 0
	for round := 0; denied(t, socket) < flows; round++ {
		for _, frame := range packets {
			if err := unix.Send(w.fd, frame, 0); err == nil {
				sent++
			}
		}
		if time.Since(begin) > time.Minute {
			t.Fatalf("%d flows were denied in a minute", denied(t, socket))
		}
	}
	took := time.Since(begin)
	for range 3 {
		if c := p.dial(t, "tcp4", server.String()); answers(t, c, "served") != nil {
			t.Error("another flow is not served")
		}
	}
	now := p.usage(t)
	log := must(os.ReadFile(p.log))(t)
	lines := strings.Count(string(log), "\n")
	t.Logf("%d denials of %d frames in %v, %.0f a second: %d lines, RSS %d kB, before %d kB",
		denied(t, socket), sent, took, flows/took.Seconds(), lines, now.RSS>>10, before.RSS>>10)
	// One line for each of 1024 kinds, one for all others, every 10 s, and two for each
	// kind that goes on.
	const longest = 512 // bytes of a line here
	if most := 2 * 1025 * (2 + int(time.Since(begin)/(10*time.Second))); lines > most || len(log) > most*longest {
		t.Errorf("the log has %d lines and %d bytes, want %d lines at most", lines, len(log), most)
	}
	if now.RSS > before.RSS+16<<20 || now.FDs > before.FDs+runtimePoller+10 {
		t.Errorf("the helper holds %+v, before %+v", now, before)
	}
	if said := p.helper.Stderr.String(); len(said) > 4096 {
		t.Errorf("it said %d bytes: %.500s", len(said), said)
	}
}
