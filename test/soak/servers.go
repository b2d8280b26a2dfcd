package main

import (
	"errors"
	"net"
	"strings"
	"sync"

	"epiphyte/test/harness"
)

// servers are everything that listens, until close.
type servers struct {
	*ledger
	open []interface{ Close() error }
	wg   sync.WaitGroup
}

// close ends them, once those that they serve have ended: nothing else holds a
// connection for longer than patience.
func (s *servers) close() {
	for _, c := range s.open {
		c.Close()
	}
	s.wg.Wait()
}

// streams serves exchanges in a namespace.
func (s *servers) streams(ns *harness.NetNS, addresses ...string) error {
	for _, addr := range addresses {
		l, err := ns.Listen("tcp"+version(addr), addr)
		if err != nil {
			return err
		}
		s.accept(l)
	}
	return nil
}

// accept serves the clients of a listener.
func (s *servers) accept(l net.Listener) {
	s.open = append(s.open, l)
	s.wg.Go(func() {
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				s.wg.Go(func() { s.handle(c.(*net.TCPConn)) })
			}
		}
	})
}

// datagrams sends back what comes.
func (s *servers) datagrams(ns *harness.NetNS, addresses ...string) error {
	for _, addr := range addresses {
		c, err := ns.ListenPacket("udp"+version(addr), addr)
		if err != nil {
			return err
		}
		s.open = append(s.open, c)
		s.wg.Go(func() {
			b := make([]byte, 1<<16)
			for {
				n, from, err := c.ReadFrom(b)
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err == nil { // else an ICMP error for an earlier answer
					_, _ = c.WriteTo(b[:n], from)
				}
			}
		})
	}
	return nil
}

// version ends the name of a network whose sockets have one family only.
func version(addr string) string {
	if strings.HasPrefix(addr, "[") {
		return "6"
	}
	return "4"
}
