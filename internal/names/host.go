package names

import "net/netip"

// The names by which guests reach the host: ours, podman's and Docker's. All are below
// domains that ICANN has reserved for private use.
const (
	HostName       = "host.epiphyte.internal"
	podmanHostName = "host.containers.internal"
	dockerHostName = "host.docker.internal"
)

// IsHost reports whether a name, in lower case and without the last dot, is one of the
// host's.
func IsHost(name string) bool {
	return name == HostName || name == podmanHostName || name == dockerHostName
}

// NewHost makes a table of the host's names alone, which lead to addrs; without addresses the
// names do not exist. Names below them never do. With reverse the addresses have a name, too.
func NewHost(addrs []netip.Addr, reverse bool) *Table {
	t := newTable(map[string]bool{"": false})
	host := []string{HostName, podmanHostName, dockerHostName}
	for _, name := range host {
		t.zones[name] = true
	}
	if len(addrs) > 0 {
		m := t.named(host, addrs)
		if m.names = host; !reverse {
			m.reverse = nil
		}
		t.link(m)
	}
	return t
}
