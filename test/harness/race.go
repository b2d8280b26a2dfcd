package harness

import (
	"errors"
	"fmt"
	"strings"
)

// The race detector's report begins like this, and a program that has made one ends
// with this status (the defaults of GORACE's exitcode).
const (
	raceReport = "WARNING: DATA RACE"
	raceStatus = 66
)

// lookForRace notes what the race detector has found in a helper that has ended and was
// built with it. The status tells where the log is not ours to read; the log, where
// the helper was killed.
func (e *Env) lookForRace(h *Helper) {
	said := h.Stderr.String()
	if !strings.Contains(said, raceReport) && h.cmd.ProcessState.ExitCode() != raceStatus {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.races = append(e.races, fmt.Errorf("data race in helper %q: %s", h.cmd.Args, said))
}

// Races gives what the race detector has found in the helpers that have ended so far;
// nothing in one that is built without.
func (e *Env) Races() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return errors.Join(e.races...)
}
