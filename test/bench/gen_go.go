package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

// Generators of these kinds are written as most programs in Go are: goroutines, its
// poller, its collector, no thread of their own.

// plain tells whether a load's generators are.
func (l load) plain() bool {
	return l.Kind == loadEchoGo || l.Kind == loadConnectGo || l.Kind == loadHTTPGo
}

// inherited is the server's socket.
func inherited() (net.Listener, error) {
	f := os.NewFile(socketFD, "server")
	defer f.Close()
	return net.FileListener(f)
}

// serveGo sends back what comes on each connection, until its client ends it.
func serveGo(load, *page, int) error {
	l, err := inherited()
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			b := make([]byte, 4096)
			for {
				n, err := c.Read(b)
				if err != nil {
					return // the client has gone, and counts what it did not get
				}
				if _, err := c.Write(b[:n]); err != nil {
					return
				}
			}
		}()
	}
}

// runEchoGo times each byte to and fro.
func runEchoGo(l load, p *page, thread int) error {
	c, err := net.Dial("tcp", l.Target.String())
	if err != nil {
		return err
	}
	for first := true; ; first = false {
		begin := time.Now()
		if err := echoOnce(c, make([]byte, l.Size)); err != nil {
			return err
		}
		p.took(time.Since(begin))
		p.done[thread].Add(1)
		if first {
			p.ready.Add(1)
		}
	}
}

func echoOnce(c net.Conn, b []byte) error {
	if _, err := c.Write(b); err != nil {
		return err
	}
	_, err := io.ReadFull(c, b)
	return err
}

// runConnectGo makes connection after connection. One that fails is counted.
func runConnectGo(l load, p *page, thread int) error {
	return p.repeat(thread, func() error {
		c, err := net.Dial("tcp", l.Target.String())
		if err != nil {
			return err
		}
		return errors.Join(echoOnce(c, make([]byte, 1)), c.Close())
	})
}

// repeat does an operation for ever, and waits a little after one that has failed.
func (p *page) repeat(thread int, operation func() error) error {
	for first := true; ; {
		if operation() != nil {
			p.errors.Add(1)
			pause(context.Background(), time.Millisecond)
			continue
		}
		p.done[thread].Add(1)
		if first {
			p.ready.Add(1)
			first = false
		}
	}
}

func serveHTTPGo(load, *page, int) error {
	l, err := inherited()
	if err != nil {
		return err
	}
	return http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "hello\n")
	}))
}

// newHTTPClient is one whose goroutines share a client, as those of a program do.
func newHTTPClient() generator {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: maxThreads}}
	return func(l load, p *page, thread int) error {
		url := "http://" + l.Target.String() + "/"
		return p.repeat(thread, func() error {
			r, err := client.Get(url)
			if err != nil {
				return err
			}
			defer r.Body.Close()
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				return err
			}
			if r.StatusCode != http.StatusOK {
				return fmt.Errorf("status %s", r.Status)
			}
			return nil
		})
	}
}
