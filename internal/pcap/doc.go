// Package pcap copies the frames of a guest into captures: files and streams in the
// pcapng format, which tcpdump, tshark and Wireshark read.
//
// # Theory of operation
//
// Tee.Device wraps a [stack.Device], and a [Tee] copies what crosses the wrapper into every
// running capture. While there is none, a frame costs one atomic load more than without the
// wrapper.
//
// [Tee.Begin] begins a [Capture], whose Run is its goroutine: until its context ends, its
// writer fails, or its size limit is reached. The thread that moves frames only copies each
// into memory (buffer.go). The capture's goroutine turns them into blocks and writes them
// (format.go). If it is too slow, frames are missing in the capture and are counted, and the
// next statistics block says so; the guest loses nothing.
//
// What is written is what a network card would have put on the wire, as far as the
// virtio-net header tells (frame.go): checksums that were left to the kernel are filled
// in, and UDP super-datagrams are cut into datagrams, whose boundaries matter. TCP
// super-segments stay whole, as in any capture on the machine itself: a stream has no
// boundaries, and fewer frames need fewer copies.
//
// Invariants: frames are in the order in which they crossed. So a frame towards the guest is
// written with the Tee's lock held: no answer to it can be captured before it, whatever the
// number of queues. Timestamps decrease only if the host's clock is changed. Blocks are
// written whole, so a capture is well-formed wherever it ends, short of a full disk.
//
// Bounds: at most MaxCaptures at once, each with at most two buffers of bufferBytes and
// bufferFrames. There are no timers.
//
// What it does not do: it reads no captures and filters nothing. It does not see connections
// that do not cross a device, those of published and exposed ports by the direct path, nor
// what a connection moves after it was handed over to the guest's kernel.
package pcap
