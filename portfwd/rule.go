package portfwd

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Protocols of a rule.
const (
	TCP = "tcp"
	UDP = "udp"
)

// Rule is one published port, or one range of them.
type Rule struct {
	// Proto is TCP or UDP; empty: TCP.
	Proto string
	// Host is the address to listen on; the zero value means 0.0.0.0. The
	// families are separate: 0.0.0.0 takes no IPv6 client, nor :: an IPv4 one.
	Host netip.Addr
	// DualStack has IPv6's unspecified address (Host is :: or the zero value) take IPv4
	// clients as well, which are treated as such. A family that the host or the guest
	// lacks is left out.
	DualStack bool
	// Interface, instead of Host, names an interface of the host, to listen on
	// its first address.
	Interface string
	// Device names an interface of the host by which clients have to come
	// (SO_BINDTODEVICE), whichever of its addresses they ask for.
	Device string
	// Freebind allows a Host that no interface has (IP_FREEBIND).
	Freebind bool
	// HostPort is the first port, 1 to 65535.
	HostPort uint16
	// HostPortEnd is the last port of a range, inclusive; 0: HostPort.
	HostPortEnd uint16
	// Guest is where the ports lead; the zero value means the guest's own address, of
	// the client's family. IPv6 ports may lead to an IPv4 address, where all clients are
	// seen as the gateway; IPv4 ports may not lead to IPv6, except with DualStack.
	Guest netip.Addr
	// GuestPort is where HostPort leads, the ports after it counting up; 0:
	// HostPort.
	GuestPort uint16
	// BestEffort leaves out the ports that cannot be bound, and those that the kernel
	// gives to clients (net.ipv4.ip_local_port_range).
	BestEffort bool
	// Auto binds the ports of the rule while a server in the guest listens on their
	// GuestPort, with about a second of delay. Ports that cannot be bound are left out as
	// by BestEffort, and so are those that an Exposed with Auto has. The servers of TCP
	// ports count for UDP, too.
	Auto bool
}

// FieldError says which part of a rule is wrong.
type FieldError struct {
	// Field is proto, host_addr, host_port, guest_addr or guest_port, as the
	// control socket calls it. It is not shown to people: Err says what it is about.
	Field string
	Err   error
}

func (e *FieldError) Error() string { return e.Err.Error() }

// Unwrap returns the reason.
func (e *FieldError) Unwrap() error { return e.Err }

func badField(field, format string, args ...any) error {
	return &FieldError{Field: field, Err: fmt.Errorf(format, args...)}
}

// Ports is the number of host ports of the rule.
func (r *Rule) Ports() int {
	if r.HostPortEnd == 0 {
		return 1
	}
	return int(r.HostPortEnd) - int(r.HostPort) + 1
}

// Validate checks the rule by itself. Its errors are *FieldError.
func (r *Rule) Validate() error {
	switch {
	case r.Proto != TCP && r.Proto != UDP && r.Proto != "":
		return badField("proto", "%q is neither tcp nor udp", r.Proto)
	case !listenable(r.Host):
		return badField("host_addr", "%v is not an address to listen on", r.Host)
	case r.Host.IsValid() && r.Interface != "":
		return badField("host_addr", "both an address (%v) and an interface (%s)", r.Host, r.Interface)
	case r.DualStack && (r.Interface != "" || r.Host.IsValid() && r.Host != netip.IPv6Unspecified()):
		return badField("host_addr", "only :: takes clients of both families")
	case r.HostPort == 0:
		return badField("host_port", "the host's port must be 1 to 65535")
	case r.HostPortEnd != 0 && r.HostPortEnd < r.HostPort:
		return badField("host_port", "the range %d-%d ends before it begins", r.HostPort, r.HostPortEnd)
	case r.Guest.IsValid() && (r.Guest.IsUnspecified() || r.Guest.IsMulticast() || r.Guest.IsLoopback() || r.Guest.Is4In6() || r.Guest.Zone() != ""):
		return badField("guest_addr", "%v is not an address of a guest", r.Guest)
	case r.Guest.Is6() && r.host().Is4() && !r.DualStack:
		return badField("guest_addr", "%v is not of the family of %v", r.Guest, r.host())
	case int(r.guestPort())+r.Ports()-1 > 65535:
		return badField("guest_port", "the range from %d on has no room for %d ports", r.guestPort(), r.Ports())
	}
	return nil
}

// listenable reports whether a socket may be bound to the address. The zero value is one.
func listenable(a netip.Addr) bool {
	return !a.IsMulticast() && !a.Is4In6() && a.Zone() == "" && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

func (r *Rule) host() netip.Addr {
	switch {
	case r.Host.IsValid():
		return r.Host
	case r.DualStack:
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

func (r *Rule) guestPort() uint16 {
	if r.GuestPort != 0 {
		return r.GuestPort
	}
	return r.HostPort
}

// Parse reads [HOST:]PORT[-END][:GUESTPORT[-END]][/PROTO]. HOST is an IPv4
// address, an IPv6 address in brackets, or the name of an interface.
func Parse(s string) (Rule, error) {
	r, err := parse(s)
	if err == nil {
		err = r.Validate()
	}
	if err != nil {
		return Rule{}, fmt.Errorf("parse published port %q: %w", s, err)
	}
	return r, nil
}

func parse(s string) (r Rule, err error) {
	rest, proto, ok := strings.Cut(s, "/")
	r.Proto = TCP
	if ok {
		if proto == "" {
			return r, badField("proto", "tcp or udp is missing after the slash")
		}
		r.Proto = proto
	}
	if rest, err = r.parseHost(rest); err != nil {
		return r, err
	}
	host, guest, mapped := strings.Cut(rest, ":")
	if r.HostPort, r.HostPortEnd, err = parseRange(host); err != nil {
		return r, &FieldError{"host_port", err}
	}
	if !mapped {
		return r, nil
	}
	var end uint16
	if r.GuestPort, end, err = parseRange(guest); err != nil {
		return r, &FieldError{"guest_port", err}
	}
	if end != 0 && int(end)-int(r.GuestPort)+1 != r.Ports() {
		return r, badField("guest_port", "%s and %s are not of the same length", host, guest)
	}
	return r, nil
}

// parseHost takes the address or interface off the front, if there is one.
func (r *Rule) parseHost(s string) (rest string, err error) {
	if strings.HasPrefix(s, "[") {
		host, after, ok := strings.Cut(s[1:], "]:")
		if !ok {
			return "", badField("host_addr", `an address in brackets is followed by a colon and a port`)
		}
		if r.Host, err = netip.ParseAddr(host); err != nil {
			return "", badField("host_addr", "%q is not an IPv6 address", host)
		}
		return after, nil
	}
	host, after, ok := strings.Cut(s, ":")
	if !ok || isRange(host) {
		return s, nil
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		r.Host = addr
		return after, nil
	}
	if strings.Trim(host, "0123456789.") == "" || len(host) > 15 {
		return "", badField("host_addr", "%q is neither an address nor the name of an interface", host)
	}
	r.Interface = host
	return after, nil
}

func isRange(s string) bool { return s == "" || strings.Trim(s, "0123456789-") == "" }

// parseRange reads PORT or PORT-END; end is 0 for the former.
func parseRange(s string) (first, end uint16, err error) {
	a, b, isRange := strings.Cut(s, "-")
	if first, err = parsePort(a); err != nil || !isRange {
		return first, 0, err
	}
	if end, err = parsePort(b); err == nil && end < first {
		err = fmt.Errorf("the range %s ends before it begins", s)
	}
	return first, end, err
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		if s == "" {
			return 0, errors.New("a port is missing")
		}
		return 0, fmt.Errorf("%q is not a port, 1 to 65535", s)
	}
	return uint16(n), nil
}

// String is what Parse reads, as far as that goes: without a guest address, and without
// Freebind, BestEffort and Auto. DualStack and Device are shown as *:PORT and
// %DEVICE:PORT.
func (r Rule) String() string {
	var b strings.Builder
	if r.Device != "" {
		b.WriteString("%" + r.Device + ":")
	}
	switch {
	case r.Interface != "":
		b.WriteString(r.Interface + ":")
	case r.DualStack:
		b.WriteString("*:")
	case r.Host.Is6():
		fmt.Fprintf(&b, "[%v]:", r.Host)
	case r.Host.IsValid():
		fmt.Fprintf(&b, "%v:", r.Host)
	}
	fmt.Fprint(&b, r.HostPort)
	if r.HostPortEnd != 0 {
		fmt.Fprintf(&b, "-%d", r.HostPortEnd)
	}
	if g := r.guestPort(); g != r.HostPort {
		fmt.Fprintf(&b, ":%d", g)
		if n := r.Ports(); n > 1 {
			fmt.Fprintf(&b, "-%d", int(g)+n-1)
		}
	}
	if r.Proto == UDP {
		b.WriteString("/udp")
	}
	return b.String()
}
