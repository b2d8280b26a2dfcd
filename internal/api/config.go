package api

import (
	"context"
	"io"
	"log/slog"
	"net/netip"

	"epiphyte/internal/pasta"
	"epiphyte/portfwd"
)

// Ports publishes ports; *portfwd.Manager implements it. Many goroutines call its methods at
// once.
type Ports interface {
	Add(ctx context.Context, r portfwd.Rule) (portfwd.Entry, error)
	Remove(id int) error
	List() []portfwd.Entry
}

// Forwards are the ports of pasta's options. Many goroutines call the methods at once.
type Forwards interface {
	List() pasta.Table
	// Change makes all of a change or nothing. Its errors are *pasta.ConflictError, those of
	// Ports.Add, and others.
	Change(ctx context.Context, c pasta.Change) error
}

// Config of a server. Ports is required.
type Config struct {
	Ports    Ports
	Forwards Forwards // HTTP: nil where there are none
	// Why parses a flow and says what would become of it; on a network, of a flow of the
	// named member (HTTP). nil: it cannot be asked.
	Why    func(member, flow string) (*Why, error)
	Flows  func() []Flow // lists the current flows; nil: none
	Policy Policy        // HTTP: nil where there is none
	// Policies are those of a network's members (HTTP); nil: no network is served.
	Policies Policies
	Guest    *Guest          // HTTP: the guest that is served; nil: several are
	Stats    func() []Metric // reads the counters and gauges; nil: none
	// Capture writes the frames that cross the TAP as pcapng, with at most snaplen bytes of
	// each if that is not 0, until ctx ends. The client gets an error that comes before
	// anything is written. nil: there are no frames to capture.
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
	Origin string         `json:"origin"`       // what began it: guest, published or exposed
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
