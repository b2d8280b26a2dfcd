package cli

import (
	"context"
	"log/slog"
	"time"

	"github.com/spf13/pflag"

	"epiphyte/internal/api"
)

// addStats adds the flag of counters in the log.
func (o *Options) addStats(fs *pflag.FlagSet) {
	addMissing(fs, "stats", secondsValue("stats", &o.StatsEvery), "log the counters every `SECONDS`")
}

// stats are the counters of the guest.
func (n *guestNetwork) stats() []api.Metric {
	list := metrics(n.guest)
	if n.frames != nil {
		list = append(list, n.frames.metrics()...)
	}
	return list
}

// logStats logs counters at every tick, until ctx ends.
func logStats(ctx context.Context, log *slog.Logger, tick <-chan time.Time, stats func() []api.Metric) {
	for {
		select {
		case <-tick:
			log.LogAttrs(ctx, slog.LevelInfo, "counters", attributes(stats())...)
		case <-ctx.Done():
			return
		}
	}
}

// attributes turns metrics into log attributes, with the names that they have in JSON.
func attributes(metrics []api.Metric) []slog.Attr {
	list := make([]slog.Attr, 0, len(metrics))
	for _, m := range metrics {
		if m.Label == "" {
			list = append(list, slog.Uint64(m.Name, m.Values[0].N))
			continue
		}
		values := make([]slog.Attr, 0, len(m.Values))
		for _, v := range m.Values {
			values = append(values, slog.Uint64(v.Label, v.N))
		}
		list = append(list, slog.GroupAttrs(m.Name, values...))
	}
	return list
}
