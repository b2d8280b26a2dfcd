package stack

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/time/rate"
	"gvisor.dev/gvisor/pkg/log"
)

// redirectLog sends gVisor's own log, which otherwise goes to stderr, to ours.
// The target is process-wide in gVisor; several stacks of one process share
// the last logger.
func redirectLog(l *slog.Logger) {
	log.SetTarget(&emitter{log: l, limit: rate.NewLimiter(rate.Every(time.Second), 5)})
}

// emitter is bounded: some of gVisor's warnings are one per packet.
type emitter struct {
	log   *slog.Logger
	limit *rate.Limiter
}

func (e *emitter) Emit(_ int, level log.Level, _ time.Time, format string, v ...any) {
	to := slog.LevelDebug
	if level == log.Warning {
		to = slog.LevelWarn
	}
	if e.log.Enabled(context.Background(), to) && e.limit.Allow() {
		e.log.Log(context.Background(), to, fmt.Sprintf("netstack: "+format, v...))
	}
}
