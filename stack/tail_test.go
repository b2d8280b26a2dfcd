package stack_test

import (
	"bytes"
	"math/rand/v2"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// read takes at most n of the bytes that the guest has sent.
func (k *talk) read(n int) (data []byte) {
	k.t.Helper()
	for n > 0 {
		iov := make([]unix.Iovec, 4)
		elements, size, errno := k.conn.Peek(iov)
		if errno == unix.EAGAIN {
			return data
		}
		if errno != 0 || size == 0 {
			k.t.Fatalf("%d bytes are left to read: %v", size, errno)
		}
		size = min(size, n)
		left := size
		for _, v := range iov[:elements] {
			m := min(left, int(v.Len))
			data = append(data, unsafe.Slice(v.Base, m)...)
			left -= m
		}
		k.conn.Discard(size)
		n -= size
	}
	return data
}

func heap() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what pools let go of
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// B17: segments that a slow reader leaves in the receive buffer hold little more
// memory than they count there, whatever their size.
func TestB17_SlowReaderHoldsWhatItCounts(t *testing.T) {
	for _, size := range []int{2100, 5000, 20_000, 40_000} {
		k := newTalk(t, guest4, remote4)
		data := pattern(size, 5)
		before, sent := heap(), 0
		for sent+size < 400<<10 {
			k.say(data)
			sent += size
		}
		held := heap() - before
		// The receiver's own buffers are a megabyte, whoever has them; and each
		// segment has a head of two kilobytes and some.
		if most := 2*sent + sent/size*4096 + 3<<19; held > most {
			t.Errorf("%d bytes in segments of %d hold %d, want %d at most", sent, size, held, most)
		}
		if got := k.read(sent); !bytes.Equal(got, bytes.Repeat(data, sent/size)) {
			t.Errorf("%d of %d bytes were read, or others", len(got), sent)
		}
	}
}

// Whatever the reader's pace, no buffer is read over that it has not finished
// with.
func TestTailsAreNotReadOver(t *testing.T) {
	k := newTalk(t, guest4, remote4)
	random := rand.New(rand.NewPCG(1, 2))
	var sent []byte
	for i := range 2000 {
		data := pattern(1+random.IntN(40_000), uint64(i))
		k.say(data)
		sent = append(sent, data...)
		for len(sent) > random.IntN(400<<10) {
			n := 1 + random.IntN(len(sent))
			got := k.read(n)
			if !bytes.Equal(got, sent[:n]) {
				t.Fatalf("after segment %d other bytes were read than sent", i)
			}
			sent = sent[n:]
		}
	}
}
