package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"
)

// Directions of a stream: each has bytes of its own.
const (
	up   = 0 // from client to server
	down = 1
)

// pattern is an endless stream of bytes that both ends of a stream know.
type pattern struct{ *rand.ChaCha8 }

func newPattern(id uint64, direction byte) pattern {
	seed := [32]byte{direction}
	for i := range 8 {
		seed[i+1] = byte(id >> (8 * i))
	}
	return pattern{rand.NewChaCha8(seed)}
}

// next gives the next n bytes.
func (p pattern) next(n int) []byte {
	b := make([]byte, n)
	_, _ = p.Read(b) // never fails
	return b
}

const maxChunk = 64 << 10

// send writes n bytes of the pattern, in writes of any size.
func (p pattern) send(w io.Writer, n int) error {
	for sent := 0; sent < n; {
		// The generator of bytes may not give sizes as well: they would be missing.
		chunk := p.next(min(n-sent, 1+sent*7919%maxChunk))
		if _, err := w.Write(chunk); err != nil {
			return fmt.Errorf("write after %d of %d bytes: %w", sent, n, err)
		}
		sent += len(chunk)
	}
	return nil
}

// errWrong says that bytes have arrived that were not sent.
var errWrong = errors.New("wrong bytes")

// prefix reads to an error, whatever it is, and gives it with the number of bytes that
// came before; every one of those has to be right. Halfway to n it stops for pause.
func (p pattern) prefix(r io.Reader, n int, pause time.Duration) (got int, err error) {
	b := make([]byte, maxChunk)
	for {
		if pause > 0 && got >= n/2 {
			<-time.After(pause)
			pause = 0
		}
		k, err := r.Read(b)
		if !bytes.Equal(b[:k], p.next(k)) {
			return got, fmt.Errorf("%w among the %d after %d", errWrong, k, got)
		}
		got += k
		if got > n {
			return got, fmt.Errorf("%w: %d more than the %d sent", errWrong, got-n, n)
		}
		if err != nil {
			return got, err
		}
	}
}

// whole reads n bytes and the end of the stream.
func (p pattern) whole(r io.Reader, n int, pause time.Duration) error {
	got, err := p.prefix(r, n, pause)
	if err == io.EOF && got == n {
		return nil
	}
	return fmt.Errorf("read %d of %d bytes: %w", got, n, err)
}
