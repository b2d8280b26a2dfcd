package flow

import (
	"context"
	"log/slog"
	"time"
)

// tracedPerSecond bounds the lines about flows: a scan has thousands.
const tracedPerSecond = 100

// tracer logs the life of each flow: one line when it begins, one when a connection is
// established, one when it ends. A nil tracer logs nothing.
type tracer struct {
	log    *slog.Logger
	second time.Duration // when the current second began
	lines  int           // logged since then
	untold int           // left out since then
}

// Trace has the table log its flows at debug level, if log has that enabled. It must be
// called before the first flow.
func (t *Table) Trace(log *slog.Logger) {
	if log.Enabled(context.Background(), slog.LevelDebug) {
		t.tracer = &tracer{log: log}
	}
}

// traceBegun logs a flow that has been entered.
func (t *Table) traceBegun(f *Flow) {
	if x := t.tracer; x != nil && x.mayTell(t.shard.Now()) {
		x.tell("flow begins", f.info(t.shard.Now()), f)
	}
}

// traceEstablished logs a connection that has both ends, with its host socket's address.
func (t *Table) traceEstablished(f *Flow) {
	if x := t.tracer; x != nil && x.mayTell(t.shard.Now()) {
		x.tell("flow is established", f.info(t.shard.Now()), f)
	}
}

// traceEnded logs a flow that has left, and why. Its socket may be closed already and the
// descriptor reused, so it is not looked at.
func (t *Table) traceEnded(f *Flow, why string) {
	x, now := t.tracer, t.shard.Now()
	if x == nil || !x.mayTell(now) {
		return
	}
	closed := *f
	closed.FD = -1
	i := closed.info(now)
	if f.Errno != 0 {
		why = f.Errno.Error()
	}
	x.tell("flow ends", i, f, slog.String("why", why), slog.Uint64("in", i.In), slog.Uint64("out", i.Out),
		slog.Duration("lasted", i.Age.Round(time.Millisecond)))
}

// mayTell reports whether there is room for a line, and logs how many were left out in the
// last second that had lines.
func (x *tracer) mayTell(now time.Duration) bool {
	if now-x.second >= time.Second {
		if x.untold > 0 {
			x.log.Debug("more flows began and ended than are told of", "lines", x.untold)
		}
		x.second, x.lines, x.untold = now, 0, 0
	}
	if x.lines == tracedPerSecond {
		x.untold++
		return false
	}
	x.lines++
	return true
}

func (x *tracer) tell(what string, i Info, f *Flow, more ...slog.Attr) {
	attrs := []slog.Attr{
		slog.String("proto", i.Proto), slog.String("origin", i.Origin.String()),
		slog.Any("guest", i.Src), slog.String("state", i.State.String()),
	}
	if i.Guest != "" {
		attrs = append(attrs, slog.String("member", i.Guest))
	}
	if i.Remote.IsValid() {
		attrs = append(attrs, slog.Any("remote", i.Remote))
	}
	if i.Host.IsValid() {
		attrs = append(attrs, slog.Any("host", i.Host))
	}
	if f.Rule != nil {
		attrs = append(attrs, slog.String("rule", f.Rule.Where()))
	}
	x.log.LogAttrs(context.Background(), slog.LevelDebug, what, append(attrs, more...)...)
}

// String is how a trace names it.
func (r Reason) String() string { return [...]string{"idle", "gave way", "the network closes"}[r] }
