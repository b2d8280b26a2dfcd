package cli

import (
	"runtime"
	"sync"
)

// spareThreads is how many threads the runtime is made to start before the network is ready.
// The runtime starts one whenever a goroutine may run and all threads are in system calls,
// and never ends one; but it ends the whole program when the kernel refuses a thread, because
// the user's process limit (RLIMIT_NPROC) or the cgroup's (pids.max) is exhausted, which the
// guest itself may have done. Under load of every kind a helper has had eight to eleven.
const spareThreads = 16

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
