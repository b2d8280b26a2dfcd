package guest_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/addressing"
	"epiphyte/internal/addressing/addressingtest"
	"epiphyte/internal/guest"
	"epiphyte/internal/policy"
	"epiphyte/internal/testnet"
	"epiphyte/stack"
)

// query asks for the A record of example.org.
func query(id uint16) []byte {
	b := binary.BigEndian.AppendUint16(nil, id)
	b = append(b, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0)
	return append(b, "\x07example\x03org\x00\x00\x01\x00\x01"...)
}

// wantFailure checks that an answer is SERVFAIL to the query.
func wantFailure(t *testing.T, how string, answer, query []byte) {
	t.Helper()
	if len(answer) < 12 || !bytes.Equal(answer[:2], query[:2]) || answer[2]&0x80 == 0 || answer[3]&0xf != 2 {
		t.Errorf("%s: answered % x, want SERVFAIL", how, answer)
	}
}

// TestB28_NoResolvConf: the assembled guest answers a query that it can ask
// nobody with SERVFAIL, by UDP and by TCP, over IPv4 and IPv6; where the resolver has
// an address of its own, and where it has the gateway's.
func TestB28_NoResolvConf(t *testing.T) {
	for name, p := range map[string]addressing.Plan{"guest": addressingtest.New(t), "network": addressingtest.Network(t)} {
		t.Run(name, func(t *testing.T) { answersWithoutResolvConf(t, p) })
	}
}

// attachMember puts a netstack at the guest's end that has an address of the plan,
// which need not name a guest.
func attachMember(t *testing.T, f *fixture, p addressing.Plan) *testnet.Guest {
	t.Helper()
	if !p.Guest.IsValid() {
		p.Guest = p.Host(2)
		p.Guest6 = p.MemberIPv6(p.Guest)
	}
	return testnet.NewGuest(t, f.dev, p, 1500)
}

func answersWithoutResolvConf(t *testing.T, p addressing.Plan) {
	testnet.CheckLeaks(t)
	f := start(t, guest.Config{Rules: policy.Rules{Plan: p}, ResolvConf: filepath.Join(t.TempDir(), "missing")}, true)
	g := attachMember(t, f, p)
	for i, addr := range []netip.Addr{p.DNS, p.DNS6} {
		to := netip.AddrPortFrom(addr, 53)
		u, err := g.DialUDP(0, to, addr.Is6())
		if err != nil {
			t.Fatal(err)
		}
		u.SetDeadline(time.Now().Add(patience))
		q := query(uint16(1000 + i))
		if _, err := u.Write(q); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 2048)
		n, err := u.Read(b)
		if err != nil {
			t.Fatalf("%v by UDP: %v", addr, err)
		}
		wantFailure(t, to.String()+" by UDP", b[:n], q)
		u.Close()

		ctx, cancel := context.WithTimeout(context.Background(), patience)
		c, err := g.DialTCP(ctx, 0, to)
		cancel()
		if err != nil {
			t.Fatalf("%v by TCP: %v", addr, err)
		}
		c.SetDeadline(time.Now().Add(patience))
		// Two in one segment, and each in its own frame of the stream.
		framed := append(binary.BigEndian.AppendUint16(nil, uint16(len(q))), q...)
		if _, err := c.Write(append(framed, framed...)); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if _, err := io.ReadFull(c, b[:2]); err != nil {
				t.Fatalf("%v by TCP: %v", addr, err)
			}
			answer := b[:binary.BigEndian.Uint16(b)]
			if _, err := io.ReadFull(c, answer); err != nil {
				t.Fatalf("%v by TCP: %v", addr, err)
			}
			wantFailure(t, to.String()+" by TCP", answer, q)
		}
		c.Close()
	}
}

// On a network the gateway's other ports are the host's loopback, and nobody's where
// the network is internal.
func TestNetworkGateway(t *testing.T) {
	for _, internal := range []bool{false, true} {
		t.Run(fmt.Sprintf("internal %v", internal), func(t *testing.T) {
			testnet.CheckLeaks(t)
			p := addressingtest.Network(t)
			f := start(t, guest.Config{Rules: policy.Rules{Plan: p, Internal: internal}}, true)
			g := attachMember(t, f, p)
			for gateway, loopback := range map[netip.Addr]string{p.Gateway: "127.0.0.1:0", p.Gateway6: "[::1]:0"} {
				_, host := testnet.ListenTCP(t, loopback)
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				c, err := g.DialTCP(ctx, 0, netip.AddrPortFrom(gateway, host.Port()))
				late := ctx.Err()
				cancel()
				if internal == (err == nil) || late != nil {
					t.Errorf("connected to %v: %v (%v)", gateway, err, late)
				}
				if c != nil {
					c.Close()
				}
			}
		})
	}
}

// A namespace that configures itself finds a lease, whatever is disabled.
func TestLeaseForTheAsking(t *testing.T) {
	testnet.CheckLeaks(t)
	p := addressingtest.IPv4Only(t)
	f := start(t, guest.Config{Rules: policy.Rules{Plan: p, DisableDNS: true, DisableHostLoopback: true}}, true)
	mac := testnet.GuestMAC()
	discover := make([]byte, 240, 244)
	discover[0], discover[1], discover[2] = 1, 1, 6
	copy(discover[28:], mac[:])
	copy(discover[236:], []byte{99, 130, 83, 99})
	discover = append(discover, 53, 1, 1, 255)
	from := netip.AddrPortFrom(netip.IPv4Unspecified(), 68)
	to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), 67)
	if err := f.port.Write(testnet.UDP(from, to, 64, discover)); err != nil {
		t.Fatal(err)
	}
	frame, err := f.port.Read(time.Now().Add(patience))
	if err != nil {
		t.Fatal(err)
	}
	offer, err := testnet.Parse(frame)
	if err != nil || offer.Proto != stack.ProtoUDP || len(offer.Payload) < 8+240 {
		t.Fatalf("answered %+v, %v", offer, err)
	}
	if a := netip.AddrFrom4([4]byte(offer.Payload[8+16:])); a != p.DHCPStart {
		t.Errorf("offered %v, want the first of the leases, %v", a, p.DHCPStart)
	}
	if dst := [6]byte(frame); dst != [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff} {
		t.Errorf("sent to % x, want all", dst)
	}
	if _, err := f.port.Read(time.Time{}); err != unix.EAGAIN {
		t.Errorf("a second answer, %v", err)
	}
}
