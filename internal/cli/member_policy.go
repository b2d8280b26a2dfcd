package cli

import (
	"os"

	"epiphyte/internal/egress"
	"epiphyte/internal/network"
)

// memberPolicy is what a member may reach, as its network takes it over.
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

// takePolicy reads the member's policy: its own, or else the environment's, or else the one
// that its network has for members without.
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

// ofMember is the texts of a policy that a member can have.
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

// checkMember is the error of a policy of the options or the environment, before a network
// is started for it.
func (o PolicyOptions) checkMember() error {
	o.takeEnvironment()
	_, err := o.ofMember()
	return err
}
