package relay

import (
	"io"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCarriedSlowReader: a guest that takes what is left for it, however slowly, gets all of
// it; one that takes nothing is not waited for without end.
func TestCarriedSlowReader(t *testing.T) {
	w := newWorld(t)
	fd, other := loopbackPair(t)
	written := 0 // which differs: the kernel sizes the buffers by what it has seen
	for {
		n, err := unix.Write(fd, make([]byte, 64<<10))
		if err == unix.EAGAIN {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		written += n
	}
	w.do(func() {
		c := &carried{r: w.Relay}
		c.end(fd, true)
		defer func() {
			w.shard.Disarm(&c.timer)
			delete(w.lingering, c)
			unix.Close(fd)
		}()
		looks := func(progress bool) {
			t.Helper()
			c.waited = lookFor / 2
			c.Run()
			if (c.waited == 0) != progress {
				t.Errorf("waited %v, progress %v", c.waited, progress)
			}
		}
		looks(true)
		looks(false)
		if _, err := io.CopyN(io.Discard, other, int64(written/2)); err != nil {
			t.Error(err)
		}
		looks(true)
	})
}
