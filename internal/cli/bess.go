package cli

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
)

// acceptBess waits for the one client of --target-type=bess, such as User Mode Linux or BESS,
// and returns its socket: each message is a frame. It replaces a predecessor's socket at the
// path, and removes its own once the client has connected.
func acceptBess(ctx context.Context, path string, stderr io.Writer) (*os.File, error) {
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() == os.ModeSocket {
		os.Remove(path)
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	defer l.Close()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	fmt.Fprintf(stderr, "Waiting for connection to %s\n", path)
	c, err := l.AcceptUnix()
	if err != nil {
		return nil, fmt.Errorf("wait for a client on %s: %w", path, err)
	}
	defer c.Close()
	return c.File()
}
