package pcap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"
)

// Config of a capture. The zero value captures everything.
type Config struct {
	// Snaplen is how many bytes of each frame are kept, from the Ethernet header on;
	// 0: all. What is shortened keeps a checksum that the kernel was left to fill in.
	Snaplen int
	// Limit is the size in bytes that the capture does not exceed; 0: none.
	Limit int64
	// Interface and Program are named in the capture; either may be empty.
	Interface, Program string
}

// ErrLimit ends a capture that has reached its Limit.
var ErrLimit = errors.New("the capture has the size that it may have")

// writeBytes is how many bytes of blocks are written at once.
const writeBytes = 256 << 10

// Capture is a running capture.
type Capture struct {
	tee     *Tee
	cfg     Config
	wake    chan struct{} // holds an element while frames wait
	filling buffer        // guarded by Tee.mu
	lost    uint64        // guarded by Tee.mu

	w       io.Writer
	out     []byte // whole blocks, not yet written
	written int64
	told    uint64 // of lost
}

// Open makes the file of a capture, for its owner alone. One that exists is replaced in
// place.
func Open(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open capture: %w", err)
	}
	return f, nil
}

// Begin begins a capture of what crosses the devices from now on. Its Run must be called. The
// error is ErrTooMany.
func (t *Tee) Begin(cfg Config) (*Capture, error) {
	c := &Capture{tee: t, cfg: cfg, wake: make(chan struct{}, 1)}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.captures) == MaxCaptures {
		return nil, ErrTooMany
	}
	t.captures = append(t.captures, c)
	t.running.Store(int32(len(t.captures)))
	return c, nil
}

// Run writes the capture to w until ctx ends (nil), w fails or the limit is reached
// (ErrLimit). What has crossed when ctx ends is in the capture. It is called once.
func (c *Capture) Run(ctx context.Context, w io.Writer) error {
	defer c.end()
	c.w, c.out = w, c.cfg.header(nil)
	if err := c.write(); err != nil {
		return err
	}
	var waiting buffer
	for ended := false; !ended; {
		select {
		case <-c.wake:
		case <-ctx.Done():
			ended = true
			c.end()
		}
		c.tee.mu.Lock()
		waiting, c.filling = c.filling, waiting
		lost := c.lost
		c.tee.mu.Unlock()
		if err := c.drain(&waiting, lost); err != nil {
			return err
		}
		waiting.reset()
	}
	c.out = statistics(c.out, time.Now().UnixNano(), c.told)
	return c.write()
}

// end removes the capture from its Tee, if it is still there.
func (c *Capture) end() {
	t := c.tee
	t.mu.Lock()
	defer t.mu.Unlock()
	t.captures = slices.DeleteFunc(t.captures, func(other *Capture) bool { return other == c })
	t.running.Store(int32(len(t.captures)))
}

// drain writes what waits, and then how many frames were lost, if that has grown.
func (c *Capture) drain(b *buffer, lost uint64) error {
	var err error
	bytes := b.bytes
	for i := range b.frames {
		f := &b.frames[i]
		f.onWire(bytes[:f.kept], func(b []byte, size int) {
			if c.cfg.Snaplen > 0 {
				b = b[:min(len(b), c.cfg.Snaplen)]
			}
			c.out = packet(c.out, f.at, f.dir, b, size)
			if len(c.out) >= writeBytes && err == nil {
				err = c.write()
			}
		})
		if err != nil {
			return err
		}
		bytes = bytes[f.kept:]
	}
	if lost > c.told {
		c.told = lost
		c.out = statistics(c.out, time.Now().UnixNano(), lost)
	}
	return c.write()
}

// write writes the blocks in out, as far as the limit allows.
func (c *Capture) write() error {
	out, err := c.out, error(nil)
	if left := c.cfg.Limit - c.written; c.cfg.Limit > 0 && int64(len(out)) > left {
		out, err = wholeBlocks(out, left), ErrLimit
	}
	c.out = c.out[:0]
	if len(out) == 0 {
		return err
	}
	n, writeErr := c.w.Write(out)
	c.written += int64(n)
	if writeErr != nil {
		return fmt.Errorf("write capture: %w", writeErr)
	}
	return err
}

// wholeBlocks returns as many of the blocks as fit.
func wholeBlocks(b []byte, room int64) []byte {
	var n int64
	for n < int64(len(b)) {
		size := int64(le.Uint32(b[n+4:]))
		if n+size > room {
			break
		}
		n += size
	}
	return b[:n]
}
