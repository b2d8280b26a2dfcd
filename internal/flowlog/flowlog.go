// Package flowlog writes the record of flows that an egress policy has decided about.
//
// # Theory of operation
//
// A Log is a goroutine that writes lines of JSON, since a disk or a reader may be slow. Add
// hands it a record and never blocks: if too many are waiting, the record is lost. Their rate
// is bounded before (egress.Recorder).
//
// What it does not do: it opens no file, and rotates none.
package flowlog

import (
	"encoding/json"
	"io"
	"log/slog"
	"time"

	"epiphyte/internal/egress"
)

// waiting bounds the records that wait for the writer.
const waiting = 1024

// Log takes records. A nil *Log records nothing; Add must not be called on it.
type Log struct {
	records chan egress.Record
	done    chan struct{}
}

// New starts a Log that writes to w, and closes it in the end. It logs only the first error.
func New(w io.WriteCloser, log *slog.Logger) *Log {
	l := &Log{records: make(chan egress.Record, waiting), done: make(chan struct{})}
	go l.write(w, log)
	return l
}

func (l *Log) write(w io.WriteCloser, log *slog.Logger) {
	defer close(l.done)
	defer w.Close()
	said := false
	for r := range l.records {
		line, err := json.Marshal(r)
		if err == nil {
			_, err = w.Write(append(line, '\n'))
		}
		if err != nil && !said {
			said = true
			log.Warn("flows are not recorded", "error", err)
		}
	}
}

// Add takes a record. Any goroutine may call it, until Close.
func (l *Log) Add(r egress.Record) {
	select {
	case l.records <- r:
	default:
	}
}

// Func returns Add, or nil for a nil Log.
func (l *Log) Func() func(egress.Record) {
	if l == nil {
		return nil
	}
	return l.Add
}

// patience bounds how long Close waits for the writer.
const patience = time.Second

// Close waits until all is written, for at most patience. Add must not be called any more.
func (l *Log) Close() {
	if l == nil {
		return
	}
	close(l.records)
	select {
	case <-l.done:
	case <-time.After(patience):
	}
}
