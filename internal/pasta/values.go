package pasta

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"epiphyte/internal/names"
)

// flags declares options of several kinds.
type flags struct{ fs *pflag.FlagSet }

// on declares an option without a value.
func (f flags) on(dst *bool, name, letter, usage string) {
	f.fs.BoolFuncP(name, letter, usage, func(string) error { *dst = true; return nil })
}

// off declares an option that undoes another one.
func (f flags) off(dst *bool, name, usage string) {
	f.fs.BoolFunc(name, usage, func(string) error { *dst = false; return nil })
}

// only declares an option that turns one family on and the other off, whatever came before:
// callers put the options of a user's configuration before those of one call.
func (f flags) only(on, off *Family, name, letter, usage string) {
	f.fs.BoolFuncP(name, letter, usage, func(string) error { on.Off, off.Off = false, true; return nil })
}

func (f flags) ignored(name, letter, usage string) {
	f.fs.BoolFuncP(name, letter, usage, func(string) error { return nil })
}

// text declares an option whose value may be anything but empty.
func (f flags) text(dst *string, name, letter, usage string) {
	f.fs.FuncP(name, letter, usage, func(s string) error {
		if s == "" {
			return fmt.Errorf("--%s is empty: give it a value", name)
		}
		*dst = s
		return nil
	})
}

// ports declares an option that forwards ports.
func (f flags) ports(p *Ports, option Option, usage string) {
	f.fs.FuncP(option.Name(), option.Letter(), usage, func(s string) error {
		list, err := option.Parse(s)
		if err != nil {
			return err
		}
		if p.given == nil {
			p.given = map[Option]bool{}
		}
		p.given[option] = true
		p.Forwards, err = p.Forwards.Add(list...)
		return err
	})
}

// auto makes the options that were not given auto, except those of a protocol that is off.
func (p *Ports) auto(off func(Option) bool) (err error) {
	for _, option := range Options() {
		if p.given[option] || off(option) || err != nil {
			continue
		}
		var list []Forward
		if list, err = option.Parse("auto"); err == nil {
			p.Forwards, err = p.Forwards.Add(list...)
		}
	}
	return err
}

// number declares an option with a decimal value of least to most.
func (f flags) number(dst *int, name, letter string, least, most int, usage string) {
	f.fs.FuncP(name, letter, usage, func(s string) error {
		n, err := strconv.Atoi(s)
		if err != nil || n < least || n > most {
			return fmt.Errorf("--%s %s: must be a number, %d to %d", name, s, least, most)
		}
		*dst = n
		return nil
	})
}

func (f flags) seconds(dst *time.Duration, name, usage string) {
	const day = 86400
	f.fs.Func(name, usage, func(s string) error {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > day {
			return fmt.Errorf("--%s %s: must be seconds, 1 to %d", name, s, day)
		}
		*dst = time.Duration(n) * time.Second
		return nil
	})
}

// Bounds of a TAP's MTU in bytes: what RFC 791 requires of every link, and what a frame of
// 65535 bytes carries with its header.
const (
	minMTU = 68
	maxMTU = 65521
)

func (f flags) mtu(dst *int, name, letter, usage string) {
	f.fs.FuncP(name, letter, usage, func(s string) error {
		n, err := strconv.Atoi(s)
		if err != nil || n != 0 && (n < minMTU || n > maxMTU) {
			return fmt.Errorf("--%s %s: must be bytes, %d to %d, or 0", name, s, minMTU, maxMTU)
		}
		*dst = n
		return nil
	})
}

func (f flags) interfaceName(dst *string, name, letter, usage string) {
	f.fs.FuncP(name, letter, usage, func(s string) error {
		if !isInterface(s) {
			return fmt.Errorf("--%s %q: must be the name of an interface, 1 to %d bytes without space, slash or colon", name, s, maxInterface)
		}
		*dst = s
		return nil
	})
}

func (f flags) mac(dst *net.HardwareAddr, name, letter, usage string) {
	f.fs.FuncP(name, letter, usage, func(s string) error {
		mac, err := net.ParseMAC(s)
		if err != nil || len(mac) != 6 || mac[0]&1 != 0 || [6]byte(mac) == [6]byte{} {
			return fmt.Errorf("--%s %s: must be the Ethernet address of one interface, such as 02:00:00:00:00:01", name, s)
		}
		*dst = mac
		return nil
	})
}

func (f flags) hostname(dst *string, name, letter, usage string) {
	f.fs.FuncP(name, letter, usage, func(s string) error {
		host, ok := names.Domain(s)
		if !ok {
			return fmt.Errorf("--%s %q: must be a name of at most 253 bytes, and 63 between two dots", name, s)
		}
		*dst = host
		return nil
	})
}

// family declares an option that takes an address of either family.
func (f flags) family(a *Addresses, field func(*Family) *netip.Addr, name, letter, usage string) {
	f.fs.FuncP(name, letter, usage, func(s string) error {
		addr, err := hostAddr(s)
		if err != nil {
			return fmt.Errorf("--%s %s: %w", name, s, err)
		}
		*field(a.of(addr)) = addr
		return nil
	})
}

// familyOr declares an option that also takes none, which undoes the addresses of both
// families.
func (f flags) familyOr(a *Addresses, field func(*Family) *netip.Addr, isNone func(), name, usage string) {
	f.fs.Func(name, usage, func(s string) error {
		if s == none {
			*field(&a.V4), *field(&a.V6) = netip.Addr{}, netip.Addr{}
			isNone()
			return nil
		}
		addr, err := hostAddr(s)
		if err != nil {
			return fmt.Errorf("--%s %s: %w, or %s", name, s, err, none)
		}
		*field(a.of(addr)) = addr
		return nil
	})
}

// of returns the family of an address.
func (a *Addresses) of(addr netip.Addr) *Family { return a.Family(addr.Is6()) }

// Family returns the options for one IP version.
func (a *Addresses) Family(v6 bool) *Family {
	if v6 {
		return &a.V6
	}
	return &a.V4
}

// none stands in place of an address or a list.
const none = "none"

var errAddress = errors.New("must be an IPv4 or IPv6 address of one machine")

// hostAddr reads an address that a machine can have, without a zone.
func hostAddr(s string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(s)
	if err != nil || addr.Zone() != "" || addr.IsUnspecified() || addr.IsMulticast() || addr.Is4In6() ||
		addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return netip.Addr{}, errAddress
	}
	return addr, nil
}

func (a *Addresses) setAddress(s string) error {
	text, bits, prefixed := strings.Cut(s, "/")
	addr, err := hostAddr(text)
	if err == nil && addr.IsLoopback() {
		err = errAddress
	}
	if err != nil {
		return fmt.Errorf("--address %s: %w, with /BITS or without", s, err)
	}
	x := a.of(addr)
	x.Address = addr
	if !prefixed {
		return nil
	}
	n, err := strconv.Atoi(bits)
	if err != nil || n < 1 || n > addr.BitLen() {
		return fmt.Errorf("--address %s: the prefix must have 1 to %d bits", s, addr.BitLen())
	}
	if addr.Is4() && a.V4.Bits != 0 {
		return errMask
	}
	x.Bits = n
	return nil
}

// errMask refuses a prefix that is given twice, as the contract does.
var errMask = errors.New("the IPv4 prefix is said twice: give it by --address ADDR/BITS or by --netmask")

func (a *Addresses) setMask(s string) error {
	if a.V4.Bits != 0 {
		return errMask
	}
	bits, err := strconv.Atoi(s)
	if err != nil {
		bits = -1
		if addr, err := netip.ParseAddr(s); err == nil && addr.Is4() {
			mask := net.IPMask(addr.AsSlice())
			if n, of := mask.Size(); of == 32 {
				bits = n
			}
		}
	}
	if bits < 1 || bits > 32 {
		return fmt.Errorf("--netmask %s: must be a mask such as 255.255.255.0, or 1 to 32 bits", s)
	}
	a.V4.Bits = bits
	return nil
}

func (n *Names) setDNS(s string) error {
	if s == none || s == "" {
		n.NoDNS = true
		return nil
	}
	addr, err := hostAddr(s)
	if err != nil {
		return fmt.Errorf("--dns %s: %w, or %s", s, err, none)
	}
	n.DNS, n.DHCPDNS = append(n.DNS, addr), true
	return nil
}

func (n *Names) setSearch(s string) error {
	if s == none || s == "" {
		n.NoSearch = true
		return nil
	}
	for _, field := range strings.Fields(s) {
		name, ok := names.Domain(field)
		if !ok {
			return fmt.Errorf("--search %q: must be domains of at most 253 bytes, and 63 between two dots, or %s", s, none)
		}
		n.Search, n.DHCPSearch = append(n.Search, name), true
	}
	return nil
}
