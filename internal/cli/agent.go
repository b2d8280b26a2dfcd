package cli

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"epiphyte/portfwd"
	"epiphyte/tap"
)

// startAgent starts what the direct path of published ports needs, nil when
// that path will not be taken. The namespace is ours to configure when the
// device in it is.
func (o *Options) startAgent(ctx context.Context, cfg tap.Config, r *reporter) (*tap.Agent, error) {
	if !o.wantsAgent(cfg) {
		return nil, nil
	}
	must := o.PublishMode == portfwd.DirectOnly
	if must && cfg.Target.FD > 0 {
		return nil, errors.New("--publish-mode=direct: a TAP file descriptor does not tell which namespace it is of")
	}
	ac := tap.AgentConfig{Target: cfg.Target, Datagrams: o.Splice, Unconfined: o.Unconfined, Logger: r.log}
	if configures(cfg) {
		ac.Subnet4, ac.Gateway4 = o.Plan.Prefix, o.Plan.Gateway
		ac.Subnet6, ac.Gateway6 = o.Plan.Prefix6, o.Plan.Gateway6
		if o.Plan.Outside { // nobody else of it is in the namespace
			ac.Subnet4, ac.Subnet6 = single(o.Plan.Guest), single(o.Plan.Guest6)
		}
	}
	a, err := tap.StartAgent(ctx, ac)
	if err == nil || must {
		return a, err
	}
	r.log.Warn("published ports go by the TAP only", "error", err)
	return nil, nil
}

// configures reports whether the guest's addresses and routes are ours to set.
func configures(cfg tap.Config) bool { return cfg.Configure != nil && !cfg.Configure.LinkDown }

// single is the prefix of one address, not valid if that is not.
func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// wantsAgent reports whether sockets of the guest's namespace are needed later: because
// TCP ports may be published by the direct path, or ports be exposed. Where servers would
// not see the clients' addresses, only those take the direct path who asked for it, or
// whose clients are to be seen as the guest itself.
func (o *Options) wantsAgent(cfg tap.Config) bool {
	if cfg.Target.FD == 0 && (o.LivePorts || o.exposesLater()) {
		return true
	}
	switch o.PublishMode {
	case portfwd.StackOnly:
		return false
	case portfwd.Auto:
		if !configures(cfg) && !o.Splice || cfg.Target.FD > 0 {
			return false
		}
	}
	return o.APISocket != "" || o.HTTPSocket != "" || o.publishesTCP() || o.Splice && len(o.Publish) > 0
}

// exposesLater reports whether ports are exposed when their servers come.
func (o *Options) exposesLater() bool {
	return slices.ContainsFunc(o.Expose, func(e portfwd.Exposed) bool { return e.Auto })
}

func (o *Options) publishesTCP() bool {
	for _, rule := range o.Publish {
		if rule.Proto != portfwd.UDP {
			return true
		}
	}
	return false
}

// isAgent reports whether a child of ours is the guest's agent.
func (n *guestNetwork) isAgent(pid int) bool {
	return n != nil && n.agent != nil && n.agent.Process() != nil && n.agent.Process().Pid == pid
}

func closeAgent(a *tap.Agent) {
	if a != nil {
		a.Close()
	}
}
