package apitest

import (
	"context"
	"fmt"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"

	"epiphyte/internal/pasta"
	"epiphyte/portfwd"
)

// Forwards implements api.Forwards. A change that adds port InUse or Denied fails. The zero
// value is ready for use.
type Forwards struct {
	mu    sync.Mutex
	table pasta.Table
}

// List returns the table.
func (f *Forwards) List() pasta.Table {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.table
}

// Change changes the table, all or nothing.
func (f *Forwards) Change(_ context.Context, c pasta.Change) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	table, err := f.table.Apply(c)
	if err != nil {
		return err
	}
	for _, add := range c.Add {
		errno, fails := map[uint16]unix.Errno{InUse: unix.EADDRINUSE, Denied: unix.EACCES}[add.First]
		if fails {
			at := netip.AddrPortFrom(netip.IPv6Unspecified(), add.First)
			return fmt.Errorf("forward %v: %w", add, &portfwd.BindError{Proto: add.Option.Proto(), Addr: at, Errno: errno})
		}
	}
	f.table = table
	return nil
}
