package flow

// Limit is a bound that flows can meet, by the name of its counter.
type Limit string

// The limits, in the order of the manual.
const (
	LimitAttempts    Limit = "attempts"    // Limits.Dials
	LimitConnections Limit = "connections" // Limits.TCP
	LimitMappings    Limit = "mappings"    // Limits.Mappings
	LimitDescriptors Limit = "descriptors" // Limits.Descriptors, or what the kernel allows
	LimitClients     Limit = "tcp_clients" // Limits.Clients
	LimitSessions    Limit = "udp_clients" // Limits.Sessions
	LimitExposed     Limit = "exposed"     // Limits.Exposed
	LimitStock       Limit = "stock"       // sockets for the direct path
	LimitFollowed    Limit = "followed"    // ports that follow servers
)

// limitNames lists them.
var limitNames = [...]Limit{
	LimitAttempts, LimitConnections, LimitMappings, LimitDescriptors, LimitClients, LimitSessions,
	LimitExposed, LimitStock, LimitFollowed,
}

// Met counts how often each limit was met.
type Met [len(limitNames)]uint64

func (m *Met) count(l Limit) {
	for i, name := range limitNames {
		if name == l {
			m[i]++
		}
	}
}

// Each calls do with each limit and how often it was met.
func (m *Met) Each(do func(l Limit, n uint64)) {
	for i, name := range limitNames {
		do(name, m[i])
	}
}

// Meet counts a limit that was met elsewhere than in the table.
func (t *Table) Meet(l Limit) { t.totals.Met.count(l) }
