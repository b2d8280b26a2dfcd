package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"epiphyte/internal/api"
)

// top shows what the guest does: on a terminal repeatedly, else once unless --watch is given.
func (c *Client) top(ctx context.Context, stdout io.Writer) error {
	screen := newScreen(stdout)
	if screen.size == nil && c.interval == 0 {
		return c.watchTop(ctx, screen, nil)
	}
	ctx, stop := untilQuit(ctx)
	defer stop()
	tick := time.NewTicker(cmp.Or(c.interval, time.Second))
	defer tick.Stop()
	return c.watchTop(ctx, screen, tick.C)
}

// watchTop shows the current moment and, unless tick is nil, another at every tick until ctx
// ends.
func (c *Client) watchTop(ctx context.Context, screen *screen, tick <-chan time.Time) error {
	var before map[flowKey]api.Flow
	var at time.Time
	for shown := false; ; shown = true {
		m, err := c.moment(ctx)
		if err != nil {
			return whyEnded(ctx, err, shown)
		}
		now := time.Now()
		text := m.text(withRates(m.flows, before, now.Sub(at)), tick != nil)
		if err := screen.show(text); err != nil || tick == nil {
			return err
		}
		before, at = make(map[flowKey]api.Flow, len(m.flows)), now
		for _, f := range m.flows {
			before[keyOf(f)] = f
		}
		select {
		case <-tick:
		case <-ctx.Done():
			return nil
		}
	}
}

// moment is what a program reports at one time.
type moment struct {
	flows []api.Flow
	ports []api.Port
	stats map[string]json.RawMessage
}

func (c *Client) moment(ctx context.Context) (m moment, err error) {
	if m.flows, err = c.listFlows(ctx); err != nil {
		return m, err
	}
	if m.ports, err = c.api.Ports(ctx); err != nil {
		return m, err
	}
	doc, err := c.api.Document(ctx, api.StatsDocument)
	if err != nil {
		return m, err
	}
	return m, json.Unmarshal(doc, &m.stats)
}

// text is the head with the flows below it.
func (m *moment) text(rows []flowRow, rates bool) []byte {
	var b bytes.Buffer
	line := func(name string, counters ...string) {
		var values []string
		for _, c := range counters {
			values = append(values, m.counted(c)...)
		}
		if len(values) == 0 {
			values = []string{"none"}
		}
		fmt.Fprintf(&b, "%-9s%s\n", name, strings.Join(values, "  "))
	}
	line("flows", "flows")
	line("dns", "dns_queries")
	line("refused", "forbidden_flows", "policy_denied", "flows_refused", "flows_evicted")
	line("failed", "connect_failures", "client_failures")
	line("dropped", "dropped_frames")
	fmt.Fprintf(&b, "%-9s%d\n", "ports", len(m.ports))
	members := map[string]int{}
	for _, f := range m.flows {
		if f.Member != "" {
			members[f.Member]++
		}
	}
	if len(members) > 0 {
		b.WriteString("members ")
		for _, name := range slices.Sorted(maps.Keys(members)) {
			fmt.Fprintf(&b, " %s %d", name, members[name])
		}
		b.WriteByte('\n')
	}
	b.WriteByte('\n')
	b.Write(flowTable(rows, rates))
	return b.Bytes()
}

// counted returns the nonzero values of a counter, with their labels or its name.
func (m *moment) counted(name string) (list []string) {
	var n uint64
	if json.Unmarshal(m.stats[name], &n) == nil {
		if n > 0 {
			list = append(list, fmt.Sprintf("%s %d", name, n))
		}
		return list
	}
	var values map[string]uint64
	if json.Unmarshal(m.stats[name], &values) != nil {
		return nil
	}
	for _, label := range slices.Sorted(maps.Keys(values)) {
		if values[label] > 0 {
			list = append(list, fmt.Sprintf("%s %d", label, values[label]))
		}
	}
	return list
}
