package namespace

import (
	"fmt"
	"os"
	"runtime"
	"syscall"

	"epiphyte/tap"
)

// enteredName is argv[0] of the role that becomes a command in existing namespaces.
const enteredName = "epiphyte-entered"

func isEntered() bool { return len(os.Args) > 1 && os.Args[0] == enteredName }

// Enter starts a command in the namespaces of a target, with a network or without one. The
// command has our environment, and our working directory if that exists there.
func Enter(target tap.Target, command []string) (*Process, error) {
	dir, err := os.Getwd()
	if err != nil {
		dir = "/"
	}
	p := &Process{done: make(chan struct{}), started: make(chan error, 1)}
	p.tty, _ = os.OpenFile("/dev/tty", os.O_RDWR|syscall.O_NOCTTY, 0)
	go func() {
		runtime.LockOSThread() // the thread's end would end the command
		defer runtime.UnlockOSThread()
		process, err := tap.Enter(target, tap.Program{Args: append([]string{enteredName}, command...), Env: os.Environ(), Dir: dir})
		p.process = process
		p.started <- err
		if err != nil {
			return
		}
		p.state, p.waitErr = process.Wait()
		close(p.done)
	}()
	if err := <-p.started; err != nil {
		p.tty.Close()
		return nil, fmt.Errorf("enter the guest: %w", err)
	}
	return p, nil
}
