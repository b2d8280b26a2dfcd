package shard_test

import (
	"context"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/shard"
)

// sliceOf is the slice of the calling thread, as the kernel's scheduler has it.
func sliceOf(t *testing.T) time.Duration {
	t.Helper()
	a, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(a.Runtime)
}

// Who is woken runs before the thread that has the longer slice is done with it.
func TestWokenNeedNotWaitForTheShard(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	others := sliceOf(t)
	if others == 0 {
		t.Skip("the kernel has no slices to ask for (Linux 6.12)")
	}
	s, err := shard.New(shard.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var serving time.Duration
	s.Post(shard.TaskFunc(func() { serving = sliceOf(t); cancel() }))
	if err := s.Serve(ctx); err != nil {
		t.Fatal(err)
	}
	if serving <= others {
		t.Errorf("the shard's slice is %v, others' is %v", serving, others)
	}
	if after := sliceOf(t); after != others {
		t.Errorf("the thread keeps a slice of %v, it had %v", after, others)
	}
}
