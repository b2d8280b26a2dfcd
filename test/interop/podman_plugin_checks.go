package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// pluginChecks: what users of podman's networks expect. A check that only one of the
// users can do is left out of the other's.
func pluginChecks(root bool) []pluginCheck {
	checks := []pluginCheck{
		{name: "names", says: "two containers find each other by name, alias and id, and talk both ways, TCP and UDP", run: pluginNames},
		{name: "neighbours", says: "containers, one without podman's network that was connected, and a guest of run find each other", run: pluginNeighbours},
		{name: "outside", says: "a container reaches outside, TCP, UDP, DNS, IPv4 and IPv6", run: pluginOutside},
		{name: "publish", says: "a published port shows the remote client's address, TCP and UDP, IPv4 and IPv6", run: pluginPublish},
		{name: "publish-busy", says: "a port that is taken is refused by name, and nothing of the container is left", run: pluginBusy},
		{name: "connect", says: "podman network connect and disconnect of a running container, whose ports stay", run: pluginConnect},
		{name: "inspect", says: "podman inspect and our own show the addresses that the container has", run: pluginInspect},
		{name: "static", says: "--ip, --ip6, --mac-address and an MTU are had", run: pluginStatic},
		{name: "restart", says: "name, address by name and ports are back after podman restart", run: pluginRestart},
		{name: "compose", says: "what a composed application does: two networks, aliases, up, replace one, down", run: pluginCompose},
		{name: "worker-killed", says: "names, both ways and ports are back after kill -9 of the network's process", run: pluginKilled},
		{name: "nothing-left", says: "after the last container only what waits for the next one is left", run: pluginNothingLeft},
		{name: "policy", says: "a policy of the network's, and by the environment: one name is reached, another and an address fail at once", run: pluginPolicy},
		{name: "internal", says: "an internal network has names and no way out", run: pluginInternal},
		{name: "again", says: "a network removed by podman can be created again, with another subnet", run: pluginAgain},
		{name: "refused", says: "what a network cannot have is refused by name, and leaves no definition", run: pluginRefused},
	}
	if root {
		return append(checks,
			pluginCheck{name: "started", says: "a network that has ended is started by its next container", run: pluginStarted},
			pluginCheck{name: "namespace-gone", says: "a member whose namespace is removed without a word is none any more", run: pluginNamespaceGone})
	}
	return append(checks,
		pluginCheck{name: "not-running", says: "a network that was killed is not started from inside: one line says by what command", run: pluginNotRunning},
		pluginCheck{name: "service-manager", says: "a network that is defined and does not run is started by the user's service manager", run: pluginManager, needs: []need{needsManager}},
		pluginCheck{name: "handed-on", says: "ports of a container on a network of podman's own are still published", run: pluginHandedOn})
}

func pluginNames(ctx context.Context, d *driver) error {
	if err := first(d.create(ctx, "web"),
		d.serve(ctx, "one", "--network=web:alias=uno"), d.serve(ctx, "two", "--network=web")); err != nil {
		return err
	}
	id, err := d.do(ctx, "podman", "inspect", "--format={{slice .ID 0 12}}", "one")
	if err != nil {
		return err
	}
	return first(d.talk(ctx, "two", "one", "uno", "ONE", "one.web", "one.dns.podman", id), d.talk(ctx, "one", "two"))
}

// talk has a container converse with another one by each of its names.
func (d *driver) talk(ctx context.Context, from string, names ...string) error {
	const script = "for n; do probe tcp $n:80 20000 && probe udp $n:80 20000 || exit 1; done"
	_, err := d.do(ctx, append([]string{"podman", "exec", from, "sh", "-c", script, "sh"}, names...)...)
	return err
}

// pluginNeighbours: podman's containers and members that it knows nothing of share a
// network.
func pluginNeighbours(ctx context.Context, d *driver) error {
	if err := first(d.create(ctx, "web", "--ipv6"),
		d.serve(ctx, "one", "--network=web"), d.serve(ctx, "lone", "--network=none")); err != nil {
		return err
	}
	pid, err := d.do(ctx, "podman", "inspect", "--format={{.State.Pid}}", "lone")
	if err != nil {
		return err
	}
	if _, err := d.do(ctx, "epiphyte", "network", "connect", "--name=lone", "web", strings.TrimSpace(pid)); err != nil {
		return err
	}
	one, err := d.addresses(ctx, "one", "web")
	if err != nil {
		return err
	}
	// Nobody has told the container that podman left alone of a nameserver.
	_, err = d.do(ctx, "podman", "exec", "lone", "sh", "-c", "for a in "+one.IPv4+" ["+one.IPv6+"]; do probe tcp $a:80 20000 && probe udp $a:80 20000 || exit 1; done")
	if err := first(err, d.talk(ctx, "one", "lone"), d.isMembers(ctx, "web", "lone", "one")); err != nil {
		return err
	}
	_, err = d.do(ctx, "epiphyte", "run", "--network=web", "--name=guest", "--", "sh", "-c",
		"ping -c 1 -W 5 lone && ping -c 1 -W 5 one && getent hosts one lone")
	return err
}

func pluginOutside(ctx context.Context, d *driver) error {
	if err := first(d.create(ctx, "web", "--ipv6"), d.serve(ctx, "one", "--network=web")); err != nil {
		return err
	}
	out, err := d.exec(ctx, "one", "lookup", serverName)
	if err := first(err, has(out, outsideIPv4, outsideIPv6)); err != nil {
		return err
	}
	for _, network := range []string{"tcp", "udp"} {
		out, err := d.exec(ctx, "one", network, outside(), "20000")
		out6, err6 := d.exec(ctx, "one", network, outside6(), "20000")
		if err := first(err, peerIs(out, hostIPv4), err6, peerIs(out6, hostIPv6)); err != nil {
			return fmt.Errorf("%s: %w", network, err)
		}
	}
	return nil
}

func pluginConnect(ctx context.Context, d *driver) error {
	if err := first(d.create(ctx, "web"), d.create(ctx, "back"),
		d.serve(ctx, "one", "--network=web", "--publish=8080:80", "--publish=8080:80/udp"), d.serve(ctx, "two", "--network=back")); err != nil {
		return err
	}
	if err := failsWith(d.talk(ctx, "two", "one"), "no such host"); err != nil {
		return fmt.Errorf("across networks: %w", err)
	}
	if _, err := d.do(ctx, "podman", "network", "connect", "--alias=eins", "back", "one"); err != nil {
		return err
	}
	if err := first(d.talk(ctx, "two", "eins"), d.sourceKept(ctx, hostIPv4)); err != nil {
		return fmt.Errorf("connected: %w", err)
	}
	if _, err := d.do(ctx, "podman", "network", "disconnect", "web", "one"); err != nil {
		return err
	}
	if err := first(d.isMembers(ctx, "web"), d.talk(ctx, "two", "one"), d.sourceKept(ctx, hostIPv4)); err != nil {
		return fmt.Errorf("disconnected from the first: %w", err)
	}
	if _, err := d.do(ctx, "podman", "network", "disconnect", "back", "one"); err != nil {
		return err
	}
	return first(d.isMembers(ctx, "back", "two"), failsWith(d.talk(ctx, "two", "one"), "no such host"))
}

// member is what our own inspect shows of one.
type member struct {
	Name, MAC, IPv4, IPv6 string
	Publish               []string
}

// members are those of a network by name.
func (d *driver) members(ctx context.Context, network string) ([]member, error) {
	out, err := d.do(ctx, "epiphyte", "network", "inspect", "--json", network)
	if err != nil {
		return nil, err
	}
	var info struct{ Members []member }
	return info.Members, json.Unmarshal([]byte(out), &info)
}

// isMembers says whether a network has exactly these members.
func (d *driver) isMembers(ctx context.Context, network string, names ...string) error {
	all, err := d.members(ctx, network)
	var got []string
	for _, m := range all {
		got = append(got, m.Name)
	}
	slices.Sort(got)
	if err == nil && !slices.Equal(got, names) {
		err = fmt.Errorf("members of %s are %v, want %v", network, got, names)
	}
	return err
}

// namesIn are the names of networks in what our own ls prints as JSON.
func namesIn(list string) (names []string) {
	var all []struct{ Name string }
	if json.Unmarshal([]byte(list), &all) != nil {
		return nil
	}
	for _, n := range all {
		names = append(names, n.Name)
	}
	return names
}

// addresses are what podman says of a container on a network.
func (d *driver) addresses(ctx context.Context, name, network string) (m member, err error) {
	out, err := d.do(ctx, "podman", "inspect", "--format="+
		fmt.Sprintf("{{with index .NetworkSettings.Networks %q}}{{.MacAddress}} {{.IPAddress}}/{{.IPPrefixLen}} {{.Gateway}} {{.GlobalIPv6Address}} {{.IPv6Gateway}}{{end}}", network), name)
	if err != nil {
		return m, err
	}
	fields := strings.Fields(out)
	if len(fields) != 5 {
		return m, fmt.Errorf("podman inspect says %q", out)
	}
	m = member{Name: name, MAC: fields[0], IPv4: strings.TrimSuffix(fields[1], "/24"), IPv6: fields[3]}
	if m.IPv4 == fields[1] || !strings.HasSuffix(fields[2], ".1") || !strings.HasSuffix(fields[4], "::1") {
		err = fmt.Errorf("podman inspect says %q", out)
	}
	return m, err
}

func pluginInspect(ctx context.Context, d *driver) error {
	if err := first(d.create(ctx, "web", "--ipv6"), d.serve(ctx, "one", "--network=web")); err != nil {
		return err
	}
	want, err := d.addresses(ctx, "one", "web")
	if err != nil {
		return err
	}
	all, err := d.members(ctx, "web")
	if err != nil {
		return err
	}
	if len(all) != 1 || all[0].Name != want.Name || all[0].MAC != want.MAC || all[0].IPv4 != want.IPv4 || all[0].IPv6 != want.IPv6 {
		return fmt.Errorf("podman says %+v, we %+v", want, all)
	}
	out, err := d.do(ctx, "podman", "exec", "one", "ip", "addr", "show", "dev", "eth0")
	return first(err, has(out, want.MAC, want.IPv4+"/24", want.IPv6+"/64"))
}

func pluginStatic(ctx context.Context, d *driver) error {
	const mac = "92:d0:c6:0a:29:33"
	if err := first(
		d.create(ctx, "web", "--subnet=10.77.5.0/24", "--subnet=fd77::/64", "--opt=mtu=1400"),
		d.serve(ctx, "one", "--network=web", "--ip=10.77.5.77", "--ip6=fd77::99", "--mac-address="+mac)); err != nil {
		return err
	}
	out, err := d.do(ctx, "podman", "exec", "one", "ip", "addr", "show", "dev", "eth0")
	return first(err, has(out, mac, "10.77.5.77/24", "fd77::99/64", "mtu 1400"))
}

func pluginInternal(ctx context.Context, d *driver) error {
	if err := first(d.create(ctx, "web", "--internal"), d.serve(ctx, "one", "--network=web"), d.serve(ctx, "two", "--network=web"),
		d.talk(ctx, "one", "two")); err != nil {
		return err
	}
	_, err := d.exec(ctx, "one", "tcp", outside())
	return failsWith(err, "unreachable")
}

func pluginRefused(ctx context.Context, d *driver) error {
	for _, tt := range []struct {
		flags []string
		says  string
	}{
		{[]string{"--opt=nonsense=1"}, `no option "nonsense"`},
		{[]string{"--opt=mtu=9"}, "mtu"},
		{[]string{"--subnet=10.77.5.0/24", "--gateway=10.77.5.9"}, "leave out --gateway"},
		{[]string{"--interface-name=br7"}, "leave out --interface-name"},
		{[]string{"--dns=192.0.2.1"}, "leave out --dns"},
		{[]string{"--subnet=10.77.5.0/24", "--subnet=10.77.6.0/24"}, "name one of each"},
	} {
		err := d.create(ctx, "bad", tt.flags...)
		if err := failsWith(err, tt.says); err != nil {
			return fmt.Errorf("%v: %w", tt.flags, err)
		}
	}
	left, err := d.definitions()
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("definitions left: %v", left)
	}
	return err
}
