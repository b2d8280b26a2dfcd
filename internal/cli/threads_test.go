package cli

import (
	"os"
	"testing"
)

// Threads that were started stay, for goroutines to come.
func TestStartThreads(t *testing.T) {
	<-startThreads(spareThreads)
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	if len(threads) <= spareThreads {
		t.Errorf("%d threads, want more than %d", len(threads), spareThreads)
	}
	<-startThreads(spareThreads)
	again, err := os.ReadDir("/proc/self/task")
	if err != nil || len(again) > len(threads)+2 {
		t.Errorf("%d threads, %d before: %v", len(again), len(threads), err)
	}
}
