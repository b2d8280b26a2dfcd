package test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"epiphyte/internal/doctor"
	"epiphyte/internal/subid"
	"epiphyte/test/harness"
)

// lack is how a host is made to lack something.
type lack struct {
	script string // in mount and network namespaces of its own, with capabilities there
	inner  string // after that, as root of a user namespace of its own
}

// examine has doctor look at such a host, as a plain user, and gives the report and the
// exit code.
func examine(t *testing.T, l lack) (r doctor.Report, code int) {
	t.Helper()
	then := func(script, exec string) string { return script + "\nexec " + exec + ` "$0" "$@"` }
	wrap := []string{"unshare", "-mn", "sh", "-ec", then(l.script, "/usr/bin/setpriv --ambient-caps=-all --inh-caps=-all")}
	if l.inner != "" {
		wrap = append(wrap, "unshare", "-r", "sh", "-ec", then(l.inner, ""))
	}
	h, err := env.Start(timeout(t, deadline), harness.HelperConfig{
		Args: []string{"doctor", "--json"}, Plain: true, NoWait: true,
		Caps: []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN},
		Wrap: wrap,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Kill()
	code, _, err = h.Exit(timeout(t, deadline))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(h.Stdout.String()), &r); err != nil {
		t.Fatalf("%v: %s%s", err, h.Stdout, h.Stderr)
	}
	return r, code
}

// about finds what was said of a thing.
func about(t *testing.T, r doctor.Report, thing string) doctor.Finding {
	t.Helper()
	for _, f := range r.Findings {
		if f.Thing == thing {
			return f
		}
	}
	t.Fatalf("nothing is said of %s", thing)
	return doctor.Finding{}
}

// TestDoctorNamesWhatIsMissing: each lack is real, for this process or in its namespaces.
func TestDoctorNamesWhatIsMissing(t *testing.T) {
	ours(t, "doctor")
	const bare = "mount -t tmpfs none /proc/sys/kernel\n"
	idmap := t.TempDir() // where newuidmap is, whether or not this machine has it
	for _, name := range []string{subid.NewUIDMap, subid.NewGIDMap} {
		writeFile(t, filepath.Join(idmap, name), "")
		if err := os.Chmod(filepath.Join(idmap, name), os.ModeSetuid|0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name, thing string
		lack        lack
		state       doctor.State
		remedy      string // is part of it
		code        int
	}{
		{"nothing", "guest", lack{}, doctor.OK, "", 0},
		{"UserNamespaces", "user namespaces", lack{inner: "echo 0 >/proc/sys/user/max_user_namespaces"},
			doctor.Fault, "sysctl -w user.max_user_namespaces=", 1},
		{"FewNamespaces", "user namespaces", lack{inner: "echo 5 >/proc/sys/user/max_net_namespaces"},
			doctor.Limited, "sysctl -w user.max_net_namespaces=", 0},
		{"DebianSetting", "user namespaces", lack{script: bare + "echo 0 >/proc/sys/kernel/unprivileged_userns_clone"},
			doctor.Limited, "sysctl -w kernel.unprivileged_userns_clone=1", 0},
		{"AppArmor", "AppArmor", lack{script: bare + "echo 1 >/proc/sys/kernel/apparmor_restrict_unprivileged_userns"},
			doctor.Limited, "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0", 0},
		{"NoTUN", "TAP device", lack{script: "mount -t tmpfs none /dev/net"}, doctor.Fault, "modprobe tun", 1},
		{"ClosedTUN", "TAP device", lack{script: "f=$(mktemp); chmod 0 $f; mount --bind $f /dev/net/tun; rm $f"}, doctor.Fault, "chmod 0666 /dev/net/tun", 1},
		{"NoNewuidmap", "subordinate ids", lack{script: "export PATH=/nonexistent"}, doctor.Limited, "uidmap", 0},
		{"NoSubordinateIDs", "subordinate ids", lack{script: "export PATH=" + idmap + ":$PATH; mount --bind /dev/null /etc/subuid"}, doctor.Limited, "100000", 0},
		{"Ping", "ping", lack{}, doctor.Limited, "net.ipv4.ping_group_range", 0},
		{"LowPorts", "low ports", lack{script: "echo 1024 >/proc/sys/net/ipv4/ip_unprivileged_port_start"}, doctor.Limited, "ip_unprivileged_port_start=80", 0},
		{"Descriptors", "open files", lack{script: "ulimit -n 200"}, doctor.Limited, "prlimit --pid ", 0},
		{"Threads", "processes", lack{inner: "prlimit --pid $$ --nproc=60:60"}, doctor.Limited, "prlimit --pid ", 0},
		{"Seccomp", "seccomp", lack{script: bare}, doctor.Limited, "", 0},
		{"Nameservers", "nameservers", lack{script: "mount --bind /dev/null /etc/resolv.conf"}, doctor.Limited, "/etc/resolv.conf", 0},
		{"Subnet", "subnet", lack{script: "ip address add 10.0.2.9/22 dev lo; ip link set lo up"}, doctor.Limited, "epiphyte run --cidr=10.0.4.0/24", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r, code := examine(t, tt.lack)
			f := about(t, r, tt.thing)
			if f.State != tt.state || !strings.Contains(f.Remedy, tt.remedy) || f.Text == "" {
				t.Errorf("%+v", f)
			}
			if code != tt.code || r.OK != (code == 0) {
				t.Errorf("exit code %d, ok %v", code, r.OK)
			}
		})
	}
}

// TestDoctorSaysWhoIsPasta: podman's directories come before the PATH.
func TestDoctorSaysWhoIsPasta(t *testing.T) {
	ours(t, "doctor")
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"podman", "pasta"} {
		writeFile(t, dir+"/"+name, "#!/bin/sh\n")
		if err := os.Chmod(dir+"/"+name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	helpers := t.TempDir()
	if err := os.Symlink(env.Binary, helpers+"/pasta"); err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir+"/containers.conf", "[engine]\nhelper_binaries_dir = [\n  # \"/comment\",\n  \"/nonexistent\",\n  \""+helpers+"\"]\n")
	r, _ := examine(t, lack{script: "export PATH=" + dir + " CONTAINERS_CONF=" + dir + "/containers.conf"})
	if f := about(t, r, "pasta on PATH"); !strings.HasSuffix(f.Text, dir+"/pasta, another program") {
		t.Errorf("%+v", f)
	}
	if f := about(t, r, "podman"); f.State != doctor.OK || !strings.HasSuffix(f.Text, helpers+"/pasta, which is this program") {
		t.Errorf("%+v", f)
	}
	r, _ = examine(t, lack{script: "rm " + dir + "/pasta; export PATH=" + dir + " CONTAINERS_HELPER_BINARY_DIR=/nonexistent"})
	if f := about(t, r, "podman"); f.State != doctor.Limited || !strings.Contains(f.Remedy, "ln -s ") {
		t.Errorf("%+v", f)
	}
}

// Before version 5 podman takes slirp4netns: the program that its configuration names, or else
// the PATH's.
func TestDoctorSaysWhoIsSlirp4netns(t *testing.T) {
	ours(t, "doctor")
	t.Parallel()
	dir := t.TempDir()
	writeFile(t, dir+"/podman", "#!/bin/sh\necho podman version 4.3.1\n")
	if err := os.Chmod(dir+"/podman", 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir+"/containers.conf", "[engine]\nnetwork_cmd_path = \""+env.Binary+"\"\n")
	r, _ := examine(t, lack{script: "export CONTAINERS_CONF=" + dir + "/containers.conf PATH=" + dir})
	if f := about(t, r, "podman"); f.State != doctor.OK || !strings.HasSuffix(f.Text, "for slirp4netns "+env.Binary+", which is this program") {
		t.Errorf("%+v", f)
	}
	r, _ = examine(t, lack{script: "export CONTAINERS_CONF=/nonexistent PATH=" + dir})
	if f := about(t, r, "podman"); f.State != doctor.Limited || !strings.Contains(f.Remedy, "/usr/local/bin/slirp4netns") {
		t.Errorf("%+v", f)
	}
}
