package forwarder

import (
	"bytes"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"epiphyte/internal/flow"
	"epiphyte/internal/sockio"
	"epiphyte/internal/testnet"
	"epiphyte/stack"
)

// A mapping that is flooded has one turn after the other, as others have: events that
// come meanwhile give it none beside.
func TestFloodedMappingHasOneTurn(t *testing.T) {
	r := newRig(t, setup{})
	host, addr := testnet.ListenUDP(t, "127.0.0.1:0")
	r.send(datagram(at(guest4, 4000), at(gateway4, addr.Port())))
	_, seen := readDatagram(t, host)
	m := r.flows(flow.Mapping)[0]
	const sent, turn = 200, sockio.BatchSize * sockio.TurnBatches
	for range sent {
		if _, err := host.WriteToUDPAddrPort([]byte("x"), seen); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		m.Owner.(*mapping).socket.Ready(unix.EPOLLIN)
	}
	if m.In != turn {
		t.Errorf("%d datagrams taken at once, want %d", m.In, turn)
	}
	r.until("all datagrams", func() bool { return m.In == sent })
}

// TestB24_RunsIn: datagrams that wait in a row, from two peers in turn, reach a
// guest whose device takes no super-datagram one by one, in order; those too
// that the host's kernel joins, which it does from the second time on.
func TestB24_RunsIn(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, setup{})
			src := at(f.guest, 4000)
			var peers []*net.UDPConn
			var ports []uint16
			for range 2 {
				c, addr := testnet.ListenUDP(t, f.host)
				peers, ports = append(peers, c), append(ports, addr.Port())
			}
			r.send(testnet.UDP(src, at(f.gateway, ports[0]), 64, []byte("query")))
			_, mapping := readDatagram(t, peers[0])
			for round := range byte(3) {
				var data [][]byte
				from := func(i int) int { return i / 7 % 2 }
				for i := range 40 {
					size := []int{1000, 1000, 1000, 1000, 1000, 1001, 0, 999}[i%8]
					data = append(data, bytes.Repeat([]byte{round, byte(i)}, 501)[:size])
					if _, err := peers[from(i)].WriteToUDPAddrPort(data[i], mapping); err != nil {
						t.Fatal(err)
					}
				}
				for i, want := range data {
					p := r.receive(stack.ProtoUDP)
					if p.From() != at(f.gateway, ports[from(i)]) || !bytes.Equal(p.Payload[8:], want) {
						t.Fatalf("round %d, datagram %d: %d bytes from %v, want %d from port %d, or other ones",
							round, i, len(p.Payload)-8, p.From(), len(want), ports[from(i)])
					}
				}
			}
		})
	}
}
