package pcap

import "encoding/binary"

// The blocks and options of pcapng, draft-ietf-opsawg-pcapng. Numbers are little-endian,
// as the section's byte-order magic says.
const (
	blockSection    = 0x0a0d0d0a
	blockInterface  = 1
	blockStatistics = 5
	blockPacket     = 6

	byteOrderMagic = 0x1a2b3c4d
	linkEthernet   = 1

	optEnd        = 0
	optProgram    = 4 // shb_userappl
	optName       = 2 // if_name
	optResolution = 9 // if_tsresol
	optFlags      = 2 // epb_flags
	optLost       = 5 // isb_ifdrop
	nanoseconds   = 9 // 10^-9 s
	flagInbound   = 1 // for the guest's interface
	flagOutbound  = 2
	unlimited     = 262144 // snap length of a capture of whole frames, as tcpdump has it
)

var le = binary.LittleEndian

// block appends a block whose body is appended by fill.
func block(b []byte, kind uint32, fill func([]byte) []byte) []byte {
	start := len(b)
	b = le.AppendUint32(b, kind)
	b = le.AppendUint32(b, 0)
	b = fill(b)
	size := uint32(len(b) - start + 4)
	le.PutUint32(b[start+4:], size)
	return le.AppendUint32(b, size)
}

// padded appends bytes up to the next multiple of four.
func padded(b, content []byte) []byte {
	b = append(b, content...)
	return append(b, make([]byte, -len(content)&3)...)
}

func option(b []byte, code uint16, value []byte) []byte {
	b = le.AppendUint16(b, code)
	b = le.AppendUint16(b, uint16(len(value)))
	return padded(b, value)
}

func endOptions(b []byte) []byte { return le.AppendUint32(b, optEnd) }

// header begins a capture: the section, and its one interface.
func (c *Config) header(b []byte) []byte {
	b = block(b, blockSection, func(b []byte) []byte {
		b = le.AppendUint32(b, byteOrderMagic)
		b = le.AppendUint16(b, 1) // version 1.0
		b = le.AppendUint16(b, 0)
		b = le.AppendUint64(b, ^uint64(0)) // length not known
		if c.Program != "" {
			b = endOptions(option(b, optProgram, []byte(c.Program)))
		}
		return b
	})
	return block(b, blockInterface, func(b []byte) []byte {
		snaplen := uint32(unlimited)
		if c.Snaplen > 0 {
			snaplen = uint32(c.Snaplen)
		}
		b = le.AppendUint16(b, linkEthernet)
		b = le.AppendUint16(b, 0)
		b = le.AppendUint32(b, snaplen)
		if c.Interface != "" {
			b = option(b, optName, []byte(c.Interface))
		}
		return endOptions(option(b, optResolution, []byte{nanoseconds}))
	})
}

// stamp appends a time in the form of blocks.
func stamp(b []byte, at int64) []byte {
	b = le.AppendUint32(b, uint32(uint64(at)>>32))
	return le.AppendUint32(b, uint32(at))
}

// packet appends a frame of size bytes, of which content was kept.
func packet(b []byte, at int64, dir Direction, content []byte, size int) []byte {
	return block(b, blockPacket, func(b []byte) []byte {
		b = le.AppendUint32(b, 0) // the interface
		b = stamp(b, at)
		b = le.AppendUint32(b, uint32(len(content)))
		b = le.AppendUint32(b, uint32(size))
		b = padded(b, content)
		flags := uint32(flagOutbound)
		if dir == TowardGuest {
			flags = flagInbound
		}
		return endOptions(option(b, optFlags, le.AppendUint32(nil, flags)))
	})
}

// statistics appends how many frames were lost so far.
func statistics(b []byte, at int64, lost uint64) []byte {
	return block(b, blockStatistics, func(b []byte) []byte {
		b = le.AppendUint32(b, 0) // the interface
		b = stamp(b, at)
		return endOptions(option(b, optLost, le.AppendUint64(nil, lost)))
	})
}
