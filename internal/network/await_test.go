package network

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// A network that stays waits for a client, however long, and leaves it to the worker.
func TestAwaitClient(t *testing.T) {
	path := filepath.Join(t.TempDir(), "net.sock")
	l, err := listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	k := &keeper{cfg: KeeperConfig{Listener: l}}

	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- k.awaitClient(ctx) }()
	select {
	case err := <-ended:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("the end of its context is no client")
	}

	go func() { ended <- k.awaitClient(t.Context()) }()
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	accepted, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	accepted.Close()
}
