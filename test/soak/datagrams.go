package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"epiphyte/test/harness"
)

const (
	// tries are how often one datagram is sent until it is answered.
	tries = 5
	// echoPatience is how long an answer is waited for, twice as long after each try:
	// the machine may be busy with other work.
	echoPatience = time.Second
	// clientPorts are how many ports the clients of one route have. They are used
	// again and again, so that as many mappings stay.
	clientPorts = 8
)

// message is a datagram that is like no other: it begins with its number.
func message(id uint64, size int) []byte {
	return append(binary.BigEndian.AppendUint64(nil, id), newPattern(id, up).next(size)...)
}

// conversation sends datagrams to a peer that sends them back, each until its answer
// is there.
func conversation(c net.Conn, r *rand.Rand, n *count) error {
	b := make([]byte, 1<<16)
	for range 1 + r.IntN(8) {
		want := message(r.Uint64(), r.IntN(1+1<<r.IntN(14)))
		again := 0
		for ; again < tries; again++ {
			if _, err := c.Write(want); err != nil {
				return fmt.Errorf("send datagram: %w", err)
			}
			if ok, err := answered(c, b, want, echoPatience<<again); err != nil {
				return err
			} else if ok {
				break
			}
			n.lost.Add(1)
		}
		if again == tries {
			return fmt.Errorf("a datagram of %d bytes was sent %d times and never answered", len(want), tries)
		}
		n.bytes.Add(2 * uint64(len(want)))
	}
	return nil
}

// receiver is a socket with one peer.
type receiver interface {
	SetReadDeadline(time.Time) error
	Read([]byte) (int, error)
}

// answered waits for an answer, and passes over those of the port's earlier users.
func answered(c receiver, b, want []byte, patience time.Duration) (bool, error) {
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return false, err
	}
	for {
		k, err := c.Read(b)
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("receive datagram: %w", err)
		}
		if bytes.Equal(b[:k], want) {
			return true, nil
		}
		if k < 8 {
			return false, fmt.Errorf("datagram of %d bytes: %w", k, errWrong)
		}
		if id := binary.BigEndian.Uint64(b); id == binary.BigEndian.Uint64(want) || !bytes.Equal(b[:k], message(id, k-8)) {
			return false, fmt.Errorf("datagram of %d bytes, sent %d: %w", k, len(want), errWrong)
		}
	}
}

// datagramJob converses from one of a few ports, local being the client's address.
func datagramJob(name string, from *harness.NetNS, local string, firstPort int, to string) job {
	return job{name: name, pause: 60 * time.Millisecond, do: func(ctx context.Context, r *rand.Rand, n *count) error {
		addr, err := net.ResolveUDPAddr("udp", net.JoinHostPort(local, strconv.Itoa(firstPort+r.IntN(clientPorts))))
		if err != nil {
			return err
		}
		c, err := from.DialWith(ctx, net.Dialer{LocalAddr: addr}, "udp", to)
		if err != nil {
			return err
		}
		defer c.Close()
		return conversation(c, r, n)
	}}
}

// pingJob pings from one socket of the guest, which servers close.
func (s *site) pingJob(to string) (job, error) {
	p := pinger{to: &net.UDPAddr{IP: net.ParseIP(to)}, protocol: 58, request: ipv6.ICMPTypeEchoRequest, reply: ipv6.ICMPTypeEchoReply}
	network := "udp6"
	if p.to.IP.To4() != nil {
		network, p.protocol, p.request, p.reply = "udp4", 1, ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply
	}
	if err := s.guest.Do(func() (err error) {
		p.c, err = icmp.ListenPacket(network, "")
		return err
	}); err != nil {
		return job{}, err
	}
	s.servers.open = append(s.servers.open, p.c)
	return job{name: "ping", pause: 200 * time.Millisecond, do: p.ping}, nil
}

type pinger struct {
	c              *icmp.PacketConn
	to             *net.UDPAddr
	protocol       int
	request, reply icmp.Type
}

// ping sends a request until it is answered.
func (p *pinger) ping(_ context.Context, r *rand.Rand, n *count) error {
	want := message(r.Uint64(), r.IntN(1400))
	m := icmp.Message{Type: p.request, Body: &icmp.Echo{Data: want}}
	wire, err := m.Marshal(nil)
	if err != nil {
		return err
	}
	for again := range tries {
		if _, err := p.c.WriteTo(wire, p.to); err != nil {
			return fmt.Errorf("ping: %w", err)
		}
		ok, err := answered(p, make([]byte, 1<<16), want, echoPatience<<again)
		if err != nil {
			return fmt.Errorf("ping: %w", err)
		}
		if ok {
			n.bytes.Add(2 * uint64(len(want)))
			return nil
		}
		n.lost.Add(1)
	}
	return fmt.Errorf("%d pings were never answered", tries)
}

// SetReadDeadline and Read give what answers carry.
func (p *pinger) SetReadDeadline(t time.Time) error { return p.c.SetReadDeadline(t) }

func (p *pinger) Read(b []byte) (int, error) {
	k, _, err := p.c.ReadFrom(b)
	if err != nil {
		return 0, err
	}
	m, err := icmp.ParseMessage(p.protocol, b[:k])
	if err != nil {
		return 0, err
	}
	e, ok := m.Body.(*icmp.Echo)
	if !ok || m.Type != p.reply {
		return 0, fmt.Errorf("answered by %v", m.Type)
	}
	return copy(b, e.Data), nil
}
