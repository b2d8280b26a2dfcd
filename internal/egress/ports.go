package egress

import (
	"math"
	"slices"
	"sort"
)

// ruleList is the rules for one target that allow, or those that deny.
type ruleList struct {
	rules []*Rule // by precedence (goesBefore), once compiled
	all   *Rule   // the first that is for every protocol and port
	// spans are those of each protocol; nil: the rules are few, and tried in turn.
	spans *[3][]span
}

// span is a range of ports with the same rule. It ends where the next one begins; the first
// one begins at 0.
type span struct {
	first uint16
	rule  uint16 // index of the rule in its list, or noRule
}

const (
	noRule = math.MaxUint16 // more than MaxRules
	// fewRules can be tried in turn as fast as spans can be searched.
	fewRules = 8
)

func (l *ruleList) add(r *Rule) {
	l.rules = append(l.rules, r)
	if l.all == nil && r.coversAll() {
		l.all = r
	}
}

// find returns the rule for a flow to a port, nil if there is none.
func (l *ruleList) find(proto Proto, port uint16) *Rule {
	if l.spans == nil {
		for _, r := range l.rules {
			if r.covers(proto, port) {
				return r
			}
		}
		return nil
	}
	spans := l.spans[proto.index()]
	next := sort.Search(len(spans), func(i int) bool { return spans[i].first > port })
	if n := spans[next-1].rule; n != noRule {
		return l.rules[n]
	}
	return nil
}

func (l *ruleList) compile() {
	slices.SortFunc(l.rules, func(a, b *Rule) int {
		switch {
		case a == b:
			return 0
		case a.goesBefore(b):
			return -1
		}
		return 1
	})
	if len(l.rules) <= fewRules {
		return
	}
	l.spans = new([3][]span)
	for _, proto := range []Proto{TCP, UDP, ICMP} {
		l.spans[proto.index()] = spansOf(l.rules, proto)
	}
}

// spansOf divides all ports by the first rule that covers them.
func spansOf(rules []*Rule, proto Proto) []span {
	const end = 1 << 16
	cuts := []int{0, end} // where a span may begin, and the end
	eachRange := func(do func(n, first, beyond int)) {
		for n, r := range rules {
			if r.protos&proto == 0 {
				continue
			}
			if len(r.ports) == 0 {
				do(n, 0, end)
			}
			for _, p := range r.ports {
				do(n, int(p.first), int(p.last)+1)
			}
		}
	}
	eachRange(func(_, first, beyond int) { cuts = append(cuts, first, beyond) })
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)

	rule := make([]uint16, len(cuts)-1)
	// free[i] leads to the first part at or after i that has no rule yet, so that each part
	// is visited once, however many ranges overlap there.
	free := make([]int, len(cuts))
	for i := range free {
		free[i] = i
	}
	for i := range rule {
		rule[i] = noRule
	}
	firstFree := func(i int) int {
		for free[i] != i {
			free[i] = free[free[i]]
			i = free[i]
		}
		return i
	}
	eachRange(func(n, first, beyond int) {
		i, _ := slices.BinarySearch(cuts, first)
		for i = firstFree(i); cuts[i] < beyond; i = firstFree(i) {
			rule[i], free[i] = uint16(n), i+1
		}
	})
	var spans []span
	for i, n := range rule {
		if len(spans) == 0 || spans[len(spans)-1].rule != n {
			spans = append(spans, span{uint16(cuts[i]), n})
		}
	}
	return slices.Clip(spans)
}
