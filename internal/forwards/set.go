package forwards

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"epiphyte/internal/pasta"
	"epiphyte/portfwd"
)

// How long to wait for busy ports when rules are read from the file: for all together, and if
// that fails, for those of each line.
const (
	restorePatience = 2 * time.Second
	linePatience    = 250 * time.Millisecond
)

// Ports serves ports; *portfwd.Manager does.
type Ports interface {
	Change(ctx context.Context, c portfwd.Change) error
}

// Config of a Set. Ports is required.
type Config struct {
	Ports Ports
	// Table is the command line's. It is served already.
	Table pasta.Table
	// Freebind lets ports of the host listen on addresses that no interface has.
	Freebind bool
	// Dir is the directory of the file; empty: nothing is remembered.
	Dir    string
	Logger *slog.Logger // nil: slog.Default()
}

// Set is the ports in force. Its methods may be called by any goroutine.
type Set struct {
	cfg Config

	mu    sync.Mutex
	file  file        // guarded by mu
	table pasta.Table // guarded by mu
	kept  string      // content of the file; guarded by mu
}

// New makes a Set that knows the command line only.
func New(cfg Config) *Set {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Set{cfg: cfg, table: slices.Clip(cfg.Table)}
}

// Restore makes the directory of the file, if there is to be one, and adds what is in the
// file. Failures are only warnings: ports that cannot be added are left out, and without the
// directory nothing is remembered.
func (s *Set) Restore(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cfg.Dir == "" {
		return
	}
	file, err := openFile(s.cfg.Dir)
	if err != nil {
		s.cfg.Logger.Warn("ports that pesto adds are forgotten at the end", "error", err)
		return
	}
	s.file = file
	content, err := s.file.read()
	if err != nil {
		s.cfg.Logger.Warn("cannot read the ports that pesto has added", "error", err)
		return
	}
	s.kept = content
	left := leftOut{path: s.file.path, log: s.cfg.Logger}
	defer left.report()
	var lines []line
	table := s.table
	for _, l := range parse(content) {
		next, err := table, l.err
		if err == nil {
			next, err = table.Add(l.forwards...)
		}
		if err != nil {
			left.add(l, err)
			continue
		}
		table = next
		lines = append(lines, l)
	}
	if s.serveWithin(ctx, restorePatience, table) == nil {
		return
	}
	for _, l := range lines {
		next, err := s.table.Add(l.forwards...)
		if err == nil {
			err = s.serveWithin(ctx, linePatience, next)
		}
		if err != nil {
			left.add(l, err)
		}
	}
}

// List returns the ports in force, in the order in which they were given.
func (s *Set) List() pasta.Table {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clip(s.table)
}

// Change changes and remembers the ports: all of it, or nothing and an error, which is a
// *pasta.ConflictError, one of portfwd.Manager.Change, or about the file.
func (s *Set) Change(ctx context.Context, c pasta.Change) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.table
	table, err := before.Apply(c)
	if err != nil {
		return err
	}
	if err := s.serve(ctx, table); err != nil {
		return err
	}
	// The command line's ports come back without the file.
	content := format(table.Delete(s.cfg.Table...))
	if content == s.kept {
		return nil
	}
	if err := s.file.write(content); err != nil {
		err = fmt.Errorf("remember ports: %w", err)
		if undone := s.serve(context.WithoutCancel(ctx), before); undone != nil {
			err = fmt.Errorf("%w, and they stay until the end: %w", err, undone)
		}
		return err
	}
	s.kept = content
	return nil
}

func (s *Set) serveWithin(ctx context.Context, patience time.Duration, table pasta.Table) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return s.serve(ctx, table)
}

// serve replaces the ports in force by those of another table. s.mu is held.
func (s *Set) serve(ctx context.Context, table pasta.Table) error {
	from, to := s.table.Effective(), table.Effective()
	gone, come := without(from, to), without(to, from)
	if gone.Blocks(come) {
		// Both cannot be bound at once, so remove the old ones first.
		if err := s.exchange(ctx, gone, nil); err != nil {
			return err
		}
		if err := s.exchange(ctx, nil, come); err != nil {
			return errors.Join(err, s.exchange(context.WithoutCancel(ctx), nil, gone))
		}
	} else if err := s.exchange(ctx, gone, come); err != nil {
		return err
	}
	s.table = table
	return nil
}

// exchange has the Manager replace some ports by others, if there are any.
func (s *Set) exchange(ctx context.Context, gone, come pasta.Table) error {
	if len(gone)+len(come) == 0 {
		return nil
	}
	c := portfwd.Change{Lenient: true} // a rule may have been removed by its number
	c.Remove, c.Hide = Rules(gone, s.cfg.Freebind)
	c.Add, c.Expose = Rules(come, s.cfg.Freebind)
	return s.cfg.Ports.Change(ctx, c)
}

// without returns the Forwards of a table that are not among others.
func without(t, others pasta.Table) pasta.Table {
	there := make(map[pasta.Forward]bool, len(others))
	for _, f := range others {
		there[f] = true
	}
	return slices.DeleteFunc(slices.Clone(t), func(f pasta.Forward) bool { return there[f] })
}

// Dir is the directory in which ports are remembered, empty if they are not.
func (s *Set) Dir() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file.path == "" {
		return ""
	}
	return filepath.Dir(s.file.path)
}

// Close removes the directory of the file, unless there are rules in it.
func (s *Set) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.file.close()
}
