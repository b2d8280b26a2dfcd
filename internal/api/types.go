package api

import (
	"context"
	"log/slog"
	"time"

	"epiphyte/portfwd"
)

// Ports is what publishes ports: a *portfwd.Manager. Its methods are called by
// many goroutines at once.
type Ports interface {
	Add(ctx context.Context, r portfwd.Rule) (portfwd.Entry, error)
	Remove(id int) error
	List() []portfwd.Entry
}

// Config of a server. Ports is required.
type Config struct {
	Ports Ports
	// Flows lists the flows of the moment. nil: there are none to show.
	Flows func() []Flow
	// Stats reads the counters and gauges. nil: there are none.
	Stats  func() []Metric
	Logger *slog.Logger // nil: slog.Default()
}

// Port is one published port, or one range of them, as both protocols show it.
// The order of the fields is slirp4netns's.
type Port struct {
	ID        int    `json:"id"`
	Proto     string `json:"proto"`
	HostAddr  string `json:"host_addr"`
	HostPort  uint16 `json:"host_port"`
	GuestAddr string `json:"guest_addr"` // empty: whatever address the guest has
	GuestPort uint16 `json:"guest_port"`
	// HostPortEnd is the last port of a range, 0 for a single port.
	HostPortEnd uint16 `json:"host_port_end,omitempty"`
}

func portOf(e portfwd.Entry) Port {
	p := Port{
		ID:        e.ID,
		Proto:     e.Rule.Proto,
		HostPort:  e.Rule.HostPort,
		GuestPort: e.Rule.GuestPort,
	}
	if e.Rule.Host.IsValid() {
		p.HostAddr = e.Rule.Host.String()
	}
	if e.Rule.Guest.IsValid() {
		p.GuestAddr = e.Rule.Guest.String()
	}
	if e.Rule.Ports() > 1 {
		p.HostPortEnd = e.Rule.HostPortEnd
	}
	return p
}

func portsOf(entries []portfwd.Entry) []Port {
	ports := make([]Port, len(entries))
	for i, e := range entries {
		ports[i] = portOf(e)
	}
	return ports
}

// Flow is one TCP connection, UDP mapping or echo identifier through the
// program.
type Flow struct {
	Proto  string // tcp, udp or icmp
	Guest  string // the guest's address and port
	Remote string // the other end, empty where there are many
	Host   string // our own socket on the host, empty if there is none
	State  string
	In     uint64        // bytes towards the guest
	Out    uint64        // bytes from the guest
	Age    time.Duration // since it began
	Idle   time.Duration // since the last byte or datagram
}

// Metric is one measured quantity: a single value, or one value for each value
// of a label.
type Metric struct {
	Name    string // lower case words joined by underscores, unit last: sent_bytes
	Help    string // one sentence without a period
	Counter bool   // only grows; otherwise a gauge
	Label   string // name of the label; empty: Values has one element
	Values  []Value
}

// Value is one value of a metric.
type Value struct {
	Label string
	N     uint64
}
