package cli

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"epiphyte/portfwd"
	"epiphyte/tap"
)

// startAgent starts the agent that the direct path of published ports needs, and connections
// that leave the device; nil: they all go by the device. We may configure the namespace if we
// configure the device in it.
func (o *Options) startAgent(ctx context.Context, cfg tap.Config, r *reporter) (*tap.Agent, error) {
	if !o.wantsAgent(cfg) {
		return nil, nil
	}
	must := o.PublishMode == portfwd.DirectOnly
	if must && cfg.Target.FD > 0 {
		return nil, errors.New("--publish-mode=direct: a TAP file descriptor does not tell which namespace it is of")
	}
	ac := tap.AgentConfig{
		Target: cfg.Target, Datagrams: o.splices(), NoStreams: !o.takesDirectPath(cfg), Carries: o.carries(cfg),
		Unconfined: o.Unconfined, Logger: r.log,
	}
	if configures(cfg) && (ac.Carries || !ac.NoStreams) {
		ac.Subnet4, ac.Gateway4 = o.Plan.Prefix, o.Plan.Gateway
		ac.Subnet6, ac.Gateway6 = o.Plan.Prefix6, o.Plan.Gateway6
		if o.Plan.Outside { // the namespace has no other address of it
			ac.Subnet4, ac.Subnet6 = single(o.Plan.Guest), single(o.Plan.Guest6)
		}
	}
	a, err := tap.StartAgent(ctx, ac)
	if err == nil || must {
		return a, err
	}
	r.log.Warn("published ports and bulk go by the TAP only", "error", err)
	return nil, nil
}

// configures reports whether we set the guest's addresses and routes.
func configures(cfg tap.Config) bool { return cfg.Configure != nil && !cfg.Configure.LinkDown }

// single is the prefix of one address; it is invalid if the address is.
func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// wantsAgent reports whether sockets of the guest's namespace are needed later: for published
// ports, for exposed ones, or for connections that leave the device.
func (o *Options) wantsAgent(cfg tap.Config) bool {
	return o.carries(cfg) || o.takesDirectPath(cfg) || cfg.Target.FD == 0 && (o.LivePorts || o.exposesLater() || o.splices())
}

// takesDirectPath reports whether clients of published TCP ports may get sockets of the
// guest's namespace. Where servers would not see the clients' addresses, ports take the direct
// path only if asked to, or if their clients are to appear as the guest itself.
func (o *Options) takesDirectPath(cfg tap.Config) bool {
	switch o.PublishMode {
	case portfwd.StackOnly:
		return false
	case portfwd.Auto:
		if !configures(cfg) && !o.Splice || cfg.Target.FD > 0 {
			return false
		}
	}
	return o.mayPublishTCP()
}

// splices reports whether clients of the host's loopback may come to published ports that let
// them in as the guest itself, by UDP as well.
func (o *Options) splices() bool {
	return o.Splice && o.PublishMode != portfwd.StackOnly && (o.LivePorts || slices.ContainsFunc(o.Publish, takesLoopback))
}

// takesLoopback reports whether a port may have clients of the host's loopback.
func takesLoopback(r portfwd.Rule) bool {
	return (r.Device == "" || r.Device == "lo") && (!r.Host.IsValid() || r.Host.IsUnspecified() || r.Host.IsLoopback())
}

// mayPublishTCP reports whether TCP ports are published, or may be later.
func (o *Options) mayPublishTCP() bool {
	return o.APISocket != "" || o.HTTPSocket != "" || o.LivePorts || o.publishesTCP()
}

// exposesLater reports whether ports are exposed once their servers appear.
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

// isAgent reports whether pid is the guest's agent.
func (n *guestNetwork) isAgent(pid int) bool {
	return n != nil && n.agent != nil && n.agent.Process() != nil && n.agent.Process().Pid == pid
}

func closeAgent(a *tap.Agent) {
	if a != nil {
		a.Close()
	}
}
