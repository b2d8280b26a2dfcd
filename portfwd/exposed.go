package portfwd

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Exposed is one port of the host, or a range of them, and where in the guest it is
// reached: a Rule the other way around. Its clients are in the guest, its server is on
// the host. No address comes from the guest: the rule alone says where it leads.
type Exposed struct {
	// Proto is TCP or UDP; empty: TCP.
	Proto string
	// Guest is the address to listen on in the guest; the zero value means 127.0.0.1
	// and ::1, of the families that the guest has.
	Guest netip.Addr
	// Device names an interface of the guest by which clients have to come.
	Device string
	// GuestPort is the first port to listen on, 1 to 65535.
	GuestPort uint16
	// GuestPortEnd is the last port of a range, inclusive; 0: GuestPort.
	GuestPortEnd uint16
	// Host is the address of the server; the zero value means the host's loopback of the
	// client's family, or of the other one where a TCP client is refused.
	Host netip.Addr
	// HostPort is where GuestPort leads, the ports after it counting up; 0: GuestPort.
	HostPort uint16
	// BestEffort leaves out the ports that cannot be bound, and those that the host's
	// kernel gives to clients, which the guest's kernel gives by default, too.
	BestEffort bool
	// Auto binds the ports whose HostPort a server on the host listens on, as Rule.Auto
	// does in the other direction.
	Auto bool
}

// Ports is the number of guest ports.
func (e *Exposed) Ports() int {
	if e.GuestPortEnd == 0 {
		return 1
	}
	return int(e.GuestPortEnd) - int(e.GuestPort) + 1
}

func (e *Exposed) hostPort() uint16 {
	if e.HostPort != 0 {
		return e.HostPort
	}
	return e.GuestPort
}

// Validate checks the rule by itself. Its errors are *FieldError.
func (e *Exposed) Validate() error {
	switch {
	case e.Proto != TCP && e.Proto != UDP && e.Proto != "":
		return badField("proto", "%q is neither tcp nor udp", e.Proto)
	case !listenable(e.Guest):
		return badField("guest_addr", "%v is not an address to listen on", e.Guest)
	case e.GuestPort == 0:
		return badField("guest_port", "must be 1 to 65535")
	case e.GuestPortEnd != 0 && e.GuestPortEnd < e.GuestPort:
		return badField("guest_port", "the range %d-%d ends before it begins", e.GuestPort, e.GuestPortEnd)
	case e.Host.IsValid() && (e.Host.IsUnspecified() || !listenable(e.Host)):
		return badField("host_addr", "%v is not an address of a server", e.Host)
	case int(e.hostPort())+e.Ports()-1 > 65535:
		return badField("host_port", "the range from %d on has no room for %d ports", e.hostPort(), e.Ports())
	}
	return nil
}

// ParseExposed reads PORT[:GUESTPORT], which is how the command line exposes one TCP port
// of the host's loopback on the guest's.
func ParseExposed(s string) (e Exposed, err error) {
	ports, proto, ok := strings.Cut(s, "/")
	if ok && proto != TCP {
		return e, fmt.Errorf("parse exposed port %q: %q is not carried out: only TCP ports are exposed", s, proto)
	}
	host, guest, mapped := strings.Cut(ports, ":")
	e.Proto = TCP
	if e.HostPort, err = parsePort(host); err == nil {
		if e.GuestPort = e.HostPort; mapped {
			e.GuestPort, err = parsePort(guest)
		}
	}
	if err != nil {
		return Exposed{}, fmt.Errorf("parse exposed port %q: %w (PORT[:GUESTPORT], as in 5432 or 80:8080)", s, err)
	}
	return e, nil
}

// String is what ParseExposed reads, as far as that goes; a range is shown as one, and UDP
// by /udp.
func (e Exposed) String() string {
	var b strings.Builder
	b.WriteString(rangeText(e.hostPort(), e.Ports()))
	if e.GuestPort != e.hostPort() {
		b.WriteString(":" + rangeText(e.GuestPort, e.Ports()))
	}
	if e.Proto == UDP {
		b.WriteString("/udp")
	}
	return b.String()
}

func rangeText(first uint16, ports int) string {
	if ports == 1 {
		return strconv.Itoa(int(first))
	}
	return fmt.Sprintf("%d-%d", first, int(first)+ports-1)
}
