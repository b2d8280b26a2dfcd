package dhcp

import (
	"encoding/binary"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/rfc1035label"

	"epiphyte/internal/addressing"
)

// UDP ports, RFC 2131, section 4.1 and RFC 8415, section 7.2.
const (
	ServerPort  = 67
	ClientPort  = 68
	ServerPort6 = 547
	ClientPort6 = 546
)

const (
	// poolSize is the number of addresses from plan.DHCPStart to plan.DHCPEnd.
	poolSize = 16

	// offerTime is how long an offer stays reserved; clients decide in seconds.
	offerTime = time.Minute

	// maxRequest bounds what is parsed. Clients are to expect 576 bytes
	// (RFC 2131, section 2), and none sends more than an Ethernet frame.
	maxRequest = 1500

	// bootpLen is the length of a message before its options, RFC 951.
	bootpLen = 236
)

// Config describes the network that clients are told about. Only Plan is
// needed.
//
// Where the guest's subnets lie outside, everybody is given the guest's addresses.
type Config struct {
	Plan  addressing.Plan
	Lease time.Duration // default 24 h; whole seconds
	MTU   int           // of the guest's interface; 0: not told
	MAC   [6]byte       // ours, for the DHCPv6 server id; default the Plan's
	Now   func() time.Time

	// What else clients are told. Resolvers are of either family; nil: the plan's, unless
	// the guest's subnets lie outside. Search are the domains of names without dots.
	// Hostname is the client's own name, and FQDN its full one.
	Resolvers      []netip.Addr
	Search         []string
	Hostname, FQDN string

	// AddressOf returns the fixed address of a hardware address, if it has one. With
	// it nothing is leased from the pool, which the plan of a network of several
	// members does not have.
	AddressOf func(mac [6]byte) (netip.Addr, bool)
}

// Server tells clients the addresses of one plan. It is not safe for concurrent use:
// it belongs to whoever receives the guest's frames.
type Server struct {
	cfg   Config
	slots [poolSize]slot
}

// slot is one address of the pool. The zero value has never been used.
type slot struct {
	client string // hardware address, raw; empty: nobody's
	until  time.Time
}

func (cfg Config) withDefaults() Config {
	if cfg.Lease <= 0 {
		cfg.Lease = 24 * time.Hour
	}
	if cfg.MAC == [6]byte{} {
		cfg.MAC = cfg.Plan.MAC
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Resolvers == nil && !cfg.Plan.Outside {
		cfg.Resolvers = []netip.Addr{cfg.Plan.DNS, cfg.Plan.DNS6}
	}
	switch guest := cfg.Plan.Guest; {
	case cfg.AddressOf != nil:
	case cfg.Plan.Outside:
		cfg.AddressOf = func([6]byte) (netip.Addr, bool) { return guest, guest.IsValid() }
	case !cfg.Plan.DHCPStart.IsValid():
		cfg.AddressOf = func([6]byte) (netip.Addr, bool) { return netip.Addr{}, false } // nor is there a pool
	}
	return cfg
}

// resolvers are those of one family, one after the other.
func (cfg *Config) resolvers(v6 bool) (b []byte) {
	for _, a := range cfg.Resolvers {
		if a.IsValid() && a.Is6() == v6 {
			b = append(b, a.AsSlice()...)
		}
	}
	return b
}

// search are the domains as options have them (RFC 1035, section 3.1), empty if none.
func (cfg *Config) search() []byte {
	if len(cfg.Search) == 0 {
		return nil
	}
	return (&rfc1035label.Labels{Labels: cfg.Search}).ToBytes()
}

// New makes a server whose whole pool, if it has one, is free.
func New(cfg Config) *Server { return &Server{cfg: cfg.withDefaults()} }

// Handle takes the UDP payload of a datagram to port 67 of the gateway or of the
// broadcast address, and gives the payload of the answer, which is to be
// broadcast from port 67 of the gateway to port 68; nil means none. Any bytes
// are safe.
func (s *Server) Handle(req []byte) (resp []byte) {
	if len(req) > maxRequest {
		return nil
	}
	m, err := dhcpv4.FromBytes(withCookie(req))
	if err != nil || m.OpCode != dhcpv4.OpcodeBootRequest || len(m.ClientHWAddr) == 0 {
		return nil
	}
	kind := m.MessageType()
	if !m.Options.Has(dhcpv4.OptionDHCPMessageType) {
		kind = dhcpv4.MessageTypeRequest // BOOTP
	}
	if id := m.ServerIdentifier(); kind == dhcpv4.MessageTypeRequest && id != nil && address(id) != s.cfg.Plan.Gateway {
		return nil // the client has chosen another server
	}
	if s.cfg.AddressOf != nil {
		return s.member(m, kind)
	}
	switch kind {
	case dhcpv4.MessageTypeDiscover:
		return s.discover(m)
	case dhcpv4.MessageTypeRequest:
		return s.request(m)
	case dhcpv4.MessageTypeInform:
		return s.inform(m)
	case dhcpv4.MessageTypeRelease:
		s.release(m)
	}
	return nil
}

// member answers a client that has a fixed address; others get no answer.
func (s *Server) member(m *dhcpv4.DHCPv4, kind dhcpv4.MessageType) []byte {
	if len(m.ClientHWAddr) != 6 {
		return nil
	}
	own, ok := s.cfg.AddressOf([6]byte(m.ClientHWAddr))
	if !ok {
		return nil
	}
	switch kind {
	case dhcpv4.MessageTypeDiscover:
		// RFC 4039: the lease by the first message.
		if s.cfg.Plan.Outside && m.Options.Has(dhcpv4.OptionRapidCommit) {
			return s.reply(m, dhcpv4.MessageTypeAck, own, dhcpv4.WithGeneric(dhcpv4.OptionRapidCommit, nil))
		}
		return s.reply(m, dhcpv4.MessageTypeOffer, own)
	case dhcpv4.MessageTypeRequest:
		if wanted := wish(m); wanted.IsValid() && wanted != own {
			return s.refuse(m)
		}
		return s.reply(m, dhcpv4.MessageTypeAck, own)
	case dhcpv4.MessageTypeInform:
		return s.inform(m)
	}
	return nil
}

// withCookie gives a BOOTP message without vendor information the empty options
// that the parser insists on (RFC 1497 made the cookie, RFC 951 knows none).
func withCookie(req []byte) []byte {
	if len(req) < bootpLen || len(req) >= bootpLen+4 && binary.BigEndian.Uint32(req[bootpLen:]) != 0 {
		return req
	}
	return append(req[:bootpLen:bootpLen], 99, 130, 83, 99, 255)
}

func (s *Server) discover(m *dhcpv4.DHCPv4) []byte {
	now := s.cfg.Now()
	client := string(m.ClientHWAddr)
	i := s.index(wish(m))
	if i < 0 || !s.free(i, client, now) {
		i = s.choose(client, now)
	}
	if i < 0 {
		return nil
	}
	until := now.Add(offerTime)
	if s.slots[i].client == client && s.slots[i].until.After(until) {
		until = s.slots[i].until
	}
	s.take(i, client, until)
	return s.reply(m, dhcpv4.MessageTypeOffer, s.addr(i))
}

func (s *Server) request(m *dhcpv4.DHCPv4) []byte {
	now := s.cfg.Now()
	client := string(m.ClientHWAddr)
	wanted := wish(m)
	i := s.index(wanted)
	switch {
	case !wanted.IsValid():
		if i = s.choose(client, now); i < 0 {
			return nil
		}
	case i < 0 || !s.free(i, client, now):
		return s.refuse(m)
	}
	s.take(i, client, now.Add(s.cfg.Lease))
	return s.reply(m, dhcpv4.MessageTypeAck, s.addr(i))
}

func (s *Server) inform(m *dhcpv4.DHCPv4) []byte {
	return s.reply(m, dhcpv4.MessageTypeAck, netip.Addr{}, dhcpv4.WithClientIP(m.ClientIPAddr))
}

func (s *Server) release(m *dhcpv4.DHCPv4) {
	i := s.index(address(m.ClientIPAddr))
	if i >= 0 && s.slots[i].client == string(m.ClientHWAddr) {
		s.slots[i].until = time.Time{}
	}
}

// wish is the address that the client asks for, or says it has; the zero Addr
// if none.
func wish(m *dhcpv4.DHCPv4) netip.Addr {
	a := address(m.RequestedIPAddress())
	if !a.IsValid() {
		a = address(m.ClientIPAddr)
	}
	return a
}

// address converts; 0.0.0.0 counts as no address.
func address(ip net.IP) netip.Addr {
	a, ok := netip.AddrFromSlice(ip)
	if !ok || a.IsUnspecified() {
		return netip.Addr{}
	}
	return a.Unmap()
}

// index gives the slot of an address, or -1 if it is not in the pool.
func (s *Server) index(a netip.Addr) int {
	if !a.Is4() {
		return -1
	}
	first, asked := s.cfg.Plan.DHCPStart.As4(), a.As4()
	i := int64(binary.BigEndian.Uint32(asked[:])) - int64(binary.BigEndian.Uint32(first[:]))
	if i < 0 || i >= poolSize {
		return -1
	}
	return int(i)
}

func (s *Server) addr(i int) netip.Addr {
	b := s.cfg.Plan.DHCPStart.As4()
	b[3] += byte(i) // the plan's subnet leaves the last seven bits free
	return netip.AddrFrom4(b)
}

// free reports whether the client may have the address.
func (s *Server) free(i int, client string, now time.Time) bool {
	return s.slots[i].client == client || !s.slots[i].until.After(now)
}

// choose gives the client's own slot, else one never used, else the one that has
// been free for longest, else -1.
func (s *Server) choose(client string, now time.Time) int {
	best := -1
	for i := range s.slots {
		if s.slots[i].client == client {
			return i
		}
		if s.free(i, client, now) && (best < 0 || s.slots[i].until.Before(s.slots[best].until)) {
			best = i
		}
	}
	return best
}

// take gives the slot to the client, who loses any other.
func (s *Server) take(i int, client string, until time.Time) {
	for j := range s.slots {
		if s.slots[j].client == client {
			s.slots[j] = slot{}
		}
	}
	s.slots[i] = slot{client, until}
}

// reply builds an answer with the network's configuration, and a lease if addr
// is valid.
func (s *Server) reply(m *dhcpv4.DHCPv4, kind dhcpv4.MessageType, addr netip.Addr, more ...dhcpv4.Modifier) []byte {
	p := &s.cfg.Plan
	options := []dhcpv4.Modifier{
		dhcpv4.WithMessageType(kind),
		dhcpv4.WithServerIP(p.Gateway.AsSlice()),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(p.Gateway.AsSlice())),
		dhcpv4.WithNetmask(net.CIDRMask(p.Prefix.Bits(), 32)),
		dhcpv4.WithOption(dhcpv4.OptRouter(p.Gateway.AsSlice())),
	}
	options = append(options, s.names(m)...)
	if !p.Prefix.Contains(p.Gateway) {
		options = append(options, dhcpv4.WithGeneric(dhcpv4.OptionClasslessStaticRoute, routesBy(p.Gateway)))
	}
	if addr.IsValid() {
		options = append(options,
			dhcpv4.WithYourIP(addr.AsSlice()),
			dhcpv4.WithLeaseTime(uint32(s.cfg.Lease/time.Second)))
	}
	// RFC 2132, section 5.1: 68 is the least there is.
	if s.cfg.MTU >= 68 && s.cfg.MTU <= 65535 {
		mtu := binary.BigEndian.AppendUint16(nil, uint16(s.cfg.MTU))
		options = append(options, dhcpv4.WithGeneric(dhcpv4.OptionInterfaceMTU, mtu))
	}
	return encode(m, append(options, more...))
}

// names are the options about names.
func (s *Server) names(m *dhcpv4.DHCPv4) (options []dhcpv4.Modifier) {
	add := func(code dhcpv4.OptionCode, value []byte) {
		if len(value) > 0 {
			options = append(options, dhcpv4.WithGeneric(code, value))
		}
	}
	add(dhcpv4.OptionDomainNameServer, s.cfg.resolvers(false))
	add(dhcpv4.OptionDNSDomainSearchList, s.cfg.search())
	add(dhcpv4.OptionHostName, []byte(s.cfg.Hostname))
	if asked := m.Options.Get(dhcpv4.OptionFQDN); len(asked) >= 3 && s.cfg.FQDN != "" {
		add(dhcpv4.OptionFQDN, fqdn4(asked[0], s.cfg.FQDN))
	}
	return options
}

// fqdn4 is the option that answers one with the given flags (RFC 4702): the server
// determines the name, in DNS's own encoding, and DNS is not updated.
func fqdn4(asked byte, name string) []byte {
	const update, overridden, encoded, noUpdate = 1, 2, 4, 8
	flags := byte(encoded | noUpdate)
	if asked&update != 0 {
		flags |= overridden
	}
	return append([]byte{flags, 255, 255}, (&rfc1035label.Labels{Labels: []string{name}}).ToBytes()...)
}

// routesBy are the routes of a client whose router is outside its subnets: to the router,
// which is on the link, and by it to everywhere (RFC 3442).
func routesBy(router netip.Addr) []byte {
	b := append([]byte{32}, router.AsSlice()...)
	b = append(b, 0, 0, 0, 0, 0)
	return append(b, router.AsSlice()...)
}

// refuse builds a NAK, which carries no configuration (RFC 2131, table 3).
func (s *Server) refuse(m *dhcpv4.DHCPv4) []byte {
	return encode(m, []dhcpv4.Modifier{
		dhcpv4.WithMessageType(dhcpv4.MessageTypeNak),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(s.cfg.Plan.Gateway.AsSlice())),
		dhcpv4.WithOption(dhcpv4.OptMessage("requested address not available")),
	})
}

func encode(m *dhcpv4.DHCPv4, options []dhcpv4.Modifier) []byte {
	r, err := dhcpv4.NewReplyFromRequest(m, options...)
	if err != nil {
		return nil
	}
	return r.ToBytes()
}
