package api

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net/netip"

	"epiphyte/portfwd"
)

// Port is a published port or a range of them in JSON: in requests and replies
// of both protocols. The order of the first fields is slirp4netns's.
type Port struct {
	ID        int    `json:"id,omitempty"` // replies only
	Proto     string `json:"proto"`
	HostAddr  string `json:"host_addr"`
	HostPort  int    `json:"host_port"`
	GuestAddr string `json:"guest_addr"` // empty: the guest's own address
	GuestPort int    `json:"guest_port"`
	// HostPortEnd is the last port of a range, 0 for a single port.
	HostPortEnd int    `json:"host_port_end,omitempty"`
	Interface   string `json:"interface,omitempty"` // requests only, instead of HostAddr
	// Rule, in requests only, is what portfwd.Parse reads. Only GuestAddr may
	// be given with it.
	Rule string `json:"rule,omitempty"`
}

type portsDocument struct {
	Ports []Port `json:"ports"`
}

func portOf(e portfwd.Entry) Port {
	r := e.Rule
	p := Port{
		ID:        e.ID,
		Proto:     r.Proto,
		HostPort:  int(r.HostPort),
		GuestPort: int(r.GuestPort),
		Interface: r.Interface,
	}
	if r.Host.IsValid() {
		p.HostAddr = r.Host.String()
	}
	if r.Guest.IsValid() {
		p.GuestAddr = r.Guest.String()
	}
	if r.Ports() > 1 {
		p.HostPortEnd = int(r.HostPortEnd)
	}
	return p
}

func (s *Server) ports() []Port {
	entries := s.cfg.Ports.List()
	ports := make([]Port, len(entries))
	for i, e := range entries {
		ports[i] = portOf(e)
	}
	return ports
}

// rule converts a request. It checks the fields in the order of the contract,
// and leaves to portfwd what does not depend on the form of the request. Errors
// about a field are *portfwd.FieldError.
func (p Port) rule() (r portfwd.Rule, err error) {
	switch {
	case p.ID != 0:
		return r, errors.New("id cannot be chosen")
	case p.Rule != "":
		return p.parse()
	}
	family := ""
	if r.Proto = cmp.Or(p.Proto, portfwd.TCP); len(r.Proto) == 4 {
		r.Proto, family = r.Proto[:3], r.Proto[3:]
	}
	if r.Proto != portfwd.TCP && r.Proto != portfwd.UDP || family != "" && family != "4" && family != "6" {
		return r, fieldError("proto", "%q is neither tcp nor udp", p.Proto)
	}
	if r.Host, err = parseAddr("host_addr", p.HostAddr); err != nil {
		return r, err
	}
	switch {
	case family != "" && r.Host.IsValid() && r.Host.Is4() != (family == "4"):
		return r, fieldError("host_addr", "%v is not of the address family of %s", r.Host, p.Proto)
	case family == "6" && !r.Host.IsValid():
		r.Host = netip.IPv6Unspecified()
	}
	if r.HostPort, err = parsePort("host_port", p.HostPort); err != nil {
		return r, err
	}
	if r.Guest, err = parseAddr("guest_addr", p.GuestAddr); err != nil {
		return r, err
	}
	// 0: not given.
	if p.GuestPort != 0 {
		if r.GuestPort, err = parsePort("guest_port", p.GuestPort); err != nil {
			return r, err
		}
	}
	if p.HostPortEnd != 0 {
		r.HostPortEnd, err = parsePort("host_port", p.HostPortEnd)
	}
	r.Interface = p.Interface
	return r, err
}

// parse converts a request that has Rule.
func (p Port) parse() (portfwd.Rule, error) {
	if p != (Port{Rule: p.Rule, GuestAddr: p.GuestAddr}) {
		return portfwd.Rule{}, errors.New("only guest_addr may be given together with rule")
	}
	r, err := portfwd.Parse(p.Rule)
	if err != nil {
		return r, err
	}
	r.Guest, err = parseAddr("guest_addr", p.GuestAddr)
	return r, err
}

// parseAddr reads an address; the empty one is not valid.
func parseAddr(field, s string) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return a, fieldError(field, "%q is not an IP address", s)
	}
	return a, nil
}

func parsePort(field string, n int) (uint16, error) {
	if n < 1 || n > math.MaxUint16 {
		return 0, fieldError(field, "a number from 1 to 65535 is required, not %d", n)
	}
	return uint16(n), nil
}

func fieldError(field, format string, args ...any) error {
	return &portfwd.FieldError{Field: field, Err: fmt.Errorf(format, args...)}
}
