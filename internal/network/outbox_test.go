package network

import (
	"errors"
	"slices"
	"sync"
	"testing"
)

// Messages are sent in order, whoever posts them and whatever becomes of those before, and
// posting does not wait.
func TestOutbox(t *testing.T) {
	var o outbox
	var tasks sync.WaitGroup
	var sent, told []int
	reads := make(chan struct{})
	var want []int
	for i := range 100 {
		want = append(want, i)
		o.post(&tasks, message{
			send: func() error {
				<-reads // it has been stopped
				sent = append(sent, i)
				if i%3 == 0 {
					return errors.New("not sent")
				}
				return nil
			},
			sent: func(err error) {
				if (err != nil) != (i%3 == 0) {
					t.Errorf("message %d: %v", i, err)
				}
				told = append(told, i)
				if i == 50 {
					o.post(&tasks, message{send: func() error { sent = append(sent, -1); return nil }})
				}
			},
		})
	}
	close(reads)
	tasks.Wait()
	if !slices.Equal(told, want) || !slices.Equal(sent, append(want, -1)) {
		t.Errorf("sent %v, told %v", sent, told)
	}
	o.post(&tasks, message{send: func() error { sent = nil; return nil }}) // after it was empty
	if tasks.Wait(); sent != nil {
		t.Error("nothing is sent any more")
	}
}
