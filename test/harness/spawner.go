package harness

import (
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// spawner is the one thread of a namespace that forks. What it starts has no
// capabilities, since the ambient set is a thread's and this one has emptied
// its own; and it dies with us, since the parent-death signal is sent when the
// forking thread ends, and this one ends last.
type spawner struct {
	jobs chan func()
	done chan struct{}
}

// newSpawner starts the thread in ns, or where the caller is when ns is nil.
func newSpawner(ns *NetNS) *spawner {
	s := &spawner{jobs: make(chan func()), done: make(chan struct{})}
	ready := make(chan struct{})
	go s.loop(ns, ready)
	<-ready
	return s
}

func (s *spawner) loop(ns *NetNS, ready chan<- struct{}) {
	defer close(s.done)
	runtime.LockOSThread()
	var err error
	if ns != nil {
		err = ns.enter()
	}
	if err == nil {
		err = unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
	}
	close(ready)
	if err != nil {
		panic(err) // a helper would silently run with the wrong privileges or in the wrong place
	}
	for job := range s.jobs {
		job()
	}
}

func (s *spawner) start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = unix.SIGKILL
	err := make(chan error)
	s.jobs <- func() { err <- cmd.Start() }
	return <-err
}

// close ends the thread, and with it every process it has started.
func (s *spawner) close() {
	close(s.jobs)
	<-s.done
}
