package forwarder

import (
	"strings"
	"testing"

	"epiphyte/internal/testnet"
)

// Where a guest leaves, both ends of its connections are reset, and nothing of them stays.
func TestFlowsOfAGuestThatLeaves(t *testing.T) {
	eachKind(t, func(t *testing.T, w *world) {
		l, _ := testnet.ListenTCP(t, "127.0.0.1:0")
		guest, host := w.connect(l)
		w.Do(func() { w.Table.EndOf(nil) })
		for name, c := range map[string]interface{ Read([]byte) (int, error) }{"guest": guest, "host": host} {
			if n, err := c.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "reset") {
				t.Errorf("the %s read %d bytes, %v, want a reset", name, n, err)
			}
		}
		guest.Close()
		w.wantIdle()
	})
}
