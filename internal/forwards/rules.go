package forwards

import (
	"slices"

	"epiphyte/internal/pasta"
	"epiphyte/portfwd"
)

// Rules are the effective ports of a table as package portfwd serves them. freebind lets
// the host's listen on addresses that no interface has.
func Rules(t pasta.Table, freebind bool) (publish []portfwd.Rule, expose []portfwd.Exposed) {
	for _, f := range t.Effective() {
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

// difference is what leads from one table to another.
func difference(from, to pasta.Table, freebind bool) portfwd.Change {
	c := portfwd.Change{Lenient: true} // a rule may have been removed by its number
	oldPublish, oldExpose := Rules(from, freebind)
	publish, expose := Rules(to, freebind)
	c.Remove, c.Add = without(oldPublish, publish), without(publish, oldPublish)
	c.Hide, c.Expose = without(oldExpose, expose), without(expose, oldExpose)
	return c
}

func without[R comparable](list, others []R) []R {
	there := make(map[R]bool, len(others))
	for _, r := range others {
		there[r] = true
	}
	return slices.DeleteFunc(slices.Clone(list), func(r R) bool { return there[r] })
}
