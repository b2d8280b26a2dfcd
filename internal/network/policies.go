package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"epiphyte/internal/egress"
	"epiphyte/internal/flowlog"
	"epiphyte/internal/gate"
)

// A member's policy travels as a descriptor, as its TAP does: it may be longer than a
// message, and the keeper holds it without reading it.

// SealPolicy puts the sources of a policy into a memory file that nobody can change.
func SealPolicy(sources []egress.Source) (*os.File, error) {
	b, err := json.Marshal(sources)
	if err != nil {
		return nil, fmt.Errorf("hand over policy: %w", err)
	}
	fd, err := unix.MemfdCreate("policy", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("hand over policy: %w", err)
	}
	f := os.NewFile(uintptr(fd), "policy")
	if _, err = f.Write(b); err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("hand over policy: %w", err)
	}
	return f, nil
}

// maxPolicy bounds what is read of a policy, in bytes: JSON writes some characters as six.
const maxPolicy = 6*egress.MaxText + 1<<20

// readPolicy compiles a file from SealPolicy.
func readPolicy(fd int) (*egress.Policy, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size > maxPolicy {
		return nil, errors.New("its policy is not one that was handed over")
	}
	b := make([]byte, st.Size)
	n, err := unix.Pread(fd, b, 0) // the offset is shared with other readers
	if err != nil {
		return nil, fmt.Errorf("read its policy: %w", err)
	}
	var sources []egress.Source
	if err := json.Unmarshal(b[:n], &sources); err != nil {
		return nil, fmt.Errorf("read its policy: %w", err)
	}
	p, err := egress.Parse(sources...)
	if err == nil {
		err = CheckPolicy(p)
	}
	return p, err
}

// CheckPolicy returns an error for a policy that cannot be applied as a whole to a member:
// traffic between neighbours passes no policy.
func CheckPolicy(p *egress.Policy) error {
	if r := p.DeniesMembers(); r != nil {
		return fmt.Errorf("%s: neighbours are not kept apart by a policy, but by epiphyte network create --isolate", r.Where())
	}
	if len(p.Sockets()) > 0 {
		return fmt.Errorf("via unix:%s: a network's process reaches no sockets of files; socks5://127.0.0.1:PORT does", p.Sockets()[0])
	}
	return nil
}

// readPolicy reads the policy that came with the member, and opens the record of its flows.
func (m *membership) readPolicy(w *Worker, with descriptors) (err error) {
	fd, ok := with[rolePolicy]
	if !ok {
		if m.Policy != "" {
			return errors.New("its policy is missing")
		}
		return nil
	}
	if m.policy, err = readPolicy(fd); err != nil {
		return err
	}
	fd, ok = with[roleRecord]
	if !ok {
		return nil
	}
	if fd, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		return fmt.Errorf("record its flows: %w", advised(err))
	}
	m.record = flowlog.New(os.NewFile(uintptr(fd), "record"), w.cfg.Logger.With("member", m.Name))
	return nil
}

// changePolicy replaces a member's policy. The keeper and the member's process, which may
// have it join again, get the new one before it is in force, so that no later worker ever
// serves the member under the old one.
func (w *Worker) changePolicy(m *membership, req *request, fds []int) error {
	with, err := assign(req.Roles, fds)
	if err != nil {
		return err
	}
	fd, ok := with[rolePolicy]
	if !ok || req.Policy == "" {
		return errors.New("a policy is missing")
	}
	p, err := readPolicy(fd)
	if err != nil {
		return err
	}
	w.changing.Lock()
	defer w.changing.Unlock()
	if err := w.passPolicy(m, req.Policy, fd); err != nil {
		return err
	}
	if err := w.tell(order{Op: opPolicy, ID: m.ID, Text: req.Policy, Roles: []role{rolePolicy}}, fd); err != nil {
		return fmt.Errorf("tell the keeper: %w", err)
	}
	if !w.on(func() { w.applyPolicy(m, p) }) {
		return errEnding
	}
	w.cfg.Logger.Info("member has another policy", "member", m.Name, "policy", req.Policy)
	return nil
}

// passPolicy sends the policy to the member's process, and records its name.
func (w *Worker) passPolicy(m *membership, name string, fd int) error {
	w.mu.Lock()
	told, takes := m.told, m.TakesPolicy
	w.mu.Unlock()
	switch {
	case !told:
		return fmt.Errorf("%s is about to join: try again", m.Name)
	case m.conn == nil:
	case !takes:
		return fmt.Errorf("the process of %s is older than the network's, and would join with its first policy again: start it anew", m.Name)
	default:
		if err := w.sendUnaskedNow(m, reply{Policy: name}, fd); err != nil {
			return fmt.Errorf("tell the process of %s: %w", m.Name, err)
		}
	}
	w.mu.Lock()
	m.Policy = name
	w.mu.Unlock()
	return nil
}

// applyPolicy puts a policy in force, unless the member has left. Shard's thread.
func (w *Worker) applyPolicy(m *membership, p *egress.Policy) {
	if w.byAddress[m.IPv4] == m {
		w.guest.SetMemberPolicy(m.guest, p, m.record.Func())
	}
}

// MemberPolicies calls each for every member that has a policy, in the order of addresses,
// with the counts of what it has decided.
func (w *Worker) MemberPolicies(each func(name string, p *egress.Policy, counts gate.Counts)) {
	for _, m := range w.list() {
		if p, counts := w.guest.MemberPolicy(m.guest); p != nil {
			each(m.Name, p, counts)
		}
	}
}

// MemberPolicy returns the policy of the member with the id or name who; empty: of the only
// one.
func (w *Worker) MemberPolicy(who string) (p *egress.Policy, counts gate.Counts, err error) {
	m, err := w.asked(who)
	if err != nil {
		return nil, counts, fmt.Errorf("network %s: %w", w.def.Name, err)
	}
	if p, counts = w.guest.MemberPolicy(m.guest); p == nil {
		err = fmt.Errorf("network %s: %s has no policy", w.def.Name, m.Name)
	}
	return p, counts, err
}
