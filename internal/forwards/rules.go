package forwards

import (
	"epiphyte/internal/pasta"
	"epiphyte/portfwd"
)

// Rules converts an effective table for package portfwd. freebind lets ports of the host
// listen on addresses that no interface has.
func Rules(effective pasta.Table, freebind bool) (publish []portfwd.Rule, expose []portfwd.Exposed) {
	for _, f := range effective {
		if f.Option.Out() {
			expose = append(expose, exposed(f))
		} else {
			r := published(f)
			r.Freebind = freebind && r.Host.IsValid()
			publish = append(publish, r)
		}
	}
	return publish, expose
}

func published(f pasta.Forward) portfwd.Rule {
	r := portfwd.Rule{
		Proto: f.Option.Proto(), Host: f.Addr, DualStack: !f.Addr.IsValid(), Device: f.Interface, HostPort: f.First,
		Guest: f.To, GuestPort: f.ToFirst, BestEffort: f.BestEffort, Auto: f.Auto,
	}
	if f.Last != f.First {
		r.HostPortEnd = f.Last
	}
	return r
}

func exposed(f pasta.Forward) portfwd.Exposed {
	e := portfwd.Exposed{
		Proto: f.Option.Proto(), Guest: f.Addr, Device: f.Interface, GuestPort: f.First,
		Host: f.To, HostPort: f.ToFirst, BestEffort: f.BestEffort, Auto: f.Auto,
	}
	if f.Last != f.First {
		e.GuestPortEnd = f.Last
	}
	return e
}
