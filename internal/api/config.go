package api

import (
	"context"
	"io"
	"log/slog"
	"net/netip"

	"epiphyte/internal/pasta"
	"epiphyte/portfwd"
)

// Ports publishes ports; *portfwd.Manager implements it. Its methods are called
// by many goroutines at once.
type Ports interface {
	Add(ctx context.Context, r portfwd.Rule) (portfwd.Entry, error)
	Remove(id int) error
	List() []portfwd.Entry
}

// Forwards are the ports of pasta's options. The methods are called by many goroutines at
// once.
type Forwards interface {
	List() pasta.Table
	// Change changes all or nothing. Its errors are *pasta.ConflictError, those of Ports.Add,
	// and others.
	Change(ctx context.Context, c pasta.Change) error
}

// Config of a server. Ports is required.
type Config struct {
	Ports    Ports
	Forwards Forwards // HTTP: nil where there are none
	// Why says what would become of a flow, which it reads (HTTP); nil: it cannot be asked.
	Why    func(flow string) (*Why, error)
	Flows  func() []Flow   // lists the current flows; nil: none
	Policy Policy          // HTTP: nil where there is none
	Guest  *Guest          // HTTP: the one that is served; nil where there are several
	Stats  func() []Metric // reads the counters and gauges; nil: none
	// Capture writes what crosses the TAP, as pcapng, with at most snaplen bytes of each
	// frame if that is not 0, until ctx ends. An error before anything is written is told
	// to the client. nil: there are no frames to capture.
	Capture func(ctx context.Context, w io.Writer, snaplen int) error
	Logger  *slog.Logger // nil: slog.Default()
}

// Flow is one TCP connection, UDP mapping or ping identifier, as both protocols
// show it.
type Flow struct {
	Proto  string         `json:"proto"`            // tcp, udp or icmp
	Member string         `json:"member,omitempty"` // name of the guest, where several share a network
	Guest  netip.AddrPort `json:"guest"`
	Remote netip.AddrPort `json:"remote"` // not valid if there are many
	Host   netip.AddrPort `json:"host"`   // our socket on the host; not valid if it has no address
	State  string         `json:"state"`
	Origin string         `json:"origin"`       // who asked for it: guest, published or exposed
	In     uint64         `json:"in_bytes"`     // towards the guest
	Out    uint64         `json:"out_bytes"`    // from the guest
	Age    float64        `json:"age_seconds"`  // since the flow began
	Idle   float64        `json:"idle_seconds"` // since the last byte or datagram
}

type flowsDocument struct {
	Flows []Flow `json:"flows"`
}

func (s *Server) flows() flowsDocument {
	doc := flowsDocument{Flows: []Flow{}} // [] in JSON, not null
	if s.cfg.Flows != nil {
		doc.Flows = append(doc.Flows, s.cfg.Flows()...)
	}
	return doc
}

func (s *Server) stats() []Metric {
	if s.cfg.Stats == nil {
		return nil
	}
	return append(s.cfg.Stats(), s.policyMetrics()...)
}
