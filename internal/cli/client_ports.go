package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"text/tabwriter"

	"epiphyte/internal/api"
	"epiphyte/portfwd"
)

// ports lists the published ports.
func (c *Client) ports(ctx context.Context, stdout io.Writer) error {
	ports, err := c.api.Ports(ctx)
	if err != nil {
		return err
	}
	return c.show(stdout, ports)
}

// show prints ports as a table or as JSON.
func (c *Client) show(stdout io.Writer, ports []api.Port) error {
	if c.json {
		return printJSON(stdout, struct {
			Ports []api.Port `json:"ports"`
		}{append([]api.Port{}, ports...)})
	}
	w := table(stdout)
	fmt.Fprintln(w, "ID\tPROTO\tHOST\tGUEST")
	for _, p := range ports {
		host, guest := strconv.Itoa(p.HostPort), strconv.Itoa(p.GuestPort)
		if p.HostPortEnd > p.HostPort {
			host += "-" + strconv.Itoa(p.HostPortEnd)
			guest += "-" + strconv.Itoa(p.GuestPort+p.HostPortEnd-p.HostPort)
		}
		if p.HostAddr == "" {
			p.HostAddr = netip.IPv4Unspecified().String()
		}
		if p.GuestAddr != "" {
			guest = net.JoinHostPort(p.GuestAddr, guest)
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\n", p.ID, p.Proto, net.JoinHostPort(p.HostAddr, host), guest)
	}
	return w.Flush()
}

// publish adds all rules, or none of them.
func (c *Client) publish(ctx context.Context, stdout io.Writer) error {
	var rules []portfwd.Rule
	for _, text := range c.operands {
		r, err := portfwd.Parse(text)
		if err != nil {
			return err
		}
		if c.guest != "" {
			if r.Guest, err = netip.ParseAddr(c.guest); err != nil {
				return fmt.Errorf("--guest: %q is not an IP address", c.guest)
			}
			if err := r.Validate(); err != nil {
				return c.about(text, err)
			}
		} else if c.member != nil {
			r.Guest = c.member.addressFor(r.Host)
		}
		rules = append(rules, r)
	}
	var done []api.Port
	for i, r := range rules {
		ports, err := c.api.Publish(ctx, r)
		if err != nil {
			err = c.about(c.operands[i], err)
			for _, p := range done {
				err = errors.Join(err, c.api.Unpublish(context.WithoutCancel(ctx), p.ID))
			}
			return err
		}
		done = append(done, ports...)
	}
	return c.show(stdout, done)
}

// about adds the operand to its error if there are several operands.
func (c *Client) about(operand string, err error) error {
	if len(c.operands) == 1 {
		return err
	}
	return fmt.Errorf("%s: %w", operand, err)
}

// unpublish removes rules by their ids. It continues after a failure.
func (c *Client) unpublish(ctx context.Context, _ io.Writer) error {
	var ids []int
	for _, text := range c.operands {
		id, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("%q is not an id; the ports command lists the ids", text)
		}
		ids = append(ids, id)
	}
	var failed []error
	for _, id := range ids {
		if err := c.api.Unpublish(ctx, id); err != nil {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

// table aligns columns separated by tabs.
func table(w io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(w, 0, 8, 2, ' ', 0) }
