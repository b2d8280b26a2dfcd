package cli

import (
	"os"

	"epiphyte/internal/sandbox"
)

// unconfined is the warning about --sandbox=off.
const unconfined = "WARNING: --sandbox=off leaves the program all rights of its user; it is for debugging"

// confine gives up what serving does not need. command is the child to which signals
// are passed on, nil if there is none.
func (o *Options) confine(n *guestNetwork, command *os.Process, r *reporter) error {
	return giveUp(n.threads, func() error {
		if o.Unconfined {
			return nil
		}
		return sandbox.Confine(o.sandbox(n, command, r))
	})
}

// giveUp ends a start: it gives up rights once all threads exist, and then memory.
func giveUp(threads <-chan struct{}, confine func() error) error {
	<-threads
	release := releaseLater()
	if err := confine(); err != nil {
		return err
	}
	release()
	return nil
}

// sandbox says what serving needs.
func (o *Options) sandbox(n *guestNetwork, command *os.Process, r *reporter) sandbox.Config {
	cfg := sandbox.Config{
		RequireFiles: o.RequireFiles,
		RequireCalls: o.RequireCalls,
		Overwrite:    r.file != nil,
		User:         o.User,
		Logger:       r.log,
	}
	if !o.DisableDNS {
		cfg.Read = append(cfg.Read, o.ResolvConf)
	}
	cfg.Connect = n.sockets
	if o.Policy.File != "" {
		cfg.Read = append(cfg.Read, o.Policy.File) // again, when asked to
	}
	for _, path := range [...]string{o.APISocket, o.HTTPSocket, o.ConfSocket} {
		if path != "" {
			cfg.Remove = append(cfg.Remove, path)
			cfg.Interfaces = true // a port may be published on one at any time
		}
	}
	if n.found != "" {
		cfg.Remove = append(cfg.Remove, n.found)
		cfg.Interfaces = true
	}
	if n.forwards != nil && n.forwards.Dir() != "" {
		cfg.Own = append(cfg.Own, n.forwards.Dir())
	}
	cfg.Interfaces = cfg.Interfaces || o.Source.ByInterface()
	if command != nil {
		cfg.Children = append(cfg.Children, command)
	}
	if n.agent != nil && n.agent.Process() != nil {
		cfg.Children = append(cfg.Children, n.agent.Process())
	}
	return cfg
}
