package dhcp

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"

	"epiphyte/internal/addressing"
	"epiphyte/internal/addressing/addressingtest"
)

type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func newServer(t *testing.T, cfg Config) (*Server, *clock) {
	t.Helper()
	p := addressingtest.New(t)
	c := &clock{time.Unix(1e9, 0)}
	cfg.Plan, cfg.Now = p, c.now
	return New(cfg), c
}

func mac(n byte) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, n} }

// exchange sends one message and gives the answer, or nil.
func exchange(t *testing.T, s *Server, kind dhcpv4.MessageType, client byte, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	mods = append([]dhcpv4.Modifier{dhcpv4.WithHwAddr(mac(client))}, mods...)
	if kind != dhcpv4.MessageTypeNone {
		mods = append(mods, dhcpv4.WithMessageType(kind))
	}
	m, err := dhcpv4.New(mods...)
	if err != nil {
		t.Fatal(err)
	}
	b := s.Handle(m.ToBytes())
	if b == nil {
		return nil
	}
	r, err := dhcpv4.FromBytes(b)
	if err != nil {
		t.Fatal(err)
	}
	if r.OpCode != dhcpv4.OpcodeBootReply || r.TransactionID != m.TransactionID || r.ClientHWAddr.String() != mac(client).String() {
		t.Errorf("answer %v does not belong to %v", r, m)
	}
	return r
}

func wishFor(ip string) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.ParseIP(ip)))
}

// want checks the type and the address of an answer; "" stands for none.
func want(t *testing.T, r *dhcpv4.DHCPv4, kind dhcpv4.MessageType, ip string) {
	t.Helper()
	if kind == dhcpv4.MessageTypeNone {
		if r != nil {
			t.Fatalf("got %v, want no answer", r)
		}
		return
	}
	if r == nil {
		t.Fatalf("got no answer, want %v %s", kind, ip)
	}
	if ip == "" {
		ip = "0.0.0.0"
	}
	if r.MessageType() != kind || r.YourIPAddr.String() != ip {
		t.Fatalf("got %v %v, want %v %s", r.MessageType(), r.YourIPAddr, kind, ip)
	}
}

const (
	none     = dhcpv4.MessageTypeNone
	discover = dhcpv4.MessageTypeDiscover
	offer    = dhcpv4.MessageTypeOffer
	request  = dhcpv4.MessageTypeRequest
	ack      = dhcpv4.MessageTypeAck
	nak      = dhcpv4.MessageTypeNak
)

func TestLeaseIsTheContracts(t *testing.T) {
	s, _ := newServer(t, Config{MTU: 65520})
	o := exchange(t, s, discover, 1)
	want(t, o, offer, "10.0.2.15")
	req, err := dhcpv4.NewRequestFromOffer(o)
	if err != nil {
		t.Fatal(err)
	}
	a, err := dhcpv4.FromBytes(s.Handle(req.ToBytes()))
	if err != nil {
		t.Fatal(err)
	}
	want(t, a, ack, "10.0.2.15")
	if got := a.ServerIPAddr.String(); got != "10.0.2.2" {
		t.Errorf("siaddr is %s", got)
	}
	got := make(map[uint8][]byte)
	for code, value := range a.Options {
		got[code] = value
	}
	if diff := cmp.Diff(map[uint8][]byte{
		1:  {255, 255, 255, 0},
		3:  {10, 0, 2, 2},
		6:  {10, 0, 2, 3},
		26: {0xff, 0xf0},
		51: {0, 1, 0x51, 0x80},
		53: {5},
		54: {10, 0, 2, 2},
	}, got); diff != "" {
		t.Errorf("options (-want +got):\n%s", diff)
	}
}

func TestClientKeepsItsAddress(t *testing.T) {
	s, c := newServer(t, Config{Lease: time.Hour})
	want(t, exchange(t, s, request, 1, wishFor("10.0.2.20")), ack, "10.0.2.20")
	want(t, exchange(t, s, discover, 1), offer, "10.0.2.20")
	want(t, exchange(t, s, request, 1), ack, "10.0.2.20")
	// Renewing: no wish, but an address in use.
	want(t, exchange(t, s, request, 1, dhcpv4.WithClientIP(net.IPv4(10, 0, 2, 20))), ack, "10.0.2.20")
	// Long after its lease has ended, while nobody else needs the address.
	c.t = c.t.Add(48 * time.Hour)
	want(t, exchange(t, s, discover, 1), offer, "10.0.2.20")
}

func TestWishes(t *testing.T) {
	s, _ := newServer(t, Config{})
	want(t, exchange(t, s, request, 1, wishFor("10.0.2.30")), ack, "10.0.2.30")
	// Another's, outside the pool on both sides, elsewhere.
	for _, ip := range []string{"10.0.2.30", "10.0.2.14", "10.0.2.31", "10.0.2.100", "192.0.2.1", "255.255.255.255"} {
		want(t, exchange(t, s, discover, 2, wishFor(ip)), offer, "10.0.2.15")
		r := exchange(t, s, request, 2, wishFor(ip))
		want(t, r, nak, "")
		if got := r.Message(); got != "requested address not available" {
			t.Errorf("NAK says %q", got)
		}
		if r.SubnetMask() != nil || r.Options.Has(dhcpv4.OptionIPAddressLeaseTime) {
			t.Errorf("NAK carries configuration: %v", r)
		}
	}
	want(t, exchange(t, s, discover, 2, wishFor("10.0.2.22")), offer, "10.0.2.22")
	// A client that has moved leaves its old address to others.
	want(t, exchange(t, s, request, 3, wishFor("10.0.2.15")), ack, "10.0.2.15")
	// Who has chosen another server is left alone.
	want(t, exchange(t, s, request, 3, dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 0, 2, 9)))), none, "")
}

func TestPoolIsBounded(t *testing.T) {
	s, c := newServer(t, Config{Lease: time.Hour})
	seen := make(map[string]bool)
	for client := byte(1); client <= 16; client++ {
		r := exchange(t, s, request, client)
		if r == nil {
			t.Fatalf("client %d gets no answer", client)
		}
		seen[r.YourIPAddr.String()] = true
	}
	if len(seen) != 16 || !seen["10.0.2.15"] || !seen["10.0.2.30"] {
		t.Errorf("leased %v", seen)
	}
	want(t, exchange(t, s, discover, 17), none, "")
	want(t, exchange(t, s, request, 17), none, "")
	want(t, exchange(t, s, none, 17), none, "")

	r := exchange(t, s, request, 5)
	ip := r.YourIPAddr
	want(t, exchange(t, s, dhcpv4.MessageTypeRelease, 6, dhcpv4.WithClientIP(ip)), none, "")
	want(t, exchange(t, s, discover, 17), none, "")
	want(t, exchange(t, s, dhcpv4.MessageTypeRelease, 5, dhcpv4.WithClientIP(ip)), none, "")
	want(t, exchange(t, s, request, 17), ack, ip.String())
	want(t, exchange(t, s, request, 5), none, "")

	c.t = c.t.Add(time.Hour)
	if r := exchange(t, s, request, 5); r == nil || r.MessageType() != ack {
		t.Errorf("got %v after all leases have ended, want ACK", r)
	}
}

func TestOfferExpires(t *testing.T) {
	s, c := newServer(t, Config{})
	for client := byte(1); client <= 16; client++ {
		exchange(t, s, discover, client)
	}
	want(t, exchange(t, s, discover, 17), none, "")
	c.t = c.t.Add(offerTime)
	want(t, exchange(t, s, request, 17), ack, "10.0.2.15")
}

func TestInformAndOthers(t *testing.T) {
	s, _ := newServer(t, Config{})
	r := exchange(t, s, dhcpv4.MessageTypeInform, 1, dhcpv4.WithClientIP(net.IPv4(10, 0, 2, 100)))
	want(t, r, ack, "")
	if r.Options.Has(dhcpv4.OptionIPAddressLeaseTime) || r.ClientIPAddr.String() != "10.0.2.100" || len(r.DNS()) != 1 {
		t.Errorf("got %v", r)
	}
	for _, kind := range []dhcpv4.MessageType{dhcpv4.MessageTypeDecline, offer, ack, nak} {
		want(t, exchange(t, s, kind, 1), none, "")
	}
	if s.slots != ([poolSize]slot{}) {
		t.Error("a lease has been made")
	}
}

func TestBOOTP(t *testing.T) {
	s, _ := newServer(t, Config{})
	want(t, exchange(t, s, none, 1), ack, "10.0.2.15")
	// As before RFC 1497: no cookie, 64 bytes of zeros.
	m, err := dhcpv4.New(dhcpv4.WithHwAddr(mac(2)))
	if err != nil {
		t.Fatal(err)
	}
	b := append(m.ToBytes()[:bootpLen], make([]byte, 64)...)
	r, err := dhcpv4.FromBytes(s.Handle(b))
	if err != nil {
		t.Fatal(err)
	}
	want(t, r, ack, "10.0.2.16")
}

func TestOtherSubnet(t *testing.T) {
	p, err := addressing.New(netip.MustParsePrefix("10.0.135.128/25"), netip.Prefix{})
	if err != nil {
		t.Fatal(err)
	}
	s := New(Config{Plan: p})
	r := exchange(t, s, discover, 1)
	want(t, r, offer, "10.0.135.143")
	if got := r.SubnetMask().String(); got != "ffffff80" {
		t.Errorf("mask is %s", got)
	}
	if s.HandleV6([]byte{typeInformationRequest, 1, 2, 3}) != nil {
		t.Error("DHCPv6 answers without IPv6")
	}
}
