package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/vishvananda/netlink"

	"epiphyte/internal/api"
	"epiphyte/test/harness"
)

// ended is how long after the load everything may take to end: what waits for a peer
// that vanished does so for a minute.
const ended = 90 * time.Second

// released is when the memory of closed connections has been given back.
const released = 10 * time.Second

// world is what a run is made of.
type world struct {
	env     *harness.Env
	servers *servers
	sites   []*site
}

func newWorld(ctx context.Context, e *harness.Env) (_ *world, err error) {
	w := &world{env: e, servers: &servers{ledger: newLedger()}}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	for _, cidr := range spare() {
		if err := changeAddress(e.Host, "up0", cidr, netlink.AddrAdd); err != nil {
			return nil, err
		}
	}
	// What is dialled in vain ends within seconds, not minutes.
	if err := e.Host.Sysctl("net/ipv4/tcp_syn_retries", "2"); err != nil {
		return nil, err
	}
	if err := errors.Join(
		w.servers.streams(e.Net.Net, at("0.0.0.0", netPort), at("::", netPort)),
		w.servers.streams(e.Host, at("127.0.0.1", hostPort), at("::1", hostPort)),
		w.servers.datagrams(e.Net.Net, at(harness.NetIPv4, netPort), at(harness.NetIPv6, netPort)),
		w.servers.datagrams(e.Host, at("127.0.0.1", hostPort), at("::1", hostPort)),
		w.servers.names(e.Net.Net)); err != nil {
		return nil, err
	}
	for i, site := range []struct {
		name    string
		options []string
	}{
		{"helper", []string{"--publish-mode=direct"}},
		{"helper with two queues", []string{"--publish-mode=stack", "--queues=2"}},
	} {
		s, err := newSite(ctx, e, w.servers, site.name, 18000+portsOfASite*i, site.options...)
		if err != nil {
			return nil, err
		}
		w.sites = append(w.sites, s)
	}
	return w, nil
}

func (w *world) close() {
	for _, s := range w.sites {
		s.close()
	}
	w.servers.close()
}

// jobs of a site; what concerns the network as a whole is the first site's.
func (w *world) jobs(i int) (list []job, err error) {
	s, e := w.sites[i], w.env
	routes := s.routes(e)
	for _, r := range routes {
		list = append(list, s.streamJob(r))
	}
	for _, r := range []route{routes[0], routes[4], routes[8]} { // out, published, exposed
		list = append(list, s.shortJob(r), s.burstJob(r))
	}
	guest := s.guest.NetNS
	published := s.first + publishedUDP
	list = append(list,
		s.deadEndJob(),
		datagramJob("UDP out", guest, guestIPv4, 20000, at(harness.NetIPv4, netPort)),
		datagramJob("UDP out", guest, guestIPv6, 20000, at(harness.NetIPv6, netPort)),
		datagramJob("UDP to the host's loopback", guest, guestIPv4, 20100, at(gatewayIPv4, hostPort)),
		datagramJob("UDP to the host's loopback", guest, guestIPv6, 20100, at(gatewayIPv6, hostPort)),
		datagramJob("UDP published", e.Net.Net, harness.NetIPv4, s.first, at(harness.HostIPv4, published)),
		datagramJob("UDP published", e.Net.Net, harness.NetIPv6, s.first, at(harness.HostIPv6, published)),
		s.nameJob("udp", dnsIPv4), s.nameJob("udp", dnsIPv6), s.nameJob("tcp", dnsIPv4), s.nameJob("tcp", dnsIPv6),
		s.resolverJob(), s.portJob(e))
	for _, to := range []string{harness.NetIPv4, harness.NetIPv6, gatewayIPv4, dnsIPv6} {
		j, err := s.pingJob(to)
		if err != nil {
			return nil, err
		}
		list = append(list, j)
	}
	if i == 0 {
		list = append(list, s.moveJob(e), sourceJob(e))
	}
	return list, nil
}

// result is what a run hands on to whoever reports it.
type result struct {
	options
	*tally
	processes []*process
}

// soak is one run, which ends early when ctx does or too much is wrong.
func soak(ctx context.Context, e *harness.Env, o options, log io.Writer) (*result, error) {
	w, err := newWorld(ctx, e)
	if err != nil {
		return nil, err
	}
	defer w.close()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	load, enough := context.WithTimeout(ctx, o.length)
	defer enough()
	r := &result{options: o, tally: &tally{log: log, begin: time.Now(), enough: enough, counts: map[string]*count{}}}
	for _, s := range w.sites {
		r.processes = append(r.processes, s.processes...)
	}
	var wg sync.WaitGroup
	for i, s := range w.sites {
		jobs, err := w.jobs(i)
		if err != nil {
			return nil, err
		}
		for number, j := range jobs {
			wg.Go(func() { r.repeat(load, j, o.seed, s.name, number) })
		}
	}
	err = watch(load, r.processes, func(second int) {
		if second%10 == 0 {
			r.progress()
		}
	})
	enough() // a process has gone
	wg.Wait()
	if err != nil {
		return nil, errors.Join(err, w.said())
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	for _, p := range r.processes {
		for _, text := range p.level() {
			r.fault(text)
		}
	}
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-time.After(released):
	}
	for _, text := range w.settle() {
		r.fault(text)
	}
	if len(r.wrong()) > 0 {
		return r, w.said()
	}
	return r, nil
}

// settle waits until everything has ended, and says what has not.
func (w *world) settle() (faults []string) {
	err := harness.Eventually(ended, func() error {
		faults = nil
		for _, s := range w.sites {
			left, err := s.left()
			if err != nil {
				return err
			}
			faults = append(faults, left...)
		}
		if len(faults) > 0 {
			return errors.New("not yet")
		}
		return nil
	})
	if err != nil && len(faults) == 0 {
		faults = append(faults, err.Error())
	}
	return faults
}

// left says what a site holds that it did not before the load.
func (s *site) left() (faults []string, err error) {
	f, err := s.flows()
	if err != nil {
		return nil, err
	}
	if f.TCP > 0 || f.Connecting > 0 {
		faults = append(faults, fmt.Sprintf("%s: flows are left: %+v", s.name, f))
	}
	for _, p := range s.processes {
		if p.after, err = p.now(); err != nil {
			return nil, err
		}
		faults = append(faults, p.back(f.Mapping)...)
	}
	return faults, nil
}

// flows counts what is under way, by kind.
type flows struct{ Connecting, TCP, Mapping, Session int }

func (s *site) flows() (f flows, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	text, err := s.api.Document(ctx, api.StatsDocument)
	if err != nil {
		return f, err
	}
	return f, json.Unmarshal(text, &struct{ Flows *flows }{&f})
}

// said is what the helpers have logged, which explains at times what went wrong.
func (w *world) said() error {
	var all []error
	for _, s := range w.sites {
		all = append(all, fmt.Errorf("%s said: %s", s.name, s.helper.Stderr))
	}
	return errors.Join(all...)
}

// replace writes a file anew.
func replace(f *os.File, text string) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt([]byte(text), 0)
	return errors.Join(err, f.Close())
}
