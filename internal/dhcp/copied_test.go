package dhcp

import (
	"encoding/hex"
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"epiphyte/internal/addressing"
	"epiphyte/internal/addressing/addressingtest"
)

// Whoever asks in a guest that has the host's addresses gets the guest's, and is told of
// names only if there is something to tell.
func TestCopied(t *testing.T) {
	s := New(Config{Plan: addressingtest.Copied(t), MTU: 65520})
	const own = "192.0.2.10"
	for client := range byte(20) {
		want(t, exchange(t, s, discover, client), offer, own)
		want(t, exchange(t, s, request, client, wishFor(own)), ack, own)
		want(t, exchange(t, s, request, client, wishFor("192.0.2.11")), nak, "")
	}
	r := exchange(t, s, request, 1)
	if len(r.Router()) != 1 || r.Router()[0].String() != "192.0.2.1" || r.ServerIdentifier().String() != "192.0.2.1" || r.SubnetMask().String() != "ffffff00" {
		t.Errorf("%v", r)
	}
	for _, code := range []dhcpv4.OptionCode{dhcpv4.OptionDomainNameServer, dhcpv4.OptionDNSDomainSearchList, dhcpv4.OptionHostName, dhcpv4.OptionFQDN, dhcpv4.OptionClasslessStaticRoute} {
		if r.Options.Has(code) {
			t.Errorf("told of %v", code)
		}
	}
	quick := exchange(t, s, discover, 1, dhcpv4.WithGeneric(dhcpv4.OptionRapidCommit, nil))
	want(t, quick, ack, own)
	if !quick.Options.Has(dhcpv4.OptionRapidCommit) {
		t.Error("a lease by the first message is not called one")
	}
}

// What is asked for on the command line is told.
func TestCopiedNames(t *testing.T) {
	p, err := addressing.NewCopied(addressing.Copied{
		Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.10/32")}, Gateway: netip.MustParseAddr("198.51.100.1"),
	})
	if err != nil {
		t.Fatal(err)
	}
	s := New(Config{
		Plan: p, Search: []string{"example.org", "lan"}, Hostname: "box", FQDN: "box.example.org",
		Resolvers: []netip.Addr{netip.MustParseAddr("192.0.2.53"), netip.MustParseAddr("2001:db8::53"), netip.MustParseAddr("192.0.2.54")},
	})
	r := exchange(t, s, request, 1, dhcpv4.WithGeneric(dhcpv4.OptionFQDN, []byte{1, 0, 0}))
	for what, got := range map[string][2]string{
		"resolvers": {"c0000235c0000236", hex.EncodeToString(r.Options.Get(dhcpv4.OptionDomainNameServer))},
		"search":    {"076578616d706c65036f726700036c616e00", hex.EncodeToString(r.Options.Get(dhcpv4.OptionDNSDomainSearchList))},
		"hostname":  {"box", r.HostName()},
		"FQDN":      {"0effff03626f78076578616d706c65036f726700", hex.EncodeToString(r.Options.Get(dhcpv4.OptionFQDN))},
		// To the router, which no subnet contains, and by it to everywhere.
		"routes": {"20c63364010000000000c6336401", hex.EncodeToString(r.Options.Get(dhcpv4.OptionClasslessStaticRoute))},
		"mask":   {"ffffffff", r.SubnetMask().String()},
	} {
		if got[0] != got[1] {
			t.Errorf("%s: %s, want %s", what, got[1], got[0])
		}
	}
	if exchange(t, s, request, 1).Options.Has(dhcpv4.OptionFQDN) {
		t.Error("the FQDN is told to who has not sent one (RFC 4702, section 4)")
	}
}

func TestCopiedAdvertisement(t *testing.T) {
	cfg := Config{Plan: addressingtest.Copied(t)}
	want := `86 00 0000 40 80 0708 00000000 00000000
		01 01 9a55 9a559a55
		03 04 40 c0 00015180 00003840 00000000 20010db8000100000000000000000000`
	if diff := cmp.Diff(unhex(t, want), RouterAdvertisement(cfg, true)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	cfg.Resolvers, cfg.Search = []netip.Addr{netip.MustParseAddr("fd00::3")}, []string{"lan"}
	want += "19 03 0000 00000708 fd000000000000000000000000000003 1f 02 0000 00000708 036c616e00000000"
	if diff := cmp.Diff(unhex(t, want), RouterAdvertisement(cfg, true)); diff != "" {
		t.Errorf("with names (-want +got):\n%s", diff)
	}
	p, err := addressing.NewCopied(addressing.Copied{Gateway6: addressing.LocalGateway6()})
	if err != nil {
		t.Fatal(err)
	}
	want = "86 00 0000 40 00 0708 00000000 00000000 01 01 9a55 9a559a55"
	if diff := cmp.Diff(unhex(t, want), RouterAdvertisement(Config{Plan: p}, true)); diff != "" {
		t.Errorf("of a router alone (-want +got):\n%s", diff)
	}
}

// ask6 sends a message of DHCPv6 and gives the answer, nil if there is none.
func ask6(t *testing.T, s *Server, kind dhcpv6.MessageType, options ...dhcpv6.Option) *dhcpv6.Message {
	t.Helper()
	m := &dhcpv6.Message{MessageType: kind, TransactionID: dhcpv6.TransactionID{1, 2, 3}}
	for _, o := range options {
		m.AddOption(o)
	}
	b := s.HandleV6(m.ToBytes())
	if b == nil {
		return nil
	}
	r, err := dhcpv6.MessageFromBytes(b)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestCopiedV6(t *testing.T) {
	s := New(Config{Plan: addressingtest.Copied(t), Resolvers: []netip.Addr{netip.MustParseAddr("fd00::3")}, Search: []string{"lan"}, FQDN: "box.lan"})
	client := dhcpv6.OptClientID(&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: mac(1)})
	ours := dhcpv6.OptServerID(&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: net.HardwareAddr{0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55}})
	other := dhcpv6.OptServerID(&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: mac(9)})
	ia := func(has ...string) dhcpv6.Option {
		o := &dhcpv6.OptIANA{IaId: [4]byte{0, 0, 0, 7}}
		for _, a := range has {
			o.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: net.ParseIP(a)})
		}
		return o
	}
	rapid := &dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionRapidCommit}
	const own = "2001:db8:1::10"
	for name, tt := range map[string]struct {
		kind, want dhcpv6.MessageType // none: no answer
		options    []dhcpv6.Option
		status     string   // if there is one
		lives      []string // addresses that are good
		ends       []string // that are not
	}{
		"solicit":                     {dhcpv6.MessageTypeSolicit, dhcpv6.MessageTypeAdvertise, []dhcpv6.Option{client, ia()}, "", []string{own}, nil},
		"solicit, rapidly":            {dhcpv6.MessageTypeSolicit, dhcpv6.MessageTypeReply, []dhcpv6.Option{client, ia(), rapid}, "", []string{own}, nil},
		"solicit from nobody":         {dhcpv6.MessageTypeSolicit, 0, []dhcpv6.Option{ia()}, "", nil, nil},
		"solicit to a server":         {dhcpv6.MessageTypeSolicit, 0, []dhcpv6.Option{client, ours, ia()}, "", nil, nil},
		"request":                     {dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeReply, []dhcpv6.Option{client, ours, ia(own)}, "", []string{own}, nil},
		"request of another address":  {dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeReply, []dhcpv6.Option{client, ours, ia("2001:db8:1::11")}, "", []string{own}, []string{"2001:db8:1::11"}},
		"request to another":          {dhcpv6.MessageTypeRequest, 0, []dhcpv6.Option{client, other, ia(own)}, "", nil, nil},
		"request to nobody":           {dhcpv6.MessageTypeRequest, 0, []dhcpv6.Option{client, ia(own)}, "", nil, nil},
		"renew":                       {dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeReply, []dhcpv6.Option{client, ours, ia(own)}, "", []string{own}, nil},
		"rebind":                      {dhcpv6.MessageTypeRebind, dhcpv6.MessageTypeReply, []dhcpv6.Option{client, ia(own)}, "", []string{own}, nil},
		"confirm":                     {dhcpv6.MessageTypeConfirm, dhcpv6.MessageTypeReply, []dhcpv6.Option{client, ia(own)}, "Success", nil, nil},
		"confirm of an address gone":  {dhcpv6.MessageTypeConfirm, dhcpv6.MessageTypeReply, []dhcpv6.Option{client, ia("2001:db8:9::1")}, "NotOnLink", nil, nil},
		"release":                     {dhcpv6.MessageTypeRelease, dhcpv6.MessageTypeReply, []dhcpv6.Option{client, ours, ia(own)}, "Success", nil, nil},
		"information":                 {dhcpv6.MessageTypeInformationRequest, dhcpv6.MessageTypeReply, []dhcpv6.Option{client}, "", nil, nil},
		"a server's":                  {dhcpv6.MessageTypeReply, 0, []dhcpv6.Option{client, ours}, "", nil, nil},
		"a relay's":                   {dhcpv6.MessageTypeRelayForward, 0, []dhcpv6.Option{client}, "", nil, nil},
		"information, with addresses": {dhcpv6.MessageTypeInformationRequest, 0, []dhcpv6.Option{client, ia()}, "", nil, nil},
	} {
		r := ask6(t, s, tt.kind, tt.options...)
		if r == nil || tt.want == 0 {
			if r != nil || tt.want != 0 {
				t.Errorf("%s: %v, want %v", name, r, tt.want)
			}
			continue
		}
		var lives, ends []string
		for _, ia := range r.Options.IANA() {
			for _, a := range ia.Options.Addresses() {
				if a.ValidLifetime > 0 {
					lives = append(lives, a.IPv6Addr.String())
				} else {
					ends = append(ends, a.IPv6Addr.String())
				}
			}
			if ia.IaId != [4]byte{0, 0, 0, 7} || ia.T1 >= ia.T2 {
				t.Errorf("%s: %v", name, ia)
			}
		}
		status := ""
		if o := r.Options.Status(); o != nil {
			status = o.StatusCode.String()
		}
		if diff := cmp.Diff(tt.lives, lives) + cmp.Diff(tt.ends, ends); diff != "" || r.MessageType != tt.want || status != tt.status || r.Options.ClientID() == nil || r.Options.ServerID() == nil {
			t.Errorf("%s: %v\n%s", name, r.Summary(), diff)
		}
		if status == "" && (len(r.Options.DNS()) != 1 || r.Options.DomainSearchList() == nil) {
			t.Errorf("%s: no names in %v", name, r.Summary())
		}
	}
	if r := ask6(t, New(Config{Plan: addressingtest.New(t)}), dhcpv6.MessageTypeSolicit, client, ia()); r != nil {
		t.Errorf("a guest that makes its own address is given %v", r)
	}
}
