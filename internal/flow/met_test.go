package flow

import "testing"

// TestMetNamesTheLimit: whether a flow is refused or another gives way, the limit that was
// met is counted, and no other.
func TestMetNamesTheLimit(t *testing.T) {
	for _, tt := range []struct {
		want   Limit
		kind   Kind
		limits Limits
	}{
		{LimitAttempts, Dial, Limits{Dials: 1, TCP: 9, Descriptors: 20}},
		{LimitConnections, Dial, Limits{Dials: 9, TCP: 1, Descriptors: 20}},
		{LimitMappings, Mapping, Limits{Mappings: 1, Descriptors: 20}},
		{LimitDescriptors, Mapping, Limits{Mappings: 9, Descriptors: 1}},
		{LimitClients, Client, Limits{Clients: 1}},
		{LimitSessions, Session, Limits{Sessions: 1}},
		{LimitExposed, Exposed, Limits{Exposed: 1}},
	} {
		r := newRig(t, tt.limits)
		for port := range uint16(2) {
			if r.table.Admit(tt.kind) {
				r.add(tt.kind, guest, port, 0)
			}
		}
		totals := r.table.Totals()
		totals.Met.Each(func(l Limit, n uint64) {
			if (l == tt.want) != (n > 0) {
				t.Errorf("%s: %s was met %d times", tt.want, l, n)
			}
		})
	}
}
