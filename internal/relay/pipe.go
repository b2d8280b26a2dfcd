package relay

import (
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/shard"
)

const (
	// pipeSize is the capacity asked for, in bytes: what one splice moves at
	// most, and the most that a user may ask for (pipe(7), pipe-max-size). With half of it
	// a byte takes 5 % more of our time (make bench ROWS='pasta-published-tcp-*'). A user
	// has 16384 pages of pipe buffers (pipe-user-pages-soft); beyond, the kernel gives
	// less, which works too.
	pipeSize = 1 << 20
	// sparePipes are kept for the next bytes. A connection has a pipe only
	// while bytes are on the way, so that thousands at rest have none.
	sparePipes = 16
	// sparePipesLinger is how long they stay when no connection is left: long
	// enough that one after the other uses the same, which spares three calls
	// for each, and soon enough that a program at rest holds none.
	sparePipesLinger = 2 * time.Second
)

// pipe is the kernel's buffer between two sockets.
type pipe struct {
	r, w  int
	slots int // pieces that it holds, of a page at most each
	held  int // bytes in it
}

// takePipe returns an empty pipe, nil when there are no descriptors.
func (r *Relay) takePipe() *pipe {
	if n := len(r.pipes); n > 0 {
		p := r.pipes[n-1]
		r.pipes = r.pipes[:n-1]
		return p
	}
	return openPipe(pipeSize)
}

// openPipe makes a pipe of size bytes, or fewer if the kernel gives no more.
func openPipe(size int) *pipe {
	var fds [2]int
	if unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
		return nil
	}
	size, err := unix.FcntlInt(uintptr(fds[1]), unix.F_SETPIPE_SZ, size)
	if err != nil {
		size, _ = unix.FcntlInt(uintptr(fds[1]), unix.F_GETPIPE_SZ, 0)
	}
	return &pipe{r: fds[0], w: fds[1], slots: size / unix.Getpagesize()}
}

// givePipe takes a pipe back. One that holds bytes cannot serve another connection.
func (r *Relay) givePipe(p *pipe) {
	if p.held > 0 || len(r.pipes) >= sparePipes {
		p.close()
		return
	}
	r.pipes = append(r.pipes, p)
}

// closeSparesLater is called when a connection has ended.
func (r *Relay) closeSparesLater() {
	if r.spliced == 0 && len(r.pipes) > 0 && !r.shard.Armed(&r.sparesTimer) {
		r.shard.Arm(&r.sparesTimer, sparePipesLinger, shard.TaskFunc(func() {
			if r.spliced == 0 {
				r.closeSparePipes()
			}
		}))
	}
}

func (r *Relay) closeSparePipes() {
	for _, p := range r.pipes {
		p.close()
	}
	r.pipes = nil
}

func (p *pipe) close() {
	unix.Close(p.r)
	unix.Close(p.w)
}
