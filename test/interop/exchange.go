package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// The protocol between clients and servers of this test: a server says who it
// thinks its client is ("peer ADDR:PORT\n") and then sends back what it gets.
// UDP puts both into each answer.
const peerPrefix = "peer "

// udpWait is how long a client waits for the answer to a datagram before it
// sends it again; it is long on any machine, as nothing leaves it.
const udpWait = 400 * time.Millisecond

// listen serves TCP and UDP on a literal address until both are closed.
func listen(addr string) ([]io.Closer, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	pc, err := net.ListenPacket("udp", addr)
	if err != nil {
		l.Close()
		return nil, err
	}
	go acceptTCP(l)
	go answerUDP(pc)
	return []io.Closer{l, pc}, nil
}

func acceptTCP(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return // closed
		}
		go func() {
			defer c.Close()
			if _, err := fmt.Fprintf(c, "%s%s\n", peerPrefix, c.RemoteAddr()); err == nil {
				_, _ = io.Copy(c, c) // the client notices what is missing
			}
		}()
	}
}

func answerUDP(pc net.PacketConn) {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := pc.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		} else if err != nil {
			continue // an ICMP error that an earlier answer met
		}
		_, _ = pc.WriteTo(fmt.Appendf(nil, "%s%s\n%s", peerPrefix, from, buf[:n]), from) // the client asks again
	}
}

// exchange is what a client learns from one conversation.
type exchange struct {
	peer  string // what the server sees
	local string // what the client is
}

// ask has one conversation of size bytes each way, over "tcp" or "udp".
func ask(ctx context.Context, dial dialer, network, addr string, size int) (exchange, error) {
	// Retries are ask's callers' business, but a lost datagram is nobody's.
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c, err := dial(ctx, network, addr)
	if err != nil {
		return exchange{}, err
	}
	defer c.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(deadline); err != nil {
			return exchange{}, err
		}
	}
	payload := bytes.Repeat([]byte("interop "), size/8+1)[:size]
	var peer string
	if network == "udp" {
		peer, err = askUDP(c, payload)
	} else {
		peer, err = askTCP(c.(*net.TCPConn), payload)
	}
	return exchange{peer: peer, local: c.LocalAddr().String()}, err
}

func askTCP(c *net.TCPConn, payload []byte) (string, error) {
	sent := make(chan error, 1)
	r := bufio.NewReader(c)
	line, err := r.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("read who we are: %w", err)
	}
	go func() {
		_, err := c.Write(payload)
		sent <- errors.Join(err, c.CloseWrite())
	}()
	got, err := io.ReadAll(r)
	if err := errors.Join(err, <-sent); err != nil {
		return "", err
	}
	if !bytes.Equal(got, payload) {
		return "", fmt.Errorf("sent %d bytes, %d came back or differ", len(payload), len(got))
	}
	return peerOf(line)
}

func askUDP(c net.Conn, payload []byte) (string, error) {
	const tries = 5
	buf := make([]byte, 1<<16)
	var err error
	for range tries {
		if _, err = c.Write(payload); err != nil {
			return "", err
		}
		if err := c.SetReadDeadline(time.Now().Add(udpWait)); err != nil {
			return "", err
		}
		var n int
		if n, err = c.Read(buf); err != nil {
			if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
				continue
			}
			return "", err
		}
		line, rest, _ := bytes.Cut(buf[:n], []byte("\n"))
		if !bytes.Equal(rest, payload) {
			return "", fmt.Errorf("sent %d bytes, %d came back or differ", len(payload), len(rest))
		}
		return peerOf(string(line))
	}
	return "", fmt.Errorf("no answer to %d datagrams: %w", tries, err)
}

func peerOf(line string) (string, error) {
	peer, ok := strings.CutPrefix(strings.TrimSpace(line), peerPrefix)
	if !ok {
		return "", fmt.Errorf("somebody else answered: %q", line)
	}
	return peer, nil
}

// host is the address of an endpoint without its port.
func host(endpoint string) string {
	h, _, err := net.SplitHostPort(endpoint)
	if err != nil {
		return endpoint
	}
	return h
}
