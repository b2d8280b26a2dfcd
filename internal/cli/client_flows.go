package cli

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/api"
)

// flows lists the flows once, or repeatedly.
func (c *Client) flows(ctx context.Context, stdout io.Writer) error {
	if c.interval == 0 {
		return c.flowsOnce(ctx, stdout)
	}
	ctx, stop := untilQuit(ctx)
	defer stop()
	tick := time.NewTicker(c.interval)
	defer tick.Stop()
	return c.watchFlows(ctx, stdout, tick.C)
}

func (c *Client) flowsOnce(ctx context.Context, stdout io.Writer) error {
	if c.json {
		return c.printFlows(ctx, stdout)
	}
	flows, err := c.listFlows(ctx)
	if err != nil {
		return err
	}
	_, err = stdout.Write(flowTable(withRates(flows, nil, 0), false))
	return err
}

// listFlows asks for the flows, those of c.member if that is set.
func (c *Client) listFlows(ctx context.Context) ([]api.Flow, error) {
	flows, err := c.api.Flows(ctx)
	if c.member != nil {
		flows = slices.DeleteFunc(flows, func(f api.Flow) bool { return f.Member != c.member.Member })
	}
	return flows, err
}

// printFlows prints them as JSON.
func (c *Client) printFlows(ctx context.Context, stdout io.Writer) error {
	if c.member == nil {
		return c.document(ctx, stdout, api.FlowsDocument)
	}
	flows, err := c.listFlows(ctx)
	if err != nil {
		return err
	}
	return printJSON(stdout, struct {
		Flows []api.Flow `json:"flows"`
	}{append([]api.Flow{}, flows...)})
}

// watchFlows shows the flows now and at every tick, until ctx ends.
func (c *Client) watchFlows(ctx context.Context, stdout io.Writer, tick <-chan time.Time) error {
	screen := newScreen(stdout)
	var before map[flowKey]api.Flow
	var at time.Time
	for shown := false; ; shown = true {
		if c.json {
			if err := c.printFlows(ctx, stdout); err != nil {
				return whyEnded(ctx, err, shown)
			}
		} else {
			flows, err := c.listFlows(ctx)
			if err != nil {
				return whyEnded(ctx, err, shown)
			}
			now := time.Now()
			rows := withRates(flows, before, now.Sub(at))
			if err := screen.show(flowTable(rows, true)); err != nil {
				return err
			}
			before, at = make(map[flowKey]api.Flow, len(flows)), now
			for _, f := range flows {
				before[keyOf(f)] = f
			}
		}
		select {
		case <-tick:
		case <-ctx.Done():
			return nil
		}
	}
}

// errEnded ends a command that runs until the program that it asks ends.
var errEnded = errors.New("the program that was asked has ended")

// whyEnded returns nil if the user has interrupted us, errEnded if the program answered
// before but no longer does, and err otherwise.
func whyEnded(ctx context.Context, err error, answered bool) error {
	switch {
	case ctx.Err() != nil:
		return nil
	case answered && isAbsent(err):
		return errEnded
	}
	return err
}

// isAbsent reports whether err says that no program answers on a socket.
func isAbsent(err error) bool {
	for _, e := range [...]error{unix.ECONNREFUSED, unix.ENOENT, unix.ECONNRESET, unix.EPIPE, io.EOF, io.ErrUnexpectedEOF} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// flowKey identifies a flow in two listings.
type flowKey struct {
	proto               string
	guest, remote, host netip.AddrPort
}

func keyOf(f api.Flow) flowKey { return flowKey{f.Proto, f.Guest, f.Remote, f.Host} }

// flowRow is a flow and its bytes per second each way.
type flowRow struct {
	api.Flow
	in, out float64
}

// withRates compares flows with an earlier listing and sorts them: the busiest first, among
// equals the oldest.
func withRates(flows []api.Flow, before map[flowKey]api.Flow, elapsed time.Duration) []flowRow {
	rate := func(now, then uint64) float64 {
		if elapsed <= 0 || now < then {
			return 0
		}
		return float64(now-then) / elapsed.Seconds()
	}
	rows := make([]flowRow, len(flows))
	for i, f := range flows {
		rows[i].Flow = f
		if b, ok := before[keyOf(f)]; ok {
			rows[i].in, rows[i].out = rate(f.In, b.In), rate(f.Out, b.Out)
		}
	}
	slices.SortStableFunc(rows, func(a, b flowRow) int {
		return cmp.Or(cmp.Compare(b.in+b.out, a.in+a.out), cmp.Compare(b.Age, a.Age))
	})
	return rows
}

func flowTable(rows []flowRow, rates bool) []byte {
	var b bytes.Buffer
	w := table(&b)
	members := slices.ContainsFunc(rows, func(r flowRow) bool { return r.Member != "" })
	if members {
		fmt.Fprint(w, "MEMBER\t")
	}
	fmt.Fprint(w, "PROTO\tGUEST\tREMOTE\tSTATE\tIN\tOUT\t")
	if rates {
		fmt.Fprint(w, "IN/S\tOUT/S\t")
	}
	fmt.Fprintln(w, "AGE\tIDLE")
	for _, r := range rows {
		if members {
			fmt.Fprintf(w, "%s\t", cmp.Or(r.Member, "-"))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t", r.Proto, r.Guest, addressOrDash(r.Remote), cmp.Or(r.State, "-"), byteCount(float64(r.In)), byteCount(float64(r.Out)))
		if rates {
			fmt.Fprintf(w, "%s\t%s\t", byteCount(r.in), byteCount(r.out))
		}
		fmt.Fprintf(w, "%v\t%v\n", wholeSeconds(r.Age), wholeSeconds(r.Idle))
	}
	w.Flush()
	return b.Bytes()
}

func addressOrDash(a netip.AddrPort) string {
	if !a.IsValid() {
		return "-"
	}
	return a.String()
}

func wholeSeconds(s float64) time.Duration { return time.Duration(s) * time.Second }

// byteCount shows n to three digits, in decimal units.
func byteCount(n float64) string {
	if n < 999.5 {
		return fmt.Sprintf("%.0f B", n)
	}
	for _, unit := range [...]string{"kB", "MB", "GB", "TB", "PB", "EB"} {
		if n /= 1000; n < 999.5 {
			return fmt.Sprintf("%.3g %s", n, unit)
		}
	}
	return fmt.Sprintf("%.3g ZB", n/1000)
}
