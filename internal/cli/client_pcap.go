package cli

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// pcap captures frames until the user interrupts it or stdout is closed.
func (c *Client) pcap(ctx context.Context, stdout io.Writer) error {
	if f, ok := stdout.(*os.File); ok && isTerminal(f) {
		return errors.New("a capture is not for a terminal: write it to a file (> FILE), or to a program (| tshark -i -)")
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	err := c.api.Capture(ctx, stdout, c.snaplen)
	switch {
	case errors.Is(err, syscall.EPIPE) || ctx.Err() != nil:
		return nil
	case err == nil:
		return errEnded
	}
	return err
}
