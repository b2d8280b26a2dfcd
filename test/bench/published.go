package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"epiphyte/test/harness"
)

const (
	// publishedPort of the host leads to guestPort of the guest.
	publishedPort = 18080
	guestPort     = 8080
)

// published says how clients of the host reach a server of the guest.
type published struct {
	mode     string // our path: auto or stack
	external bool   // the client asks for the host's address, not for loopback
	udp      bool
	socket   string // of the helper, where a port is asked for by one
}

// publishedRows are a stream each way and short connections, by either path of
// ours and by the one path of the others.
func publishedRows() []row {
	var rows []row
	for _, p := range []struct {
		name, title string
		published
	}{
		{"published", "Published port by 127.0.0.1", published{mode: "auto"}},
		{"published-host", "Published port by the host's address", published{mode: "auto", external: true}},
		{"published-stack", "Published port by the host's address, our stack path", published{mode: "stack", external: true}},
	} {
		how := &p.published
		for _, r := range []row{stream("up", loadSend, 1, bigMTU), stream("down", loadReceive, 1, bigMTU), connects(1), connects(16), roundTrip("tcp", loadEcho, "TCP")} {
			r.published = how
			r.name = p.name + "-" + r.name
			if strings.HasSuffix(r.name, "-tcp-up-1-65520") && p.external {
				r.metrics = append(r.metrics, metric{key: "source_kept", title: "the server sees the client's address", unit: "1: yes", helpers: true, alone: true})
			}
			for i := range r.metrics {
				r.metrics[i].title = p.title + ": " + r.metrics[i].title
			}
			rows = append(rows, r)
		}
	}
	for _, r := range []row{
		paced(load{Kind: loadFloodUDP, Size: 1400}, "Published UDP port: 1400 B up, loss under 1 %"),
		paced(load{Kind: loadUDPIn, Size: 1400}, "Published UDP port: 1400 B down, loss under 1 %"),
	} {
		r.published = &published{mode: "auto", udp: true}
		rows = append(rows, r)
	}
	up, down := &rows[len(rows)-2], &rows[len(rows)-1]
	up.name, down.name = "published-udp-up-1400", "published-udp-down-1400"
	return rows
}

// proto is the published port's protocol, as helpers call it.
func (p *published) proto() string {
	if p.udp {
		return "udp"
	}
	return "tcp"
}

// publish puts the server into the guest and the client on the host.
func (s *scene) publish(p *published) {
	how := *p
	s.published = &how
	s.client, s.servers = s.host, s.guest.NetNS
	s.server, s.port = netip.IPv4Unspecified(), guestPort
	if !s.peer.ceiling() {
		s.targetPort = publishedPort
	}
	switch s.peer.Kind {
	case kindLoopback:
		s.servers = s.host
	case kindVeth:
		s.target = netip.MustParsePrefix(vethGuest).Addr()
	default:
		s.target = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		if p.external {
			s.target = netip.MustParsePrefix(hostAddr).Addr()
		}
	}
}

// sourceKept is 1 when the guest's server sees the address of a client on the
// host, else 0.
func (t *traffic) sourceKept() float64 {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], t.page.client.Load())
	if netip.AddrFrom4(a) == netip.MustParsePrefix(hostAddr).Addr() {
		return 1
	}
	return 0
}

// publishArgs make a helper with slirp4netns's command line publish the port,
// or ready to be asked to.
func (s *scene) publishArgs() []string {
	switch {
	case s.published == nil:
		return nil
	case s.peer.Kind == kindOurs:
		return []string{"--publish-mode=" + s.published.mode, fmt.Sprintf("--publish=0.0.0.0:%d:%d/%s", publishedPort, guestPort, s.published.proto())}
	}
	dir, err := os.MkdirTemp("", "forward-")
	if err != nil {
		return nil // and addForward says that there is no socket
	}
	s.published.socket = filepath.Join(dir, "api")
	return []string{"--api-socket=" + s.published.socket}
}

// addForward asks for the port where it was not given on the command line.
func (s *scene) addForward(ctx context.Context) error {
	if s.published == nil || s.peer.Kind == kindOurs {
		return nil
	}
	defer os.RemoveAll(filepath.Dir(s.published.socket))
	c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", s.published.socket)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	request := fmt.Sprintf(`{"execute":"add_hostfwd","arguments":{"proto":"%s","host_addr":"0.0.0.0","host_port":%d,"guest_port":%d}}`, s.published.proto(), publishedPort, guestPort)
	if _, err := io.WriteString(c, request); err != nil {
		return err
	}
	if err := c.(*net.UnixConn).CloseWrite(); err != nil {
		return err
	}
	var reply struct {
		Error json.RawMessage `json:"error"`
	}
	if err := json.NewDecoder(c).Decode(&reply); err != nil {
		return err
	}
	if reply.Error != nil {
		return fmt.Errorf("add_hostfwd: %s", reply.Error)
	}
	return nil
}

// publishes gives an error while the port is not there, if there is to be one.
func (s *scene) publishes() error {
	if s.published == nil {
		return nil
	}
	return listens(s.host, s.published.proto(), publishedPort)
}

// listens gives an error unless there is a socket that takes clients, without being one.
func listens(ns *harness.NetNS, proto string, port uint16) error {
	found, state := false, "0A" // TCP_LISTEN
	if proto == "udp" {
		state = "07" // TCP_CLOSE: not connected
	}
	err := ns.Do(func() error {
		for _, table := range []string{proto, proto + "6"} {
			text, err := os.ReadFile("/proc/thread-self/net/" + table)
			if err != nil {
				return err
			}
			for line := range strings.Lines(string(text)) {
				f := strings.Fields(line)
				if len(f) > 3 && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) && f[3] == state {
					found = true
				}
			}
		}
		return nil
	})
	if err == nil && !found {
		err = fmt.Errorf("nobody listens on port %d", port)
	}
	return err
}

// pastaForward is the value of pasta's option for ports of a protocol.
func (s *scene) pastaForward(proto string) string {
	if s.published == nil || s.published.proto() != proto {
		return "none"
	}
	return fmt.Sprintf("%d:%d", publishedPort, guestPort)
}
