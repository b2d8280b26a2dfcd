package nswatch

import (
	"context"
	"fmt"
	"os/exec"
	"testing"
	"time"
)

// A path through a process's directory of /proc ends with the process, wherever it leads.
func TestPathOfProcess(t *testing.T) {
	for _, path := range []string{"/proc/%d/ns/net", "/proc/%d/root/proc/version", "/proc/../proc/%d/task/../ns/net"} {
		child := exec.Command("sleep", "60")
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		w, err := Path(fmt.Sprintf(path, child.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		done := make(chan error, 1)
		go func() { done <- w.Wait(ctx) }()
		select {
		case err := <-done:
			t.Errorf("%s: ended before the process: %v", path, err)
			done <- nil
		default:
		}
		child.Process.Kill()
		child.Wait()
		if err := <-done; err != nil {
			t.Errorf("%s: %v", path, err)
		}
		cancel()
		w.Close()
	}
}
