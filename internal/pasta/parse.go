package pasta

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

const maxPort = 65535

// maxInterface is the longest name of an interface in bytes (IFNAMSIZ of linux/if.h, with
// its final zero).
const maxInterface = 15

// Parse reads the argument of the option: none, or [[ADDR][%INTERFACE]/]PORTS. PORTS is a
// list, separated by commas, of
//
//	FIRST[-LAST][:[TOADDR/]TOFIRST[-TOLAST]]
//	~FIRST[-LAST]   not these, whatever else the list has
//	all[:TOADDR]    every port that can be bound; exclusions alone mean the same
//	auto            every port that has a server on the other side
//
// Addresses may stand in brackets; IPv6 ones need not. What stands before the first slash is
// ADDR if it is an address.
func (o Option) Parse(spec string) ([]Forward, error) {
	list, err := o.parse(spec)
	if err != nil {
		return nil, fmt.Errorf("%v %q: %w", o, spec, err)
	}
	return list, nil
}

func (o Option) parse(spec string) ([]Forward, error) {
	if spec == "none" {
		return nil, nil
	}
	base := Forward{Option: o}
	ports, err := base.parseListen(spec)
	if err != nil {
		return nil, err
	}
	var items, list []Forward
	var excluded []portRange
	for item := range strings.SplitSeq(ports, ",") {
		if text, ok := strings.CutPrefix(item, "~"); ok {
			r, err := parseRange(text)
			if err != nil {
				return nil, err
			}
			excluded = append(excluded, r)
			continue
		}
		f := base
		if err := f.parseItem(item); err != nil {
			return nil, err
		}
		items = append(items, f)
	}
	if len(items) == 0 {
		all := base
		all.setAll()
		items = []Forward{all}
	}
	for _, f := range items {
		list = append(list, f.without(excluded)...)
	}
	if len(list) == 0 {
		return nil, errors.New("the exclusions leave no port; none is for that")
	}
	return list, nil
}

// parseListen takes the address and the interface off the front, if given.
func (f *Forward) parseListen(spec string) (ports string, err error) {
	head, ports, ok := strings.Cut(spec, "/")
	if !ok {
		return spec, nil
	}
	addr, name, hasName := strings.Cut(head, "%")
	if inside, ok := strings.CutSuffix(name, "]"); ok && strings.HasPrefix(addr, "[") {
		addr, name = addr+"]", inside
	}
	if addr != "" {
		if f.Addr, err = parseAddr(addr); err != nil {
			if !hasName && beginsWithPorts(head) {
				return spec, nil // the slash is behind TOADDR
			}
			return "", err
		}
		if f.Addr.IsMulticast() || f.Addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
			return "", fmt.Errorf("nobody can listen on %v; every IPv4 address is 0.0.0.0/", f.Addr)
		}
	} else if !hasName {
		return "", errors.New("an address is missing before the slash, as in 127.0.0.1/8080")
	}
	if hasName && (!isInterface(name) || strings.ContainsAny(name, "[]")) {
		return "", fmt.Errorf("%q is not a name of an interface, as in %%eth0/8080", name)
	}
	f.Interface = name
	return ports, nil
}

// isInterface reports whether a name is one that the kernel takes for an interface
// (dev_valid_name of net/core/dev.c), and not one of its patterns.
func isInterface(name string) bool {
	return name != "" && len(name) <= maxInterface && name != "." && name != ".." && !strings.ContainsAny(name, "/:% \t\n\v\f\r")
}

// beginsWithPorts reports whether the text before the first slash of an argument belongs to
// its ports.
func beginsWithPorts(head string) bool {
	item, _, _ := strings.Cut(head, ",")
	first, _, mapped := strings.Cut(item, ":")
	return (mapped || item != head) && first != "" && strings.Trim(first, "~0123456789-") == "" || item == "auto" || first == "all"
}

// parseItem reads one item of the list, other than an exclusion.
func (f *Forward) parseItem(item string) error {
	first, to, mapped := strings.Cut(item, ":")
	switch first {
	case "none":
		return errors.New("none stands alone")
	case "auto":
		if mapped {
			return errors.New("auto leads to the same port of the other side, and takes nothing behind a colon")
		}
		f.setAll()
		f.BestEffort, f.Auto = false, true
		return nil
	case "all":
		f.setAll()
		if !mapped {
			return nil
		}
		return f.parseTo(to)
	}
	if strings.Contains(first, "/") {
		return fmt.Errorf("%q: the address to listen on stands once, before the first port, as in 127.0.0.1/80,443", item)
	}
	r, err := parseRange(first)
	if err != nil {
		return err
	}
	f.First, f.Last, f.ToFirst = r.first, r.last, r.first
	if !mapped {
		return nil
	}
	if i := strings.LastIndexByte(to, '/'); i >= 0 {
		if err := f.parseTo(to[:i]); err != nil {
			return err
		}
		to = to[i+1:]
	} else if a, err := parseAddr(to); err == nil {
		return fmt.Errorf("%q: a port is missing behind the target, as in %v:%s/%v", item, r, bracketed(a), r)
	}
	t, err := parseRange(to)
	if err != nil {
		return err
	}
	if t.last-t.first != r.last-r.first {
		return fmt.Errorf("%v is %d ports and leads to %d: both sides have the same length, as in 8000-8009:80-89", r, r.len(), t.len())
	}
	f.ToFirst = t.first
	return nil
}

func (f *Forward) setAll() {
	f.First, f.Last, f.ToFirst, f.BestEffort = 1, maxPort, 1, true
}

// parseTo reads TOADDR.
func (f *Forward) parseTo(s string) (err error) {
	if f.To, err = parseAddr(s); err != nil {
		return err
	}
	if f.To.IsUnspecified() || f.To.IsMulticast() {
		return fmt.Errorf("ports cannot lead to %v; name one server's address, as in 8080:10.0.0.2/80", f.To)
	}
	return nil
}

// parseAddr reads an address without a zone; brackets are optional.
func parseAddr(s string) (netip.Addr, error) {
	text := s
	if inside, ok := strings.CutPrefix(s, "["); ok {
		if text, ok = strings.CutSuffix(inside, "]"); !ok {
			return netip.Addr{}, fmt.Errorf("%q: the bracket is not closed, as in [::1]/8080", s)
		}
	}
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%q is not an IP address, as in 127.0.0.1/8080:80 or [::1]/8080:80", s)
	}
	return a.Unmap(), nil
}

// portRange is a range of ports, both ends inclusive.
type portRange struct{ first, last uint16 }

func (r portRange) len() int { return int(r.last) - int(r.first) + 1 }

func (r portRange) String() string {
	var b strings.Builder
	writeRange(&b, r.first, r.last)
	return b.String()
}

func parseRange(s string) (r portRange, err error) {
	first, last, isRange := strings.Cut(s, "-")
	if r.first, err = parsePort(first); err != nil {
		return r, err
	}
	if r.last = r.first; !isRange {
		return r, nil
	}
	if r.last, err = parsePort(last); err != nil {
		return r, err
	}
	if r.last < r.first {
		return r, fmt.Errorf("the range %s ends before it begins; %d-%d is one", s, r.last, r.first)
	}
	return r, nil
}

func parsePort(s string) (uint16, error) {
	if s == "" {
		return 0, errors.New("a port is missing, as in 8080, 8080:80 or 127.0.0.1/8080:80")
	}
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is not a port, 1 to 65535, as in 8080, 8080:80 or 127.0.0.1/8080:80", s)
	}
	return uint16(n), nil
}
