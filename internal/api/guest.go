package api

import (
	"context"
	"time"
)

const guestPath = "/v1/guest"

// Guest is a guest, and the program that serves it.
type Guest struct {
	Program   int       `json:"program"`           // process id of the program
	Version   string    `json:"version"`           // of the program
	Process   int       `json:"process,omitempty"` // pid of one in the guest's namespaces
	NetNS     string    `json:"netns,omitempty"`   // path of the network namespace, if no process is known
	UserNS    string    `json:"userns,omitempty"`  // path of the user namespace, likewise
	Command   []string  `json:"command,omitempty"` // started by the program
	Interface string    `json:"interface"`         // in the guest; empty: not known
	IPv4      string    `json:"ipv4,omitempty"`    // the guest's own address
	IPv6      string    `json:"ipv6,omitempty"`    // likewise
	Started   time.Time `json:"started"`
}

func (s *Server) showGuest(context.Context, *request) *response { return okJSON(s.cfg.Guest) }

// Guest describes the guest. The control socket does not know it.
func (c *Client) Guest(ctx context.Context) (*Guest, error) {
	if c.HTTP == "" {
		return nil, ErrNeedsHTTP
	}
	g := new(Guest)
	return g, c.request(ctx, "GET", guestPath, nil, g)
}
