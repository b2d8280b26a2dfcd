package pasta

import (
	"net/netip"
	"strconv"
	"strings"
)

// Option is one of the four options that forward ports, by its letter.
type Option byte

// The options: ports of the host to the namespace, and ports of the namespace to the host.
const (
	HostTCP  Option = 't'
	HostUDP  Option = 'u'
	GuestTCP Option = 'T'
	GuestUDP Option = 'U'
)

// Options lists all of them, in the order in which they are shown.
func Options() []Option { return []Option{HostTCP, HostUDP, GuestTCP, GuestUDP} }

// Proto is tcp or udp.
func (o Option) Proto() string {
	if o == HostTCP || o == GuestTCP {
		return "tcp"
	}
	return "udp"
}

// Out reports whether the ports are the namespace's, and lead to the host.
func (o Option) Out() bool { return o == GuestTCP || o == GuestUDP }

func (o Option) String() string { return "-" + o.Letter() }

// Letter is the option's, without its dash.
func (o Option) Letter() string { return string(rune(o)) }

// Name is the option's long form, without its dashes.
func (o Option) Name() string {
	if o.Out() {
		return o.Proto() + "-ns"
	}
	return o.Proto() + "-ports"
}

// Forward is one range of ports that lead to the other side. Forwards are compared by ==.
type Forward struct {
	Option Option
	// Addr is the address to listen on; the zero value means every address of both
	// families. 0.0.0.0 is IPv4 only, :: is IPv6 only.
	Addr netip.Addr
	// Interface by which clients must come, empty for any.
	Interface string
	// First and Last are the ports to listen on, 1 to 65535, both inclusive.
	First, Last uint16
	// To is where the ports lead; the zero value means the other side itself.
	To netip.Addr
	// ToFirst is the port that First leads to; the ports after it count up.
	ToFirst uint16
	// BestEffort leaves out ports that cannot be bound, and the kernel's ephemeral ones. all
	// sets it, and exclusions alone.
	BestEffort bool
	// Auto forwards only those of the ports that a server of the other side listens on at
	// the moment.
	Auto bool
}

// ToLast is the port that Last leads to.
func (f Forward) ToLast() uint16 { return f.ToFirst + (f.Last - f.First) }

// String returns an option and an argument that Option.Parse reads as this Forward.
func (f Forward) String() string {
	return f.Option.String() + " " + f.Spec()
}

// Spec is String without the option.
func (f Forward) Spec() string {
	var b strings.Builder
	if f.Addr.IsValid() {
		b.WriteString(bracketed(f.Addr))
	}
	if f.Interface != "" {
		b.WriteString("%" + f.Interface)
	}
	if b.Len() > 0 {
		b.WriteByte('/')
	}
	switch {
	case f.Auto:
		b.WriteString("auto")
		f.writeExcluded(&b)
	case f.BestEffort:
		b.WriteString("all")
		if f.To.IsValid() {
			b.WriteString(":" + bracketed(f.To))
		}
		f.writeExcluded(&b)
	default:
		writeRange(&b, f.First, f.Last)
		if f.To.IsValid() || f.ToFirst != f.First {
			b.WriteByte(':')
			if f.To.IsValid() {
				b.WriteString(bracketed(f.To) + "/")
			}
			writeRange(&b, f.ToFirst, f.ToLast())
		}
	}
	return b.String()
}

// writeExcluded writes a range as all ports but those before and after it.
func (f Forward) writeExcluded(b *strings.Builder) {
	if f.First > 1 {
		b.WriteString(",~")
		writeRange(b, 1, f.First-1)
	}
	if f.Last < maxPort {
		b.WriteString(",~")
		writeRange(b, f.Last+1, maxPort)
	}
}

func writeRange(b *strings.Builder, first, last uint16) {
	b.WriteString(strconv.Itoa(int(first)))
	if last != first {
		b.WriteString("-" + strconv.Itoa(int(last)))
	}
}

func bracketed(a netip.Addr) string {
	if a.Is6() {
		return "[" + a.String() + "]"
	}
	return a.String()
}
