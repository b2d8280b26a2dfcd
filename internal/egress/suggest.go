package egress

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
)

// Suggest reads records and writes the shortest list of rules that allows the flows that
// passed, and no other name, address or port; with denied, also those that were denied. It
// names in comments what no rule can allow. It is an error if a line is no record.
func Suggest(w io.Writer, records io.Reader, denied bool) error {
	s := suggestion{flows: make(map[way]map[Proto][]uint16)}
	lines := bufio.NewScanner(records)
	lines.Buffer(nil, 1<<16)
	for n := 1; lines.Scan(); n++ {
		if len(strings.TrimSpace(lines.Text())) == 0 {
			continue
		}
		var r Record
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return fmt.Errorf("line %d is not a record: %w", n, err)
		}
		if r.Verdict != Denied || denied {
			s.take(r)
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	_, err := io.WriteString(w, s.text())
	return err
}

// way is a target or source of flows.
type way struct {
	inward bool
	name   string
	addr   netip.Prefix
}

// suggestion collects the flows that rules are to allow.
type suggestion struct {
	flows map[way]map[Proto][]uint16
	notes []string
}

func (s *suggestion) take(r Record) {
	var proto Proto
	for _, p := range []Proto{TCP, UDP, ICMP} {
		if r.Protocol == p.String() {
			proto = p
		}
	}
	addr, _ := addrOf(r.Destination)
	if r.Inward {
		addr, _ = addrOf(r.Source)
	}
	switch {
	case proto == 0: // a DNS query
	case r.Reason == OtherDNS:
		s.note("port %d of %+q: guests ask our resolver only", r.Port, r.to())
	case r.Reason == OtherName, r.Reason == NoName, r.Reason == Unreadable:
		s.note("%+q: %s", r.to(), r.Reason)
	case r.Inward && addr.IsValid():
		s.add(way{inward: true, addr: netip.PrefixFrom(addr, addr.BitLen())}, proto, r.Port)
	case r.Name != "" && !ruleName(r.Name):
		s.note("%+q, which no rule can name", r.Name)
	case r.Name != "":
		s.add(way{name: r.Name}, proto, r.Port)
		if r.Reason == NotPublic && addr.IsValid() {
			s.add(way{addr: netip.PrefixFrom(addr, addr.BitLen())}, proto, r.Port)
		}
	case addr.IsValid():
		s.add(way{addr: netip.PrefixFrom(addr, addr.BitLen())}, proto, r.Port)
	}
}

// ruleName reports whether a name means itself in a rule.
func ruleName(name string) bool {
	c, err := Canonical(name)
	return err == nil && c == name && groupNamed(name) == noGroup
}

func (r *Record) to() string {
	if r.Name != "" {
		return r.Name
	}
	return r.Destination
}

func addrOf(s string) (netip.Addr, error) {
	if p, err := netip.ParseAddrPort(s); err == nil {
		return p.Addr().Unmap(), nil
	}
	a, err := netip.ParseAddr(s)
	return a.Unmap(), err
}

// note adds a comment once, within a bound.
func (s *suggestion) note(format string, args ...any) {
	const most = 20
	if n := fmt.Sprintf(format, args...); len(s.notes) < most && !slices.Contains(s.notes, n) {
		s.notes = append(s.notes, n)
	}
}

func (s *suggestion) add(w way, proto Proto, port uint16) {
	if s.flows[w] == nil {
		s.flows[w] = make(map[Proto][]uint16)
	}
	if ports := s.flows[w][proto]; !slices.Contains(ports, port) {
		s.flows[w][proto] = append(ports, port)
	}
}

// text is the rules, those for names first.
func (s *suggestion) text() string {
	byBody := make(map[string][]way) // ways of the same protocols and ports
	for w, protos := range s.flows {
		for _, body := range bodies(protos) {
			byBody[body] = append(byBody[body], w)
		}
	}
	var names, addrs, inward []string
	for body, ways := range byBody {
		proto, ports, _ := strings.Cut(body, " ")
		if proto != "" {
			proto += " "
		}
		var out, in []netip.Prefix
		for _, w := range ways {
			switch {
			case w.name != "":
				names = append(names, "allow "+proto+endpoint(w.name, ports))
			case w.inward:
				in = append(in, w.addr)
			default:
				out = append(out, w.addr)
			}
		}
		for _, p := range join(out) {
			addrs = append(addrs, "allow "+proto+prefixText(p, ports))
		}
		for _, p := range join(in) {
			inward = append(inward, "allow in "+proto+"from "+prefixText(p, "")+" to "+ports)
		}
	}
	slices.SortFunc(names, byDomain)
	slices.Sort(addrs)
	slices.Sort(inward)
	var b strings.Builder
	for _, l := range slices.Concat(names, addrs, inward) {
		b.WriteString(l + "\n")
	}
	for _, n := range s.notes {
		b.WriteString("# cannot be allowed: " + n + "\n")
	}
	return b.String()
}

// bodies returns the protocols and ports of rules for one target: "proto ports". Ports of
// both TCP and UDP need no protocol.
func bodies(protos map[Proto][]uint16) (list []string) {
	if _, ok := protos[ICMP]; ok {
		list = append(list, "icmp ")
	}
	var both, tcp, udp []uint16
	for _, p := range protos[TCP] {
		if slices.Contains(protos[UDP], p) {
			both = append(both, p)
		} else {
			tcp = append(tcp, p)
		}
	}
	for _, p := range protos[UDP] {
		if !slices.Contains(both, p) {
			udp = append(udp, p)
		}
	}
	for _, x := range []struct {
		word  string
		ports []uint16
	}{{"", both}, {"tcp", tcp}, {"udp", udp}} {
		if len(x.ports) > 0 {
			slices.Sort(x.ports)
			list = append(list, x.word+" "+portText(x.ports))
		}
	}
	return list
}

// join makes the fewest prefixes that together cover exactly the given ones.
func join(list []netip.Prefix) []netip.Prefix {
	slices.SortFunc(list, netip.Prefix.Compare)
	for i := 0; i+1 < len(list); {
		a, b := list[i], list[i+1]
		wider, err := a.Addr().Prefix(a.Bits() - 1)
		if err == nil && a.Bits() > 1 && a.Bits() == b.Bits() && a != b && wider.Addr() == a.Addr() && wider.Contains(b.Addr()) {
			list[i] = wider
			list = slices.Delete(list, i+1, i+2)
			i = max(0, i-1)
			continue
		}
		i++
	}
	return list
}

func prefixText(p netip.Prefix, ports string) string {
	host := p.String()
	if p.IsSingleIP() {
		host = p.Addr().String()
	}
	if ports != "" && p.Addr().Is6() {
		return "[" + host + "]:" + ports
	}
	return endpoint(host, ports)
}

// byDomain puts names below one domain together.
func byDomain(a, b string) int {
	key := func(s string) string {
		s, _, _ = strings.Cut(s[strings.LastIndexByte(s, ' ')+1:], ":")
		labels := strings.Split(s, ".")
		slices.Reverse(labels)
		return strings.Join(labels, ".")
	}
	return strings.Compare(key(a)+"\x00"+a, key(b)+"\x00"+b)
}
