// Package pcaptest reads captures in tests.
//
// # Theory of operation
//
// Read is an independent reader of pcapng, written from the draft and not from package pcap.
// It is strict: what another reader would forgive is an error here. testnet.Parse checks the
// content of frames.
package pcaptest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// Capture is a whole capture, of one section and one interface.
type Capture struct {
	Program, Interface string
	Snaplen            int
	Frames             []Frame
	Lost               uint64 // as the last statistics block says
	Statistics         int    // statistics blocks
}

// Frame is one packet block.
type Frame struct {
	At      time.Time
	Inbound bool
	Size    int // of the frame; len(Data) of it is there
	Data    []byte
}

type block struct {
	kind uint32
	body []byte
}

var le = binary.LittleEndian

// Read reads a capture to its end.
func Read(r io.Reader) (*Capture, error) {
	c := new(Capture)
	for n := 0; ; n++ {
		b, err := next(r)
		if err == io.EOF && n >= 2 {
			return c, nil
		}
		if err != nil {
			return c, fmt.Errorf("block %d: %w", n, err)
		}
		if err := c.take(n, b); err != nil {
			return c, fmt.Errorf("block %d, of type %#x: %w", n, b.kind, err)
		}
	}
}

func next(r io.Reader) (block, error) {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return block{}, err
	}
	size := le.Uint32(head[4:])
	if size < 12 || size%4 != 0 || size > 1<<20 {
		return block{}, fmt.Errorf("has a length of %d", size)
	}
	rest := make([]byte, size-8)
	if _, err := io.ReadFull(r, rest); err != nil {
		return block{}, errors.New("ends early")
	}
	if again := le.Uint32(rest[len(rest)-4:]); again != size {
		return block{}, fmt.Errorf("has a length of %d at its beginning and %d at its end", size, again)
	}
	return block{le.Uint32(head[:]), rest[:len(rest)-4]}, nil
}

// fixed is how many bytes of a block's body stand before its options, packets aside.
var fixed = map[uint32]int{0x0a0d0d0a: 16, 1: 8, 5: 12, 6: 20}

func (c *Capture) take(n int, b block) error {
	size, known := fixed[b.kind]
	if !known || len(b.body) < size || (b.kind == 0x0a0d0d0a) != (n == 0) || (b.kind == 1) != (n == 1) {
		return errors.New("is not what belongs here")
	}
	var data []byte
	if b.kind == 6 {
		kept := int(le.Uint32(b.body[12:]))
		end := size + (kept+3)&^3
		if end > len(b.body) {
			return fmt.Errorf("has no room for %d bytes", kept)
		}
		data, size = b.body[size:size+kept], end
	}
	options, err := readOptions(b.body[size:])
	if err != nil {
		return err
	}
	switch b.kind {
	case 0x0a0d0d0a:
		if le.Uint32(b.body) != 0x1a2b3c4d || le.Uint32(b.body[4:]) != 1 || le.Uint64(b.body[8:]) != ^uint64(0) {
			return errors.New("is of another version or byte order")
		}
		c.Program = string(options[4])
	case 1:
		if le.Uint16(b.body) != 1 || len(options[9]) != 1 || options[9][0] != 9 {
			return errors.New("is not Ethernet with stamps in nanoseconds")
		}
		c.Snaplen, c.Interface = int(le.Uint32(b.body[4:])), string(options[2])
	case 5:
		c.Statistics++
		if len(options[5]) == 8 {
			c.Lost = le.Uint64(options[5])
		}
	case 6:
		return c.takePacket(b.body, data, options)
	}
	return nil
}

func (c *Capture) takePacket(body, data []byte, options map[uint16][]byte) error {
	f := Frame{Data: data, Size: int(le.Uint32(body[16:]))}
	f.At = time.Unix(0, int64(uint64(le.Uint32(body[4:]))<<32|uint64(le.Uint32(body[8:]))))
	flags := options[2]
	switch {
	case le.Uint32(body) != 0:
		return errors.New("is of an interface that there is not")
	case len(data) > f.Size || len(data) > c.Snaplen:
		return fmt.Errorf("has %d bytes of a frame of %d, and %d is the most", len(data), f.Size, c.Snaplen)
	case len(flags) != 4 || le.Uint32(flags) != 1 && le.Uint32(flags) != 2:
		return errors.New("has no direction")
	}
	f.Inbound = le.Uint32(flags) == 1
	c.Frames = append(c.Frames, f)
	return nil
}

func readOptions(b []byte) (map[uint16][]byte, error) {
	options := make(map[uint16][]byte)
	for len(b) > 0 {
		if len(b) < 4 {
			return nil, errors.New("has half an option")
		}
		code, size := le.Uint16(b), int(le.Uint16(b[2:]))
		b = b[4:]
		if code == 0 {
			if size != 0 || len(b) > 0 {
				return nil, errors.New("goes on behind its options")
			}
			return options, nil
		}
		end := (size + 3) &^ 3
		if end > len(b) {
			return nil, errors.New("has an option that is longer than it is")
		}
		options[code], b = b[:size], b[end:]
	}
	return options, nil
}
