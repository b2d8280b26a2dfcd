package cli

import (
	"os"

	"epiphyte/internal/egress"
	"epiphyte/internal/network"
)

// memberPolicy is a member's policy in the form that its network takes over.
type memberPolicy struct {
	name   string // for people
	sealed *os.File
	record *os.File // nil: its flows are not recorded
}

func (p *memberPolicy) close() {
	if p == nil {
		return
	}
	p.sealed.Close()
	if p.record != nil {
		p.record.Close()
	}
}

// takePolicies reads the policy of a guest for each of its networks.
func takePolicies(members []*member, o *PolicyOptions) error {
	for _, m := range members {
		if err := m.takePolicy(*o); err != nil {
			return err
		}
	}
	return nil
}

// takePolicy reads the member's policy: its own, else the environment's, else the network's
// default.
func (m *member) takePolicy(o PolicyOptions) error {
	o.takeEnvironment()
	if !o.active() {
		o.File = m.info.Policy
	}
	if err := o.check(); err != nil {
		return err
	}
	sources, err := o.ofMember()
	if err != nil || sources == nil {
		return err
	}
	p := &memberPolicy{name: sources[0].File}
	if p.sealed, err = network.SealPolicy(sources); err != nil {
		return err
	}
	m.policy = p
	p.record, err = o.openRecord()
	return err
}

// ofMember returns the texts of the policy, after checking that a member can have it.
func (o PolicyOptions) ofMember() ([]egress.Source, error) {
	sources, err := o.sources()
	if err != nil {
		return nil, err
	}
	p, err := egress.Parse(sources...)
	if err == nil {
		err = network.CheckPolicy(p)
	}
	return sources, err
}

// checkMember checks the policy of the options or the environment, before a network is
// started for it.
func (o PolicyOptions) checkMember() error {
	o.takeEnvironment()
	_, err := o.ofMember()
	return err
}
