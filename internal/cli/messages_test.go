package cli

import (
	"bytes"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// message is a command line that cannot be, its words separated by blanks, and the one line
// that it ends with, in status 1.
type message struct{ args, line string }

// messages are of all commands and of each kind of fault. What callers of slirp4netns read is
// in its words.
var messages = []message{
	{``, `epiphyte: a command, or a process and the name of its interface, is missing; 'epiphyte --help' shows both`},
	{`statz`, `epiphyte: there is no command "statz"; did you mean "stats"?`},
	{`statz --help`, `epiphyte: there is no command "statz"; did you mean "stats"?`},
	{`rnu --help`, `epiphyte: there is no command "rnu"; did you mean "run"?`},
	{`nosuchword`, `epiphyte: there is no command "nosuchword"; 'epiphyte --help' lists them`},
	{`nosuchword --help`, `epiphyte: there is no command "nosuchword"; 'epiphyte --help' lists them`},
	{`-c 12345`, `epiphyte: TAPNAME is missing, the name of the interface: 'epiphyte ... 12345 tap0'`},
	{`-c 0 tap0`, `epiphyte: PID must be a positive integer`},
	{`-c x tap0`, `epiphyte: there is no command "x"; 'epiphyte --help' lists them`},
	{`-r 99 1 tap0`, `epiphyte: ready-fd 99 is not open: open it for the program, as a shell does by 99>FILE`},
	{`-r x 1 tap0`, `epiphyte: ready-fd must be a non-negative integer`},
	{`-e x 1 tap0`, `epiphyte: exit-fd must be a non-negative integer`},
	{`--mtu=0 1 tap0`, `epiphyte: MTU must be a positive integer (< 65522)`},
	{`--mtu=67 1 tap0`, `epiphyte: cannot set MTU: Invalid argument (an IPv4 link carries at least 68 bytes)`},
	{`--netns-type=path /nosuch tap0`, `epiphyte: existing path expected when --netns-type=path: No such file or directory`},
	{`--netns-type=tapfd x`, `epiphyte: TAPFD must a file descriptor`},
	{`--target-type=vhost 1 tap0`, `epiphyte: --target-type must be either "netns" or "bess"`},
	{`--target-type=bess -c /tmp/x`, `epiphyte: --configure conflicts with --target-type=bess`},
	{`--macaddress=zz -c 1 tap0`, `epiphyte: macaddress has to be a valid MAC address (hex string, 6 bytes, each byte separated by a ':'): "zz"`},
	{`--macaddress=01:00:00:00:00:01 -c 1 tap0`, `epiphyte: macaddress has to be a unicast address other than zero: "01:00:00:00:00:01"`},
	{`--macaddress=02:00:00:00:00:01 1 tap0`, `epiphyte: --macaddr cannot be specified when --configure or -c is not specified`},
	{`--userns-path=/nosuch 1 tap0`, `epiphyte: userns path doesn't exist: /nosuch`},
	{`--cidr6=fd00::/64 1 tap0`, `epiphyte: --cidr6 has no effect without IPv6: add --enable-ipv6 (-6)`},
	{`--no-such 1 tap0`, `epiphyte: unrecognized option '--no-such'`},
	{`--m=1 1 tap0`, `epiphyte: option '--m' is ambiguous; possibilities: '--mtu' '--macaddress'`},
	{`--configure=x 1 tap0`, `epiphyte: option '--configure' doesn't allow an argument`},
	{`1`, `epiphyte: TAPNAME is missing, the name of the interface: 'epiphyte ... 1 tap0'`},
	{`1 tap0 --api-socket=`, `epiphyte: the specified API socket path is empty`},
	{`-c 1 tap%d`, `epiphyte: TAPNAME tap%d: with --configure the kernel must not choose the name: name the interface, such as tap0`},
	{`--exit-with-target --netns-type=path /proc/self/ns/net tap0`, `epiphyte: --exit-with-target needs a process: name a PID`},
	{`--queues=2 --netns-type=tapfd 0`, `epiphyte: --queues needs to make the TAP: name a PID or a PATH, not a descriptor or a socket`},
	{`--expose-host=80 --netns-type=tapfd 0`, `epiphyte: --expose-host needs to know the guest's network namespace: name a PID or a PATH, not a descriptor or a socket`},
	{`--enable-sandbox --sandbox=off 1 tap0`, `epiphyte: --sandbox=off contradicts --enable-sandbox and --enable-seccomp`},
	{`--allow=x:y 1 tap0`, `epiphyte: --allow "x:y": "y" is not a port or a range of ports from 1 to 65535`},
	{`--target-type=bess`, `epiphyte: SOCKET is missing: the path of the socket to wait at`},
	{`--netns-type=tapfd`, `epiphyte: FD is missing: the number of an open TAP descriptor`},
	{`run --mtu=abc`, `epiphyte run: MTU must be a positive integer (< 65522)`},
	{`run --mtu=67`, `epiphyte run: cannot set MTU: Invalid argument (an IPv4 link carries at least 68 bytes)`},
	{`run --mtu 70000`, `epiphyte run: MTU must be a positive integer (< 65522)`},
	{`run --cidr=10.0.2.1/24`, `epiphyte run: CIDR needs to be a network address like 10.0.2.0/24, not like 10.0.2.1/24`},
	{`run --cidr=10.0.2.0`, `epiphyte run: invalid CIDR: 10.0.2.0`},
	{`run --cidr=127.0.0.0/8`, `epiphyte run: the subnet 127.0.0.0/8 is loopback, which no guest can have: choose a private one, such as 10.0.2.0/24`},
	{`run --cidr=10.0.2.0/26`, `epiphyte run: prefix length needs to be 1-25`},
	{`run --cidr6=fd00::1/64`, `epiphyte run: fd00::1/64 is not an IPv6 subnet with a prefix length of 64, such as fd00::/64`},
	{`run --cidr6=fd00::/48`, `epiphyte run: fd00::/48 is not an IPv6 subnet with a prefix length of 64, such as fd00::/64`},
	{`run --cidr6=nonsense`, `epiphyte run: invalid IPv6 CIDR: nonsense (a network such as fd00::/64)`},
	{`run --outbound-addr=nosuch0`, `epiphyte run: outbound-addr has to be valid ipv4 address or interface name.`},
	{`run --outbound-addr6=192.0.2.1`, `epiphyte run: outbound-addr6 has to be valid ipv6 address or interface name.`},
	{`run --publish-mode=fast`, `epiphyte run: --publish-mode must be one of auto, stack, direct`},
	{`run --expose-host=x`, `epiphyte run: parse exposed port "x": "x" is not a port, 1 to 65535 (PORT[:GUESTPORT], as in 5432 or 80:8080)`},
	{`run --expose-host=80:99999`, `epiphyte run: parse exposed port "80:99999": "99999" is not a port, 1 to 65535 (PORT[:GUESTPORT], as in 5432 or 80:8080)`},
	{`run --http-socket=`, `epiphyte run: the specified HTTP socket path is empty`},
	{`run --http-socket=127.0.0.1:9000`, `epiphyte run: --http-socket takes the path of a Unix socket, and 127.0.0.1:9000 is an address: give a path, such as ./http.sock`},
	{`run --http-socket=/tmp/0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890`, `epiphyte run: the specified HTTP socket path is too long (>= 108)`},
	{`run --api-socket=`, `epiphyte run: the specified API socket path is empty`},
	{`run --log-level=loud`, `epiphyte run: --log-level must be one of debug, info, warn, error`},
	{`run --log-format=xml`, `epiphyte run: --log-format must be one of text, json`},
	{`run --log-size=1k`, `epiphyte run: --log-size must be 4k or more`},
	{`run --log-size=big`, `epiphyte run: --log-size must be a number of bytes, or one with k, M or G`},
	{`run --stats=0`, `epiphyte run: --stats must be a number of seconds, 0.01 to 86400`},
	{`run --stats=x`, `epiphyte run: --stats must be a number of seconds, 0.01 to 86400`},
	{`run --queues=0`, `epiphyte run: --queues must be a number from 1 to 16`},
	{`run --queues=17`, `epiphyte run: --queues must be a number from 1 to 16`},
	{`run --sandbox=on`, `epiphyte run: --sandbox must be one of auto, off`},
	{`run --pcap-size=-1`, `epiphyte run: --pcap-size must be a number of bytes, or one with k, M or G`},
	{`run --pcap-snaplen=x`, `epiphyte run: --pcap-snaplen must be a number from 0 to 262144`},
	{`run --pcap=`, `epiphyte run: --pcap: the path is empty`},
	{`run --pcap=/nosuch/x true`, `epiphyte run: open capture: open /nosuch/x: no such file or directory: make its directory first, or choose another path`},
	{`run --pcap=/dev true`, `epiphyte run: open capture: open /dev: is a directory`},
	{`run --http-socket=/nosuch/x true`, `epiphyte run: listen on socket /nosuch/x: no such file or directory: make its directory first, or choose another path`},
	{`run --http-socket=/dev/null true`, `epiphyte run: listen on socket /dev/null: a file that is not a socket exists`},
	{`run --api-socket=/dev/null/x true`, `epiphyte run: listen on socket /dev/null/x: not a directory: make its directory first, or choose another path`},
	{`run --policy=/nosuch true`, `epiphyte run: read policy: open /nosuch: no such file or directory`},
	{`run --allow=a.example --policy-log=/nosuch/x true`, `epiphyte run: open record of the policy: open /nosuch/x: no such file or directory: make its directory first, or choose another path`},
	{`--pcap=/nosuch/x 1 tap0`, `epiphyte: open capture: open /nosuch/x: no such file or directory: make its directory first, or choose another path`},
	{`--api-socket=/nosuch/x 1 tap0`, `epiphyte: listen on socket /nosuch/x: no such file or directory: make its directory first, or choose another path`},
	{`--http-socket=/nosuch/x 1 tap0`, `epiphyte: listen on socket /nosuch/x: no such file or directory: make its directory first, or choose another path`},
	{`run --allow= true`, `epiphyte run: --allow "": a name, address, prefix or group is missing`},
	{`run --allow=a.example:99999 true`, `epiphyte run: --allow "a.example:99999": "99999" is not a port or a range of ports from 1 to 65535`},
	{`run --network= true`, `epiphyte run: a network needs a name`},
	{`run --network=a/b true`, `epiphyte run: the network's name "a/b" cannot be: use letters, digits, and inside also - _ .`},
	{`run --network=web --mtu=1500 true`, `epiphyte run: --mtu is the network's to decide: see epiphyte network create --help`},
	{`run --network=web --queues=2 true`, `epiphyte run: --queues does not go with --network: several guests share the network's process`},
	{`run --name=web true`, `epiphyte run: --name is a wish of a network's member: say which network by --network`},
	{`run --network=web --ip=300.1.1.1 true`, `epiphyte run: --ip: "300.1.1.1" is not an IPv4 address`},
	{`run --network=web --ip6=10.0.0.1 true`, `epiphyte run: --ip6: "10.0.0.1" is not an IPv6 address`},
	{`run --network=web --mac=zz true`, `epiphyte run: --mac: "zz" is not an Ethernet address, such as 02:00:00:00:00:01`},
	{`run --network=web --name=-x true`, `epiphyte run: the name "-x" cannot be: use letters, digits and '_', inside also '-', with dots between parts`},
	{`run --network=web --alias=a_b!c true`, `epiphyte run: the name "a_b!c" cannot be: use letters, digits and '_', inside also '-', with dots between parts`},
	{`run --nosuch`, `epiphyte run: unrecognized option '--nosuch'`},
	{`run --publsh=80`, `epiphyte run: unrecognized option '--publsh'; did you mean '--publish'?`},
	{`run -x`, `epiphyte run: invalid option -- 'x'`},
	{`run --ipv6=maybe`, `epiphyte run: --ipv6 must be true or false`},
	{`run --kill-children=maybe`, `epiphyte run: --kill-children must be true or false`},
	{`run --mtu`, `epiphyte run: option '--mtu' requires an argument`},
	{`run --log-file= true`, `epiphyte run: --log-file: the path is empty`},
	{`run --policy= true`, `epiphyte run: --policy: the path is empty`},
	{`run --policy-log= true`, `epiphyte run: --policy-log: the path is empty`},
	{`run --sandbox`, `epiphyte run: option '--sandbox' requires an argument`},
	{`run --map-auto=maybe`, `epiphyte run: --map-auto must be true or false`},
	{`run --exit-fd=3 true`, `epiphyte run: unrecognized option '--exit-fd'`},
	{`run --macaddress=02:00:00:00:00:01 true`, `epiphyte run: unrecognized option '--macaddress'; did you mean '--mac'?`},
	{`run --cidr6=fd00::/64 --ipv6=false true`, `epiphyte run: --cidr6 has no effect without IPv6: leave --ipv6=false out`},
	{`attach`, `epiphyte attach: a process or the path of a network namespace is wanted, and then at most the name of an interface`},
	{`attach --network=web`, `epiphyte attach: a process or the path of a network namespace is wanted, and then at most the name of an interface`},
	{`attach --network=web 0`, `epiphyte attach: 0 is not a process`},
	{`attach --network=web /nosuch`, `epiphyte attach: /nosuch: No such file or directory; a process or the path of a network namespace is wanted`},
	{`attach 1 tap0`, `epiphyte attach: --network is missing; for a network of the guest's own: epiphyte PID TAPNAME`},
	{`attach --network=web 1 a b`, `epiphyte attach: a process or the path of a network namespace is wanted, and then at most the name of an interface`},
	{`attach --network=web --ready-fd=99 1`, `epiphyte attach: ready-fd 99 is not open: open it for the program, as a shell does by 99>FILE`},
	{`attach --network=web --ready-fd=x 1`, `epiphyte attach: ready-fd must be a non-negative integer`},
	{`attach --network=web --exit-fd=x 1`, `epiphyte attach: exit-fd must be a non-negative integer`},
	{`attach --network=web --policy=/nosuch 1`, `epiphyte attach: read policy: open /nosuch: no such file or directory`},
	{`network nosuch`, `epiphyte network: there is no command "nosuch"; 'epiphyte network --help' lists them`},
	{`network creat web`, `epiphyte network: there is no command "creat"; did you mean "create"?`},
	{`network create`, `epiphyte network create: NAME is missing`},
	{`network create a b`, `epiphyte network create: "b" is one argument too many`},
	{`network create we/b`, `epiphyte network create: the network's name "we/b" cannot be: use letters, digits, and inside also - _ .`},
	{`network create --subnet=10.0.0.1/24 web`, `epiphyte network create: network web: the subnet 10.0.0.1/24 has bits set behind its length: its network address is 10.0.0.0/24`},
	{`network create --subnet=x web`, `epiphyte network create: --subnet: "x" is not an IPv4 subnet, such as 10.90.7.0/24`},
	{`network create --subnet6=10.0.0.0/8 web`, `epiphyte network create: --subnet6: "10.0.0.0/8" is not an IPv6 subnet, such as fd90:0:0:7::/64`},
	{`network create --mtu=abc web`, `epiphyte network create: MTU must be a positive integer (< 65522)`},
	{`network create --polcy=x web`, `epiphyte network create: unrecognized option '--polcy'; did you mean '--policy'?`},
	{`network ls extra`, `epiphyte network ls: "extra" is one argument too many`},
	{`network rm`, `epiphyte network rm: NAME... is missing`},
	{`network rm nosuch`, `epiphyte network rm: network nosuch: it is neither defined nor running`},
	{`network inspect`, `epiphyte network inspect: NAME is missing`},
	{`network inspect nosuch`, `epiphyte network inspect: there is no network nosuch`},
	{`network connect web`, `epiphyte network connect: PID|PATH is missing`},
	{`network connect web 0`, `epiphyte network connect: 0 is not a process`},
	{`network disconnect web`, `epiphyte network disconnect: MEMBER is missing`},
	{`network disconnect nosuch x`, `epiphyte network disconnect: network nosuch: it is not running`},
	{`network upgrade nosuch`, `epiphyte network upgrade: network nosuch: it is not running`},
	{`network serve`, `epiphyte network serve: NAME is missing`},
	{`network start`, `epiphyte network start: NAME... is missing`},
	{`network create --policy= web`, `epiphyte network create: --policy: the path is empty`},
	{`network create --nosuch`, `epiphyte network create: unrecognized option '--nosuch'`},
	{`network inspect --jsn web`, `epiphyte network inspect: unrecognized option '--jsn'; did you mean '--json'?`},
	{`network connect web 1 eth0 extra`, `epiphyte network connect: "extra" is one argument too many`},
	{`ps extra`, `epiphyte ps: "extra" is one argument too many`},
	{`ps --jsn`, `epiphyte ps: unrecognized option '--jsn'; did you mean '--json'?`},
	{`exec --id`, `epiphyte exec: option '--id' requires an argument`},
	{`exec --id=0 true`, `epiphyte exec: --id: "0" is not a guest, as 'ps' shows them: a number, or NETWORK/MEMBER`},
	{`exec --id=nobody true`, `epiphyte exec: no guest of yours is running that 'ps' would list; one that another program has started is entered by that, or by nsenter(1)`},
	{`exec -x`, `epiphyte exec: invalid option -- 'x'`},
	{`exec --nosuch true`, `epiphyte exec: unrecognized option '--nosuch'`},
	{`ports extra`, `epiphyte ports: "extra" is one argument too many`},
	{`ports --network=nosuch`, `epiphyte ports: network nosuch is not running`},
	{`ports -a /nosuch`, `epiphyte ports: there is no socket /nosuch: give the path that the program was started with, or see 'epiphyte ps'`},
	{`ports -a /nosuch --network=web`, `epiphyte ports: of --api-socket, --http-socket, --network and --id only one can be used`},
	{`publish`, `epiphyte publish: RULE... is missing`},
	{`publish -a /nosuch 80`, `epiphyte publish: there is no socket /nosuch: give the path that the program was started with, or see 'epiphyte ps'`},
	{`publish -a /nosuch --guest=x 80`, `epiphyte publish: --guest: "x" is not an IP address`},
	{`flows --watch=0`, `epiphyte flows: --watch must be a number of seconds, 0.01 to 86400`},
	{`flows --watch=x`, `epiphyte flows: --watch must be a number of seconds, 0.01 to 86400`},
	{`flows -w`, `epiphyte flows: no guest of yours is running that 'ps' would list; name the socket of one that another program has started, by --http-socket or --api-socket`},
	{`flows --http-socket=/nosuch`, `epiphyte flows: there is no socket /nosuch: give the path that the program was started with, or see 'epiphyte ps'`},
	{`flows --http-socket`, `epiphyte flows: option '--http-socket' requires an argument`},
	{`flows --http-socket=`, `epiphyte flows: --http-socket: the path is empty`},
	{`flows -i -1`, `epiphyte flows: --id: "-1" is not a guest, as 'ps' shows them: a number, or NETWORK/MEMBER`},
	{`top --json`, `epiphyte top: unrecognized option '--json'`},
	{`top extra`, `epiphyte top: "extra" is one argument too many`},
	{`stats extra`, `epiphyte stats: "extra" is one argument too many`},
	{`why`, `epiphyte why: ADDRESS|NAME[:PORT] is missing`},
	{`why --http-socket=/nosuch nonsense`, `epiphyte why: there is no socket /nosuch: give the path that the program was started with, or see 'epiphyte ps'`},
	{`why -a /nosuch 10.0.2.2:80`, `epiphyte why: the control socket does not support this, the HTTP socket does`},
	{`pcap --snaplen=x`, `epiphyte pcap: --snaplen must be a number from 0 to 262144`},
	{`pcap extra`, `epiphyte pcap: "extra" is one argument too many`},
	{`pcap -a /nosuch`, `epiphyte pcap: capture frames: the control socket does not support this, the HTTP socket does`},
	{`doctor extra`, `epiphyte doctor: "extra" is one argument too many`},
	{`doctor --nosuch`, `epiphyte doctor: unrecognized option '--nosuch'`},
	{`doctor --jsn`, `epiphyte doctor: unrecognized option '--jsn'; did you mean '--json'?`},
	{`help nosuch`, `epiphyte help: there is no command "nosuch"; 'epiphyte --help' lists them`},
	{`help run extra`, `epiphyte help: "extra" is one argument too many`},
	{`help network create extra`, `epiphyte help: "extra" is one argument too many`},
}

// TestMessages: what is wrong with a command line is one line, always in the same style.
func TestMessages(t *testing.T) {
	dir := t.TempDir() // where nothing runs and nothing is defined
	t.Setenv("XDG_RUNTIME_DIR", dir)
	t.Setenv("XDG_CONFIG_HOME", dir)
	t.Setenv("EPIPHYTE_POLICY", "")
	for _, m := range messages {
		var stdout, stderr bytes.Buffer
		code := Main(t.Context(), append([]string{"epiphyte"}, strings.Fields(m.args)...), &stdout, &stderr)
		if code != 1 || stdout.String() != "" || stderr.String() != m.line+"\n" {
			t.Errorf("%s: status %d, stdout %.60q, stderr\n\t%swant\n\t%s", m.args, code, &stdout, &stderr, m.line)
		}
	}
}

// twice reports whether a part of a message between colons is there again.
func twice(line string) bool {
	parts := strings.Split(line, ": ")
	slices.Sort(parts)
	return len(slices.Compact(parts)) < strings.Count(line, ": ")+1
}

// TestMessagesSpeakAlike: the command is named first, if there is one, and then the cause, in
// the user's words.
func TestMessagesSpeakAlike(t *testing.T) {
	foreign := regexp.MustCompile(`strconv|netip\.|\*[a-z]+\.|%!|(host|guest)_(addr|port)|<nil>`)
	commands := map[string]bool{}
	for _, m := range messages {
		prog := "epiphyte"
		words := append(strings.Fields(m.args), "")
		if _, ok := commandNamed(words[0]); ok {
			prog += " " + words[0]
			commands[words[0]] = true
			if words[0] == networkCommand && strings.HasPrefix(m.line, prog+" "+words[1]+": ") {
				prog += " " + words[1]
			}
		}
		said, named := strings.CutPrefix(m.line, prog+": ")
		switch {
		case !named:
			t.Errorf("%s: does not begin with %q: %s", m.args, prog, m.line)
		case foreign.MatchString(said):
			t.Errorf("%s: not the user's words: %s", m.args, m.line)
		case twice(m.line):
			t.Errorf("%s: says it twice: %s", m.args, m.line)
		}
	}
	for _, name := range commandNames() {
		if !commands[name] && name != versionCommand && name != policyCommand && name != "unpublish" {
			t.Errorf("no message of the command %s", name)
		}
	}
}
