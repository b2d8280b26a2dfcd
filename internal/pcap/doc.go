// Package pcap copies the frames of a guest into captures: files and streams in the
// pcapng format, which tcpdump, tshark and Wireshark read.
//
// # Theory of operation
//
// A [Tee] stands at the seam [stack.Device]. Tee.Device wraps a device, and what crosses
// the wrapper is copied into every capture that is running. While none is, a frame costs
// one atomic load more than without the wrapper.
//
// [Tee.Begin] begins a [Capture], whose Run is its goroutine: until its context ends, its
// writer fails, or it has the size that it may have. The thread that moves frames
// only copies each into memory (buffer.go). The capture's goroutine makes blocks of them
// and writes them (format.go). If it is too slow, frames are missing in the capture, are
// counted, and the statistics block that follows says so; the guest loses nothing.
//
// What is written is what a network card would have put on the wire, as far as the
// virtio-net header tells (frame.go): checksums that were left to the kernel are filled
// in, and UDP super-datagrams are cut into datagrams, for their boundaries mean
// something. TCP super-segments stay whole, as in any capture on the machine itself:
// a stream has no boundaries, and copies are fewer.
//
// Invariants: frames are in the order in which they crossed, which is why a frame towards
// the guest is written with the Tee's lock held: nothing that answers it can be captured
// before it, whatever the number of queues. Stamps do not decrease but by a change of
// the host's clock. Blocks are written whole, so a capture is well-formed wherever it
// ends, short of a full disk.
//
// Bounds: at most MaxCaptures at once, each with at most two buffers of bufferBytes and
// bufferFrames. There are no timers.
//
// What it does not do: it reads no capture and filters nothing; and connections that do
// not cross a device, those of published and exposed ports by the direct path, are in no
// capture.
package pcap
