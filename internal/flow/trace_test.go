package flow

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

// TestTraceIsBounded: of many flows within a second so many lines are written and no more;
// and without debug, none.
func TestTraceIsBounded(t *testing.T) {
	for level, want := range map[slog.Level]int{slog.LevelDebug: tracedPerSecond, slog.LevelInfo: 0} {
		var text bytes.Buffer
		r := newRig(t, Limits{Mappings: 1000, Descriptors: 2000})
		r.table.Trace(slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: level})))
		for port := range uint16(500) {
			r.table.Remove(r.add(Mapping, guest, port, 0))
		}
		if lines := strings.Count(text.String(), "\n"); lines != want {
			t.Errorf("%v: %d lines, want %d", level, lines, want)
		}
	}
}
