package names

import (
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	// Gateway is the name of the gateway, the one that systemd gives to the
	// default router, nss-myhostname(8). No member may have it.
	Gateway = "_gateway"

	// podmanZone is the domain of containers' names on podman's own networks. Nobody else
	// has names in it.
	podmanZone = "dns.podman"
)

// Config says what network the names are of.
type Config struct {
	// Network is the network's name, under which its members' names exist too.
	// It satisfies Valid; with another one no name exists under it.
	Network string

	// Gateways are the addresses of the name Gateway, of either family.
	Gateways []netip.Addr

	// Subnets are the network's. No nameserver is asked for the name of an address in
	// them.
	Subnets []netip.Prefix

	// Internal says that no names exist but the network's.
	Internal bool
}

// Member is what the table knows of one member.
type Member struct {
	Name     string // the one given for the addresses (PTR)
	Aliases  []string
	Hostname string
	Addrs    []netip.Addr
}

// Table has the names of one network. It belongs to one goroutine. New makes one.
type Table struct {
	network string // lower-case
	members map[string]*member
	entries map[string]*entry // by full name, lower-case, without the last dot
	zones   map[string]bool   // likewise; true: what we do not have does not exist
	former  former
	soa     dnsmessage.SOAResource
	buf     []byte // of the last answer
}

// families index a member's addresses and an entry's turns.
const (
	ipv4 = iota
	ipv6
	families
)

// member is a Member as the answers need it.
type member struct {
	names   []string // full names
	reverse []string // names of its addresses in the reverse zones
	addrs   [families][]netip.Addr
	ptr     dnsmessage.Name
}

// entry is what exists at one full name. With neither holders nor owners it exists only
// because of names below it.
type entry struct {
	holders []*member      // members with this name, in the order in which they came
	owners  []*member      // in a reverse zone: members with this address
	below   int            // entries one label longer
	turn    [families]uint // the address that comes first in the next answer
}

// known reports whether there is more at the entry than names below.
func (e *entry) known() bool { return len(e.holders)+len(e.owners) > 0 }

// New makes a table in which only the gateway has a name.
func New(cfg Config) *Table {
	t := newTable(map[string]bool{"": cfg.Internal, podmanZone: true})
	if Valid(cfg.Network) == nil {
		t.network = strings.ToLower(cfg.Network)
		t.zones[t.network] = cfg.Internal || t.zones[t.network]
		t.soa.NS = t.qualified(Gateway)
	}
	for _, p := range cfg.Subnets {
		for _, zone := range reverseZones(p) {
			t.zones[zone] = true
		}
	}
	t.link(t.named([]string{Gateway}, cfg.Gateways))
	return t
}

// newTable makes a table without names.
func newTable(zones map[string]bool) *Table {
	t := &Table{members: make(map[string]*member), entries: make(map[string]*entry), zones: zones}
	t.soa = dnsmessage.SOAResource{
		NS: t.qualified(Gateway),
		// A mailbox that nobody has, and numbers for zones that nobody copies: RFC
		// 6303, section 3. MinTTL 0 keeps negative answers out of caches, RFC
		// 2308, section 5.
		MBox:    dnsmessage.MustNewName("nobody.invalid."),
		Serial:  1,
		Refresh: 3600,
		Retry:   1200,
		Expire:  604800,
	}
	return t
}

// Add gives the member id its names and addresses, in place of those it had. It leaves out
// names that do not satisfy Valid: nobody can ask us for them. Members may share names and
// addresses.
func (t *Table) Add(id string, m Member) {
	added := t.newMember(m)
	t.link(added)
	t.unlink(t.members[id])
	t.members[id] = added
}

// Remove takes the names and addresses of the member id out of the table, if it
// has any. Names that nobody has now are remembered as former ones.
func (t *Table) Remove(id string) {
	t.unlink(t.members[id])
	delete(t.members, id)
}

// newMember converts m into the form that the answers need.
func (t *Table) newMember(m Member) *member {
	var valid []string
	for _, name := range append([]string{m.Name, m.Hostname}, m.Aliases...) {
		if Valid(name) == nil {
			valid = append(valid, name)
		}
	}
	return t.named(valid, m.Addrs)
}

// named makes a member with valid names, the first of which is the answer for its addresses.
// Without any its addresses have no name.
func (t *Table) named(names []string, addrs []netip.Addr) *member {
	m := &member{}
	for _, name := range names {
		for _, full := range t.fullNames(strings.ToLower(name)) {
			if !slices.Contains(m.names, full) {
				m.names = append(m.names, full)
			}
		}
	}
	if len(names) > 0 {
		m.ptr = t.qualified(names[0])
	}
	for _, a := range addrs {
		if !a.IsValid() {
			continue
		}
		a = a.Unmap().WithZone("")
		if reverse := reverseName(a); len(names) > 0 && !slices.Contains(m.reverse, reverse) {
			m.reverse = append(m.reverse, reverse)
		}
		switch {
		case a.Is4():
			m.addrs[ipv4] = append(m.addrs[ipv4], a)
		case !a.IsLinkLocalUnicast(): // an AAAA record has no place for the scope
			m.addrs[ipv6] = append(m.addrs[ipv6], a)
		}
	}
	return m
}

// fullNames lists the names under which a lower-case name is known.
func (t *Table) fullNames(name string) []string {
	full := []string{name}
	for _, zone := range []string{t.network, podmanZone} {
		if under := name + "." + zone; zone != "" && len(under) <= maxName {
			full = append(full, under)
		}
	}
	return full
}

// qualified is the name with the network's behind it, as far as there is room.
func (t *Table) qualified(name string) dnsmessage.Name {
	if full := name + "." + t.network; t.network != "" && len(full) <= maxName {
		name = full
	}
	return dnsmessage.MustNewName(name + ".")
}

// link enters a member.
func (t *Table) link(m *member) {
	for _, name := range m.names {
		e := t.grow(name)
		e.holders = append(e.holders, m)
	}
	for _, name := range m.reverse {
		e := t.grow(name)
		e.owners = append(e.owners, m)
	}
}

// unlink undoes link. Names in a zone that is ours as a whole need no memory.
func (t *Table) unlink(m *member) {
	if m == nil {
		return
	}
	for _, name := range m.names {
		e := t.entries[name]
		e.holders = without(e.holders, m)
		if _, whole := t.zone([]byte(name)); len(e.holders) == 0 && !whole {
			t.former.add(name)
		}
		t.prune(name)
	}
	for _, name := range m.reverse {
		e := t.entries[name]
		e.owners = without(e.owners, m)
		t.prune(name)
	}
}

func without(list []*member, m *member) []*member {
	return slices.DeleteFunc(list, func(other *member) bool { return other == m })
}

// grow returns the entry at a name, and makes it with all those above it if need be.
func (t *Table) grow(name string) *entry {
	e := t.entries[name]
	if e == nil {
		e = &entry{}
		t.entries[name] = e
		if name != "" {
			t.grow(parent(name)).below++
		}
	}
	return e
}

// prune deletes the entry at a name if nothing is there or below, and those above it that
// existed only because of it.
func (t *Table) prune(name string) {
	if e := t.entries[name]; e.known() || e.below > 0 {
		return
	}
	delete(t.entries, name)
	if name != "" {
		above := parent(name)
		t.entries[above].below--
		t.prune(above)
	}
}

// parent takes the first label off a name.
func parent(name string) string {
	_, rest, _ := strings.Cut(name, ".")
	return rest
}

// zone finds the innermost zone that a lower-case name is in: the offset of the
// zone's name, and whether the zone is ours as a whole.
func (t *Table) zone(name []byte) (offset int, whole bool) {
	for offset < len(name) {
		if whole, ok := t.zones[string(name[offset:])]; ok {
			return offset, whole
		}
		label := slices.Index(name[offset:], '.')
		if label < 0 {
			break
		}
		offset += label + 1
	}
	return len(name), t.zones[""]
}

// find looks for a name that was asked. If we answer for it, e is what we have there, or nil
// if the name does not exist. zone is the offset in name of the zone that it is in.
func (t *Table) find(name *dnsmessage.Name) (e *entry, zone int, ours bool) {
	var folded [len(name.Data)]byte
	n := int(name.Length) - 1 // without the last dot
	for i, c := range name.Data[:n] {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		folded[i] = c
	}
	zone, whole := t.zone(folded[:n])
	e = t.entries[string(folded[:n])]
	return e, zone, whole || e != nil && e.known() || t.former.has(folded[:n])
}

// Lookup returns the addresses of a name, those of IPv4 first. ours says that the network
// answers for the name, whether anybody has it or not.
func (t *Table) Lookup(name string) (addrs []netip.Addr, ours bool) {
	n, err := dnsmessage.NewName(strings.TrimSuffix(name, ".") + ".")
	if err != nil {
		return nil, false
	}
	e, _, ours := t.find(&n)
	if e == nil {
		return nil, ours
	}
	for family := range families {
		for _, m := range e.holders {
			addrs = append(addrs, m.addrs[family]...)
		}
	}
	return addrs, ours
}
