package forwarder

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// On a device that loses, doubles and swaps one frame in sixty each, streams
// stay whole and end in order, in both closing orders.
func TestB10_LossyGuest(t *testing.T) {
	for _, k := range lossyKinds() {
		t.Run(fmt.Sprintf("%s/%d", k.name, k.lossy), func(t *testing.T) {
			w := newWorld(t, k, setup{})
			l, _ := listenTCP(t, "127.0.0.1:0")
			var wg sync.WaitGroup
			for _, direction := range []string{"out", "in"} {
				for range 2 {
					guest, host := w.connect(l)
					deadline := time.Now().Add(w.patience)
					guest.SetDeadline(deadline)
					host.SetDeadline(deadline)
					var first, second net.Conn = guest, host
					if direction == "in" {
						first, second = host, guest
					}
					wg.Add(1)
					go func() {
						defer wg.Done()
						defer guest.Close()
						const size = 50 << 10
						sent := make(chan error, 2)
						for _, c := range []net.Conn{first, second} {
							go func() {
								_, err := io.CopyN(struct{ io.Writer }{c}, new(pattern), size)
								if c == first {
									closeWrite(c)
								}
								sent <- err
							}()
						}
						// The second ends when it has seen the first one's end.
						if n, err := io.Copy(new(pattern), struct{ io.Reader }{second}); err != nil || n != size {
							t.Errorf("%s: %d bytes arrived, %v", direction, n, err)
						}
						if err := errors.Join(<-sent, <-sent); err != nil {
							t.Errorf("%s: write: %v", direction, err)
						}
						closeWrite(second)
						if n, err := io.Copy(new(pattern), struct{ io.Reader }{first}); err != nil || n != size {
							t.Errorf("%s: %d bytes came back, %v", direction, n, err)
						}
					}()
				}
			}
			wg.Wait()
			w.wantIdle()
		})
	}
}

// Resets get through as well: by themselves, or by the next segment's answer.
func TestB12_LossyGuest(t *testing.T) {
	for _, k := range lossyKinds() {
		w := newWorld(t, k, setup{})
		l, _ := listenTCP(t, "127.0.0.1:0")
		for i := range 10 {
			guest, host := w.connect(l)
			if i%2 == 0 {
				host.SetLinger(0)
				host.Close()
				// A lost RST is made up for by the answer to whatever comes next.
				var err error
				for deadline := time.Now().Add(w.patience); err == nil && time.Now().Before(deadline); {
					if _, err = guest.Write([]byte("x")); err != nil {
						break // whichever call comes first is told of the reset, and no other
					}
					guest.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
					if _, err = guest.Read(make([]byte, 1)); err != nil && strings.Contains(err.Error(), "timeout") {
						err = nil
					}
				}
				if err == nil || !strings.Contains(err.Error(), "reset") {
					t.Errorf("%s: the guest read %v, want a reset", k.name, err)
				}
				guest.Close()
				continue
			}
			guest.Reset()
			var err error
			for deadline := time.Now().Add(w.patience); err == nil && time.Now().Before(deadline); {
				if _, err = host.Write([]byte("x")); err != nil {
					break // whichever call comes first is told of the reset, and no other
				}
				host.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
				if _, err = host.Read(make([]byte, 1)); errors.Is(err, syscall.ETIMEDOUT) || isTimeout(err) {
					err = nil
				}
			}
			if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
				t.Errorf("%s: the host read %v, want ECONNRESET", k.name, err)
			}
			host.Close()
		}
		w.wantIdle()
	}
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

func lossyKinds() []kind {
	ks := append([]kind(nil), kinds...)
	for i := range ks {
		ks[i].lossy = uint64(i + 1)
	}
	return ks
}
