package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/api"
	"epiphyte/internal/bridge"
	"epiphyte/internal/bypass"
	"epiphyte/internal/egress"
	"epiphyte/internal/flow"
	"epiphyte/internal/flowlog"
	"epiphyte/internal/names"
	"epiphyte/internal/pcap"
	"epiphyte/internal/repair"
	"epiphyte/internal/shard"
	"epiphyte/portfwd"
	"epiphyte/tap"
)

// membership is a member of the network with its resources.
type membership struct {
	Member
	mac     [6]byte
	device  *tap.Device
	agent   *tap.Agent // makes sockets in its namespaces; nil: none
	port    *bridge.Port
	kernel  *repair.Kernel // nil: its connections stay on the bridge
	carrier *bypass.Member // set with kernel
	asked   bool           // for an agent
	outbox  outbox
	parted  bool // it is being disconnected
	guest   *flow.Guest
	conn    *net.UnixConn // over which it joined; nil: it is detached
	process *shard.Watch  // for the end of a detached member's process; nil: none
	pidfd   int
	policy  *egress.Policy // nil: none
	record  *flowlog.Log   // nil: its flows are not recorded
	kept    bool           // the keeper has it, too
	settled chan struct{}  // closed when join has succeeded or failed
	left    chan struct{}  // closed when nothing of it is left

	// Guarded by Worker.mu, as Member is:
	joined  bool // it is a member
	leaving bool // leave has begun
	told    bool // its client has the reply to its join
}

// Errors of join.
var (
	errEnding   = errors.New("the network is about to end")
	errInternal = errors.New("ports of an internal network cannot be published: it has no way in, either")
	errFull     = errors.New("the network has no address left: give it a larger subnet (epiphyte network create --subnet)")
)

// join makes a member of the descriptors in with, which stay the caller's. Unless the member
// is detached, it leaves when its client's connection conn ends. kept says that the keeper
// has it already.
func (w *Worker) join(ctx context.Context, wish Member, with descriptors, conn *net.UnixConn, kept bool) (_ *membership, err error) {
	m := &membership{
		Member: wish, guest: &flow.Guest{}, kept: kept, told: kept,
		settled: make(chan struct{}), left: make(chan struct{}),
	}
	if !m.Detached {
		m.conn = conn
	}
	if err := w.reserve(ctx, m); err != nil {
		return nil, fmt.Errorf("join network %s: %w", w.def.Name, err)
	}
	err = w.admit(ctx, m, with)
	w.mu.Lock()
	m.joined = err == nil
	w.mu.Unlock()
	close(m.settled)
	if err != nil {
		w.leave(m)
		return nil, fmt.Errorf("join network %s: %w", w.def.Name, err)
	}
	w.cfg.Logger.Info("member has joined", "member", m.Name, "ipv4", m.IPv4, "ipv6", m.IPv6)
	return m, nil
}

// admit puts a member that has its reservation into service. If it fails, leave undoes what
// it has done.
func (w *Worker) admit(ctx context.Context, m *membership, with descriptors) (err error) {
	tun, ok := with[roleTAP]
	if !ok {
		return errors.New("a TAP is missing")
	}
	if m.device, err = tap.Open(ctx, tap.Config{Target: tap.Target{FD: tun}, Logger: w.cfg.Logger}); err != nil {
		return err
	}
	if m.agent, err = w.adoptAgent(m, with); err != nil {
		return err
	}
	if err := m.readPolicy(w, with); err != nil {
		return err
	}
	if !w.on(func() { w.introduce(m) }) {
		return errEnding
	}
	if err := w.publish(ctx, m); err != nil {
		return err
	}
	if !w.on(func() { err = w.connect(m, with) }) {
		return errEnding
	}
	if err != nil || m.kept {
		return err
	}
	m.kept = true
	if err := w.keep(m, with); err != nil {
		return fmt.Errorf("tell the keeper: %w", err)
	}
	return nil
}

// adoptAgent takes over the agent of a member that has one.
func (w *Worker) adoptAgent(m *membership, with descriptors) (*tap.Agent, error) {
	fd, ok := with[roleAgent]
	if !ok {
		return nil, nil
	}
	return tap.AdoptAgent(tap.AdoptConfig{
		FD: fd, Transparent4: m.Transparent4, Transparent6: m.Transparent6, NoStreams: m.NoStreams,
		Logger: w.cfg.Logger.With("member", m.Name),
	})
}

// publish binds the ports that the member asks for, all or none.
func (w *Worker) publish(ctx context.Context, m *membership) error {
	if len(m.Publish) > 0 && w.def.Internal {
		return errInternal
	}
	granted, err := m.addPorts(ctx, w.guest.Ports(), m.Publish)
	w.mu.Lock()
	m.Publish = granted // as Remove will look for them
	w.mu.Unlock()
	return err
}

// addPorts adds rules of the member, all or none, and returns them as they are in force.
func (m *membership) addPorts(ctx context.Context, ports api.Ports, texts []string) (granted []string, err error) {
	var added []int
	defer func() {
		if err != nil {
			for _, id := range added {
				ports.Remove(id)
			}
		}
	}()
	for _, text := range texts {
		rule, err := portfwd.Parse(text)
		if err != nil {
			return nil, err
		}
		rule.Guest = m.addressFor(rule.Host)
		e, err := ports.Add(ctx, rule)
		if err != nil {
			return nil, err
		}
		added, granted = append(added, e.ID), append(granted, e.Rule.String())
	}
	return granted, nil
}

// addressFor returns where clients of a host's address go: the member's address of the same
// family, if it has one.
func (m *membership) addressFor(host netip.Addr) netip.Addr {
	if host.Is6() && m.IPv6.IsValid() {
		return m.IPv6
	}
	return m.IPv4
}

// has reports whether an address is the member's.
func (m *membership) has(a netip.Addr) bool { return a.IsValid() && (a == m.IPv4 || a == m.IPv6) }

// introduce records whose the member's addresses are, and puts its policy in force: clients
// of its ports may come before it is on the bridge. Shard's thread.
func (w *Worker) introduce(m *membership) {
	for _, a := range m.addresses() {
		w.guests[a] = m.guest
	}
	if m.policy != nil {
		w.guest.SetMemberPolicy(m.guest, m.policy, m.record.Func())
	}
}

// connect puts the member onto the bridge, and watches its process if known. Shard's thread.
func (w *Worker) connect(m *membership, with descriptors) (err error) {
	if process, known := with[roleProcess]; known && m.Detached {
		if err := w.watchProcess(m, process); err != nil {
			return err
		}
	}
	if m.agent != nil {
		if err := m.agent.Attach(w.shard); err != nil {
			return err
		}
		if m.kept {
			m.agent.DropHolds()
		}
	}
	m.port, err = w.bridge.Add(w.frames.Device(m.device, pcap.FromGuest), bridge.Address{MAC: m.mac, IPv4: m.IPv4, IPv6: m.IPv6})
	if err != nil {
		return err
	}
	for _, a := range m.addresses() {
		w.byAddress[a] = m
	}
	w.leases[m.mac] = m.IPv4
	w.names.Add(m.ID, m.named())
	return nil
}

// named returns the member as an entry for tables of names.
func (m *Member) named() names.Member {
	return names.Member{Name: m.Name, Aliases: m.Aliases, Hostname: m.Hostname, Addrs: m.addresses()}
}

func (m *Member) addresses() []netip.Addr {
	if m.IPv6.IsValid() {
		return []netip.Addr{m.IPv4, m.IPv6}
	}
	return []netip.Addr{m.IPv4}
}

// leave takes a member off the network, once its join has succeeded or failed, and returns
// when nothing of it is left: another may have its names and addresses then. It reports
// whether this was the first call.
func (w *Worker) leave(m *membership) (first bool) {
	<-m.settled
	w.mu.Lock()
	first = !m.leaving
	m.leaving, m.joined = true, false
	dropped := make(chan struct{})
	if first && m.kept {
		w.dropping[m.ID] = dropped
	}
	w.mu.Unlock()
	if !first {
		<-m.left
		return false
	}
	defer close(m.left)
	for _, e := range w.guest.Ports().List() {
		if m.has(e.Rule.Guest) {
			w.guest.Ports().Remove(e.ID)
		}
	}
	if w.on(func() { w.disconnect(m) }) {
		m.record.Close() // else the guest still uses it, and Close closes it
	}
	if m.device != nil {
		m.device.Close()
	}
	if m.kept {
		w.tell(order{Op: opDrop, ID: m.ID})
		select {
		case <-dropped:
		case <-time.After(otherPatience):
		case <-w.served:
		}
		w.cfg.Logger.Info("member has left", "member", m.Name)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.dropping, m.ID)
	delete(w.members, m.ID)
	if !w.ending {
		w.idle.Reset(linger)
	}
	return true
}

// disconnect undoes connect, and ends the member's flows: its address may be another's
// soon. Shard's thread.
func (w *Worker) disconnect(m *membership) {
	w.stopCarrying(m)
	if m.process != nil {
		m.process.Close() // explicitly: the keeper has a copy of the descriptor
		unix.Close(m.pidfd)
	}
	w.guest.EndFlows(m.guest) // sends resets, so while frames still reach the member
	if m.agent != nil {
		m.agent.Close() // after what it has routed has ended
	}
	w.guest.SetMemberPolicy(m.guest, nil, nil)
	for _, a := range m.addresses() {
		if w.guests[a] == m.guest {
			delete(w.guests, a)
		}
	}
	if m.port == nil {
		return
	}
	w.bridge.Remove(m.port)
	w.names.Remove(m.ID)
	delete(w.leases, m.mac)
	for _, a := range m.addresses() {
		delete(w.byAddress, a)
	}
}

// expel removes a member that has not asked to leave, and tells its client.
func (w *Worker) expel(m *membership) {
	if w.leave(m) && m.conn != nil {
		w.sendUnaskedNow(m, reply{Removed: true})
	}
}

// portGone is called when a TAP was deleted in its namespace. Shard's thread.
func (w *Worker) portGone(p *bridge.Port) {
	gone := w.byAddress[p.Address().IPv4]
	w.cfg.Logger.Warn("the interface of a member was deleted", "member", gone.Name)
	w.tasks.Go(func() { w.expel(gone) })
}
