package test

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// networks is a user's networks, apart from those of other tests: each has directories of
// its own for what runs and for definitions.
type networks struct {
	dir string // XDG_RUNTIME_DIR
	cfg harness.HelperConfig
}

// newNetworks makes the directories. The host's nameservers are those given, or else the
// test network's. When the test ends everything is gone, and checked to be.
func newNetworks(t testing.TB, servers ...string) *networks {
	t.Helper()
	ours(t, "networks")
	// Not t.TempDir, whose paths are too long for those of sockets.
	dir := must(os.MkdirTemp("", "nets-"))(t)
	n := &networks{dir: dir}
	n.cfg.Plain = true
	n.cfg.Env = []string{n.variable(), "XDG_CONFIG_HOME=" + filepath.Join(dir, "config")}
	if len(servers) > 0 {
		n.cfg.Etc = etcWith(t, servers...)
	}
	t.Cleanup(func() {
		if t.Failed() {
			n.showLogs(t)
		}
		for _, l := range n.list(t) {
			if l.Running {
				n.do(t, "network", "rm", "--force", l.Name)
			}
		}
		n.gone(t)
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return n
}

// variable marks every process of these networks, in its environment.
func (n *networks) variable() string { return "XDG_RUNTIME_DIR=" + n.dir }

func (n *networks) showLogs(t testing.TB) {
	t.Helper()
	logs, err := filepath.Glob(n.file("*.log"))
	if err != nil {
		t.Error(err)
	}
	for _, l := range logs {
		text, err := os.ReadFile(l)
		t.Logf("%s: %v\n%s", filepath.Base(l), err, text)
	}
}

// file is one in the directory of what runs.
func (n *networks) file(name string) string { return filepath.Join(n.dir, "epiphyte/networks", name) }

// gone waits until no process is left, and no file but locks and logs.
func (n *networks) gone(t testing.TB) {
	t.Helper()
	eventually(t, deadline, func() error {
		if left := harness.ProcessesWith(n.variable()); len(left) > 0 {
			return fmt.Errorf("processes left: %v", left)
		}
		files, err := filepath.Glob(n.file("*"))
		files = slices.DeleteFunc(files, func(f string) bool {
			return strings.HasSuffix(f, ".lock") || strings.HasSuffix(f, ".log")
		})
		if err != nil || len(files) > 0 {
			return fmt.Errorf("files left: %v, %v", files, err)
		}
		return nil
	})
}

// start starts the program with these networks' directories.
func (n *networks) start(t testing.TB, args ...string) *harness.Helper {
	t.Helper()
	cfg := n.cfg
	cfg.Args, cfg.NoWait = args, true
	h := must(env.Start(timeout(t, deadline), cfg))(t)
	t.Cleanup(func() {
		h.Kill()
		if t.Failed() {
			t.Logf("epiphyte %q said: %s%s", args, h.Stdout, h.Stderr)
		}
	})
	return h
}

// try runs the program to its end.
func (n *networks) try(t testing.TB, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	h := n.start(t, args...)
	code, sig, err := h.Exit(timeout(t, 2*deadline))
	if err != nil || sig != 0 {
		t.Fatalf("epiphyte %q: signal %v, %v: %s%s", args, sig, err, h.Stdout, h.Stderr)
	}
	h.Kill() // what it has held of ours
	return h.Stdout.String(), h.Stderr.String(), code
}

// do runs the program and wants it to succeed.
func (n *networks) do(t testing.TB, args ...string) string {
	t.Helper()
	stdout, stderr, code := n.try(t, args...)
	if code != 0 {
		t.Fatalf("epiphyte %q: exit status %d: %s%s", args, code, stdout, stderr)
	}
	return stdout
}

// shown is what `network inspect --json` and `network ls --json` say, as scripts read it.
type shown struct {
	Name    string       `json:"name"`
	Subnet  netip.Prefix `json:"subnet"`
	Subnet6 netip.Prefix `json:"subnet6"`
	Running bool         `json:"running"`
	Gateway netip.Addr   `json:"gateway"`
	Keeper  int          `json:"keeper_pid"`
	Worker  int          `json:"worker_pid"`
	Members json.RawMessage
	members []shownMember // of inspect
}

type shownMember struct {
	Name      string     `json:"name"`
	Interface string     `json:"interface"`
	MAC       string     `json:"mac"`
	IPv4      netip.Addr `json:"ipv4"`
	IPv6      netip.Addr `json:"ipv6"`
	Policy    string     `json:"policy"`
	Denied    uint64     `json:"denied"`
	Publish   []string   `json:"publish"`
	Since     time.Time  `json:"since"`
	Stats     struct {
		FromFrames uint64 `json:"from_frames"`
		Spoofed    uint64 `json:"spoofed"`
		Other      uint64 `json:"other"`
		Rate       uint64 `json:"rate"`
		ToFrames   uint64 `json:"to_frames"`
		Refused    uint64 `json:"refused"`
	} `json:"stats"`
}

func (n *networks) list(t testing.TB) (all []shown) {
	t.Helper()
	if err := json.Unmarshal([]byte(n.do(t, "network", "ls", "--json")), &all); err != nil {
		t.Fatal(err)
	}
	return all
}

func (n *networks) inspect(t testing.TB, name string) shown {
	t.Helper()
	s, err := n.tryInspect(t, name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (n *networks) tryInspect(t testing.TB, name string) (s shown, err error) {
	t.Helper()
	stdout, stderr, code := n.try(t, "network", "inspect", "--json", name)
	if code != 0 {
		return s, fmt.Errorf("inspect %s: exit status %d: %s", name, code, stderr)
	}
	if err = json.Unmarshal([]byte(stdout), &s); err == nil {
		err = json.Unmarshal(s.Members, &s.members)
	}
	return s, err
}

// member is a guest on a network.
type member struct {
	*world
	shownMember
	n       *networks
	network string
	gateway map[int]string // by address family
}

func (m *member) address(f family) string {
	if f.af == unix.AF_INET {
		return m.IPv4.String()
	}
	return m.IPv6.String()
}

// sleeper is a shell's command that says which process it is, and stays.
const sleeper = "echo $$; exec sleep 1000"

// pidOf waits for what the sleeper says.
func pidOf(t testing.TB, stdout, stderr fmt.Stringer) (pid int) {
	t.Helper()
	eventually(t, deadline, func() error {
		if _, err := fmt.Sscan(stdout.String(), &pid); err != nil {
			return fmt.Errorf("not ready: %v: %s", err, stderr)
		}
		return nil
	})
	return pid
}

// run starts a guest of its own on the network by `run`.
func (n *networks) run(t testing.TB, network, name string, flags ...string) *member {
	t.Helper()
	args := slices.Concat([]string{"run", "--network", network, "--name", name}, flags, []string{"--", "sh", "-c", sleeper})
	h := n.start(t, args...)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s said:\n%s", name, h.Stderr)
		}
	})
	return n.member(t, network, name, pidOf(t, h.Stdout, h.Stderr), h)
}

// attach makes a process's namespace a member by `attach`.
func (n *networks) attach(t testing.TB, network, name string, pid int, flags ...string) *member {
	t.Helper()
	cfg := n.cfg
	cfg.Args = slices.Concat([]string{"attach", "--network", network, "--name", name, "-r", harness.ReadyFD}, flags, []string{fmt.Sprint(pid)})
	h := must(env.Start(timeout(t, deadline), cfg))(t)
	t.Cleanup(h.Kill)
	return n.member(t, network, name, pid, h)
}

// connect makes a process's namespace a member by `network connect`.
func (n *networks) connect(t testing.TB, network, name string, pid int, flags ...string) *member {
	t.Helper()
	n.do(t, slices.Concat([]string{"network", "connect", "--name", name}, flags, []string{network, fmt.Sprint(pid)})...)
	return n.member(t, network, name, pid, nil)
}

func (n *networks) member(t testing.TB, network, name string, pid int, h *harness.Helper) *member {
	t.Helper()
	guests.Add(1)
	g := must(env.GuestOf(pid))(t)
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	m := &member{world: &world{Guest: g, helper: h}, n: n, network: network}
	info := n.inspect(t, network)
	i := slices.IndexFunc(info.members, func(m shownMember) bool { return m.Name == name })
	if i < 0 {
		t.Fatalf("%s is not a member of %s: %s", name, network, info.Members)
	}
	m.shownMember = info.members[i]
	m.gateway = map[int]string{unix.AF_INET: info.Gateway.String()}
	if info.Subnet6.IsValid() {
		m.gateway[unix.AF_INET6] = info.Subnet6.Addr().Next().String()
	}
	return m
}

// leave ends a member's client, if it has one.
func (m *member) leave() { m.helper.Kill() }

// spawn starts a program as a plain user's on the host that executes the sleeper as its
// last argument, and gives the sleeper's process.
func spawn(t testing.TB, n *networks, argv ...string) (pid int) {
	t.Helper()
	cmd := exec.Command(argv[0], append(argv[1:], "sh", "-c", sleeper)...)
	cmd.Env = append(os.Environ(), n.variable())
	var out, said strings.Builder
	stdout := must(cmd.StdoutPipe())(t)
	cmd.Stderr = &said
	if err := env.Host.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		if pid > 0 {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		_ = cmd.Wait()
	})
	b := make([]byte, 16)
	k, err := stdout.Read(b)
	out.Write(b[:k])
	if _, scanErr := fmt.Sscan(out.String(), &pid); scanErr != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		t.Fatalf("%q is not ready: %v, %v: %s", argv, err, scanErr, said.String())
	}
	return pid
}

// The port of the members' servers, where each echoes by TCP and UDP.
const echoPort = "7000"

// serveEcho starts them.
func (m *member) serveEcho(t testing.TB) {
	t.Helper()
	for _, f := range families() {
		// One for both would depend on what package net has found out in the namespace
		// where it was used first.
		serveTCP(t, m.NetNS, "tcp"+f.v, f.anyHost()+":"+echoPort, echoTCP)
		servePacket(t, m.NetNS, "udp"+f.v, f.anyHost()+":"+echoPort, echoPacket)
	}
}

// ways are how a member reaches another: each gives an error if it does not.
var ways = map[string]func(*member, testing.TB, family, string, time.Duration) error{
	"TCP":  (*member).tryTCP,
	"UDP":  (*member).tryUDP,
	"ping": (*member).tryPing,
}

// patience is how long a way is tried that should not lead anywhere, and one that is tried
// again when it does not lead there yet. Where a single try has to succeed it has the deadline.
const patience = 500 * time.Millisecond

func (m *member) tryTCP(t testing.TB, f family, to string, wait time.Duration) error {
	t.Helper()
	c, err := m.Dial(timeout(t, wait), "tcp"+f.v, net.JoinHostPort(to, echoPort))
	if err != nil {
		return err
	}
	defer c.Close()
	return errors.Join(c.SetDeadline(time.Now().Add(deadline)), says(c, "hello"), echoesWhole(c, random(1, 300_000)))
}

func (m *member) tryUDP(t testing.TB, f family, to string, wait time.Duration) error {
	t.Helper()
	c, err := m.Dial(timeout(t, wait), "udp"+f.v, net.JoinHostPort(to, echoPort))
	if err != nil {
		return err
	}
	defer c.Close()
	return errors.Join(c.SetDeadline(time.Now().Add(wait)), says(c, "hello"))
}

func (m *member) tryPing(t testing.TB, f family, to string, wait time.Duration) error {
	t.Helper()
	p := m.pinger(t, f)
	defer p.Close()
	dst, err := net.ResolveIPAddr("ip"+f.v, to)
	if err != nil {
		return err
	}
	id := uint16(rand.Uint32())
	if _, err := p.WriteTo(echoRequest(f, id, 1, []byte("hello")), dst); err != nil {
		return err
	}
	reply, _, _ := p.types()
	for {
		switch msg, _ := p.wait(t, wait, reply); {
		case msg == nil:
			return fmt.Errorf("no reply: %w", os.ErrDeadlineExceeded)
		case binary.BigEndian.Uint16(msg[4:]) == id:
			return nil
		}
	}
}
