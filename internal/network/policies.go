package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"epiphyte/internal/egress"
	"epiphyte/internal/flowlog"
)

// A member's policy travels as a descriptor, as its TAP does: it may be longer than a
// message, and the keeper holds it without reading it.

// SealPolicy is the sources of a policy in a file in memory that nobody can change.
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

// maxPolicy bounds what is read of a policy, in bytes: JSON writes some characters of its
// text as six.
const maxPolicy = 6*egress.MaxText + 1<<20

// readPolicy compiles what SealPolicy has made.
func readPolicy(fd int) (*egress.Policy, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size > maxPolicy {
		return nil, errors.New("its policy is not one that was handed over")
	}
	b := make([]byte, st.Size)
	n, err := unix.Pread(fd, b, 0) // whoever else has it reads as well
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

// CheckPolicy is the error of a policy that would not be applied whole to a member: what
// neighbours say to each other passes no policy.
func CheckPolicy(p *egress.Policy) error {
	if r := p.DeniesMembers(); r != nil {
		return fmt.Errorf("%s: neighbours are not kept apart by a policy, but by epiphyte network create --isolate", r.Where())
	}
	if len(p.Sockets()) > 0 {
		return fmt.Errorf("via unix:%s: a network's process reaches no sockets of files; socks5://127.0.0.1:PORT does", p.Sockets()[0])
	}
	return nil
}

// readPolicy reads what the member has brought: a policy, and where its flows are recorded.
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
