package cli

import (
	"runtime"
	"sync"
)

// spareThreads is how many threads the runtime is made to start before the network is ready.
// The runtime starts one whenever a goroutine may run and all threads are in system calls,
// and never ends one; but it ends the whole program when the kernel refuses a thread, because
// the user's process limit (RLIMIT_NPROC) or the cgroup's (pids.max) is exhausted, which the
// guest itself may have done. Without spare ones, a helper with maxProcessors has had seven to
// eleven threads in all under load of every kind (the goals of make bench); with them it has 16.
const spareThreads = 12

// maxProcessors is how many threads run Go code at a time, besides those of further queues: one
// moves the packets; the others are for what is rare, and for the collector, which would else
// start a thread for each of the host's processors.
const maxProcessors = 4

// reserveThreads is for a program that will run on its own: it bounds the threads that the
// runtime will need, of which queues move packets, and starts them. The channel is closed when
// they exist.
func reserveThreads(queues int) <-chan struct{} {
	runtime.GOMAXPROCS(min(runtime.GOMAXPROCS(0), maxProcessors+max(queues, 1)-1))
	return startThreads(spareThreads + queues)
}

// startThreads starts n idle threads besides the caller's, and closes the channel when all of
// them exist. That takes a fifth of a start, whose other steps leave a processor free
// meanwhile.
func startThreads(n int) <-chan struct{} {
	var started, ended sync.WaitGroup
	release := make(chan struct{})
	started.Add(n)
	for range n {
		ended.Go(func() {
			runtime.LockOSThread() // a thread of its own, which it keeps while it waits
			started.Done()
			<-release
			runtime.UnlockOSThread()
		})
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		started.Wait()
		close(release)
		ended.Wait()
	}()
	return done
}
