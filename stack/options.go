package stack

import (
	"fmt"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// Buffer sizes of one connection, in bytes. Unused buffer is not memory: the
// sizes bound what may pile up when one side is slower than the other.
const (
	minBuffer     = 16 << 10
	defaultBuffer = 1 << 20
	maxBuffer     = 4 << 20
	// maxSend bounds what has been read from the host for the guest, which is
	// near, and so takes it within microseconds or not at all. More is not in the
	// processor's cache any more when it is sent: with 4 MB four streams together
	// are 12 % slower, with 1 MB a single one is 8 %
	// (make bench ROWS='tcp-in-4-65520,tcp-in-1-65520').
	maxSend = 2 << 20
)

// setOptions sets every option of gVisor that differs from its default, or
// whose default we rely upon.
func (s *Stack) setOptions() error {
	sack := tcpip.TCPSACKEnabled(true)    // loss on the TAP is rare but comes in bursts, when a queue overflows
	delay := tcpip.TCPDelayEnabled(false) // Nagle has been applied by the host's sender; twice costs a round trip
	moderate := tcpip.TCPModerateReceiveBufferOption(true)
	// The host's own congestion control has the outer path; this one only has
	// the TAP. Reno and cubic measured alike.
	cc := tcpip.CongestionControlOption("reno")
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: minBuffer, Default: defaultBuffer, Max: maxBuffer}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: minBuffer, Default: defaultBuffer, Max: maxSend}
	// TIME-WAIT keeps old segments of a path from a new connection of the same
	// ports. The TAP holds a segment for milliseconds, and at thousands of
	// connections per second each second of waiting is megabytes.
	timeWait := tcpip.TCPTimeWaitTimeoutOption(time.Second)
	// A guest that has not sent its FIN for so long after we closed is gone.
	linger := tcpip.TCPLingerTimeoutOption(60 * time.Second)
	// 200 ms, Linux's own minimum: less would retransmit to a guest that was
	// only not scheduled.
	minRTO := tcpip.TCPMinRTOOption(200 * time.Millisecond)
	// With the minimum above, ten doublings are 200 s of silence from a kernel
	// on the same machine. gVisor's default of 15 is a quarter of an hour, for
	// each connection that a guest abandons.
	retries := tcpip.TCPMaxRetriesOption(10)
	for _, o := range []tcpip.SettableTransportProtocolOption{&sack, &delay, &moderate, &cc, &receive, &send, &timeWait, &linger, &minRTO, &retries} {
		if err := s.gv.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return fmt.Errorf("set stack option %T: %v", o, err)
		}
	}
	return nil
}
