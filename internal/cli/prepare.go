package cli

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"epiphyte/internal/api"
	"epiphyte/internal/egress"
	"epiphyte/internal/flowlog"
	"epiphyte/internal/pcap"
	"epiphyte/portfwd"
)

// prepared is what a guest's network has on the host: its policy, ports, sockets and files.
// They are opened before anything is made for the guest, so that a wrong one leaves nothing
// half done. startNetwork takes them over; close closes what it has not taken.
type prepared struct {
	rules   *egress.Policy // nil: none
	records *flowlog.Log   // nil: none
	ports   *ports
	capture *os.File // of --pcap; nil: none
	sockets []controlSocket
}

// controlSocket is one that an option names, and what it speaks.
type controlSocket struct {
	*api.Socket
	serve func(*api.Socket, api.Config) *api.Server
}

// prepare opens all of it, or nothing.
func (o *Options) prepare(ctx context.Context, r *reporter) (_ *prepared, err error) {
	p := &prepared{ports: new(ports)}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if p.rules, err = o.Policy.load(); err != nil {
		return nil, err
	}
	if p.ports.bound, err = portfwd.Bind(ctx, o.Plan, o.Publish); err != nil {
		return nil, err
	}
	for _, s := range [...]struct {
		path  string
		serve func(*api.Socket, api.Config) *api.Server
	}{{o.APISocket, (*api.Socket).Control}, {o.HTTPSocket, (*api.Socket).HTTP}, {o.ConfSocket, (*api.Socket).HTTP}} {
		if s.path == "" {
			continue
		}
		socket, err := api.Listen(ctx, s.path)
		if err != nil {
			return nil, elsewhere(err)
		}
		p.sockets = append(p.sockets, controlSocket{socket, s.serve})
	}
	if p.records, err = o.Policy.openLog(r.log); err != nil {
		return nil, elsewhere(err)
	}
	if o.Pcap != "" { // last, because it empties the file
		p.capture, err = pcap.Open(o.Pcap)
	}
	return p, elsewhere(err)
}

// elsewhere adds what to do about the path of a file that cannot be made there.
func elsewhere(err error) error {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf("%w: make its directory first, or choose another path", err)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EROFS):
		return fmt.Errorf("%w: choose a path where you may write", err)
	}
	return err
}

// close closes what was not taken over.
func (p *prepared) close() {
	p.ports.close()
	for _, s := range p.sockets {
		s.Close()
	}
	p.records.Close()
	p.capture.Close()
}
