package root

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"
)

// user is a plain user with subordinate ids, on a host of its own: files of /etc are covered
// and the network is loopback alone, for what it runs.
const user = `
mount --make-rprivate /
cp /etc/passwd "$0/passwd"; echo "tester:x:1001:1001::/:/bin/sh" >>"$0/passwd"; mount --bind "$0/passwd" /etc/passwd
echo tester:100000:65536 >"$0/subuid"; mount --bind "$0/subuid" /etc/subuid; mount --bind "$0/subuid" /etc/subgid
ip link set lo up
exec setpriv --reuid=1001 --regid=1001 --clear-groups sh -ec "$1" "$0"`

// asUser runs a script as that user, in whose directory $0 the program is.
func asUser(t *testing.T, program, script string) (said string, err error) {
	t.Helper()
	for _, name := range []string{"newuidmap", "newgidmap", "setpriv", "unshare", "python3"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("%v: apt-get install uidmap util-linux python3", err)
		}
	}
	dir := filepath.Dir(program)
	if err := os.Chown(dir, 1001, 1001); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // of the test
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "--net", "sh", "-ec", user, dir, `cd "$0"; mkdir -p -m 700 run; export XDG_RUNTIME_DIR=$0/run; `+script)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestSubordinateIDs: with --map-auto the caller's subordinate ids are in the guest, so that
// what gives up root there can; such a command has a network, is served, entered and
// ended, and the files that it makes are of its user's id on the host.
func TestSubordinateIDs(t *testing.T) {
	program := build(t, "epiphyte")
	for _, tt := range []struct{ name, script, want string }{
		{"root", `./epiphyte run --map-auto -- sh -c 'id; cat /proc/self/uid_map'`,
			`uid=0\(root\) gid=0\(root\) .*\n *0 +1001 +1\n *1 +100000 +65535\n`},
		{"current", `./epiphyte run --map-current --map-auto -- sh -c 'id; cat /proc/self/gid_map; grep CapEff: /proc/self/status'`,
			`uid=1001\(tester\) gid=1001 .*\n *1001 +1001 +1\n *0 +100000 +1001\n *1002 +101001 +64534\nCapEff:\s+0{16}\n`},
		{"changes user", `./epiphyte run --map-auto --kill-children -- setpriv --reuid=33 --regid=34 --groups=35 bash -c 'id -u; id -G; : 3<>/dev/udp/10.0.2.3/53'; ` +
			`./epiphyte run --map-auto -- sh -c ': >file; chown 33:34 file; su -s /bin/sh nobody -c "id -un"'; stat -c %u:%g file`,
			`33\n34 35\nnobody\n100032:100033\n`},
		{"pings", `for as in "" --map-current; do ./epiphyte run --map-auto $as -- python3 -c '
import socket
socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
print("open")'; done`, `open\nopen\n`},
		{"serves", `
			./epiphyte run --quiet --map-auto -p 127.0.0.1:8080:80 -- setpriv --reuid=33 --regid=33 --clear-groups python3 -c '
import socket
l = socket.create_server(("", 80))
while True: l.accept()[0].sendall(b"hello from 33\n")' &
			for i in $(seq 100); do reply=$(python3 -c 'import socket; print(socket.create_connection(("127.0.0.1", 8080), 5).recv(99).decode(), end="")' 2>/dev/null) && [ "$reply" ] && break; sleep 0.1; done
			echo "$reply"
			./epiphyte exec -- id -u
			kill $!; wait $! || echo status $?; ./epiphyte ps`,
			`hello from 33\n0\nstatus 143\nID .*\n`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if said, err := asUser(t, program, tt.script); err != nil || !regexp.MustCompile("^"+tt.want+"$").MatchString(said) {
				t.Errorf("%v: %s", err, said)
			}
		})
	}
	t.Run("as unshare", func(t *testing.T) {
		const ids = ` sh -c 'id; cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups; grep Cap /proc/self/status'; `
		said, err := asUser(t, program, `unshare --help | grep -q -e --map-auto || { echo none; exit; }
			for as in root current; do unshare --user --map-$as-user --map-auto`+ids+`done >theirs
			{ ./epiphyte run --map-auto --`+ids+`./epiphyte run --map-auto --map-current --`+ids+`} >ours
			diff theirs ours`)
		if said == "none\n" {
			t.Skip("unshare has no --map-auto: util-linux 2.38 has")
		}
		if err != nil {
			t.Errorf("%v: theirs and ours\n%s", err, said)
		}
	})
}
