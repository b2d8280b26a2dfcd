package tap

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"epiphyte/internal/hostnet"
	"epiphyte/internal/testnet"
)

const (
	guestName = "tap-test-guest" // argv[0] of a process that lives in namespaces of its own
	plainUID  = 65534            // whom the tests run as when started by root
)

func TestMain(m *testing.M) {
	if os.Args[0] == guestName {
		os.Exit(guestMain())
	}
	if os.Geteuid() == 0 {
		os.Exit(dropRoot(m))
	}
	os.Exit(m.Run())
}

// Descriptors of root's network namespaces, which tests run by root get to see
// how a refusal looks: one owned by a user namespace of root's, one by ours.
const (
	foreignUserNet = "/proc/self/fd/3"
	foreignNet     = "/proc/self/fd/4"
	envForeign     = "TAP_TEST_FOREIGN"
)

// dropRoot runs the tests again as a user without privileges, since that is
// what they are about. The root of a user namespace that has no other user runs
// them itself.
func dropRoot(m *testing.M) int {
	if st, err := os.Stat("/dev/net/tun"); err == nil && st.Mode().Perm() != 0o666 {
		if err := os.Chmod("/dev/net/tun", 0o666); err != nil {
			fmt.Fprintln(os.Stderr, "make /dev/net/tun usable:", err)
		}
	}
	var args []string
	for _, a := range os.Args[1:] {
		// These files are in directories that only root may write to.
		if !strings.HasPrefix(a, "-test.testlogfile=") && !strings.HasPrefix(a, "-test.coverprofile=") &&
			!strings.HasPrefix(a, "-test.gocoverdir=") {
			args = append(args, a)
		}
	}
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), envForeign+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: plainUID, Gid: plainUID},
		Pdeathsig:  syscall.SIGKILL,
	}
	for _, n := range []nesting{{}, {SameUser: true}} {
		owner, _, _, err := startGuest(n)
		if err != nil {
			return m.Run()
		}
		defer owner.Wait()
		defer owner.Process.Kill()
		netns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", owner.Process.Pid))
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer netns.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, netns)
	}
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	if err != nil {
		return m.Run()
	}
	return 0
}

// guest is a process in namespaces of its own that does what it is told: one
// JSON command per line in, one answer per line out.
type guest struct {
	t   *testing.T
	pid int
	in  *json.Encoder
	out *json.Decoder
}

type command struct {
	Do     string
	Name   string
	PID    int
	Config Config
	Nested nesting
}

type answerTo struct {
	Err    string
	PID    int
	Text   string
	Link   linkInfo
	Device openInfo

	Transparent [2]bool
}

type linkInfo struct {
	Exists     bool
	Up         bool
	MTU        int
	MAC        string
	Addrs      []string
	Routes     []string
	Persistent bool
	MultiQueue bool
	LoopbackUp bool
	TSO        bool
}

type openInfo struct {
	Name    string
	VNetHdr bool
	Offload bool
	USO     bool
	MAC     [6]byte
}

func infoOf(d *Device) openInfo {
	return openInfo{d.Name(), d.VNetHdr(), d.Offload(), d.USO(), d.HardwareAddr()}
}

// nesting says which namespaces a guest gets and who it is inside.
type nesting struct {
	SameUser bool // only a new network namespace
	KeepNet  bool // only a new user namespace
	UID      int  // uid inside
}

func startGuest(n nesting) (*exec.Cmd, *json.Encoder, *json.Decoder, error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{guestName}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if n.KeepNet {
		cmd.SysProcAttr.Cloneflags = 0
	}
	if !n.SameUser {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: n.UID, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: n.UID, HostID: os.Getegid(), Size: 1}}
		if n.UID != 0 {
			// As unshare --map-current-user --keep-caps does, so that the
			// guest can look after its own network.
			cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_NET_ADMIN}
		}
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, nil, err
	}
	return cmd, json.NewEncoder(stdin), json.NewDecoder(bufio.NewReader(stdout)), nil
}

func newGuest(t *testing.T, n nesting) *guest {
	t.Helper()
	g := newProcess(t, n)
	g.do(command{Do: "link", Name: "lo"}) // it runs now
	return g
}

func newProcess(t *testing.T, n nesting) *guest {
	t.Helper()
	testnet.NeedTUN(t)
	cmd, in, out, err := startGuest(n)
	testnet.NeedNamespaces(t, err)
	g := &guest{t: t, pid: cmd.Process.Pid, in: in, out: out}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return g
}

// try gives a command and returns the answer, errors included.
func (g *guest) try(c command) answerTo {
	g.t.Helper()
	var a answerTo
	if err := g.in.Encode(c); err != nil {
		g.t.Fatalf("guest %s: %v", c.Do, err)
	}
	if err := g.out.Decode(&a); err != nil {
		g.t.Fatalf("guest %s: %v", c.Do, err)
	}
	return a
}

func (g *guest) do(c command) answerTo {
	g.t.Helper()
	a := g.try(c)
	if a.Err != "" {
		g.t.Fatalf("guest %s: %s", c.Do, a.Err)
	}
	return a
}

func (g *guest) link(name string) linkInfo {
	g.t.Helper()
	return g.do(command{Do: "link", Name: name}).Link
}

func (g *guest) path(ns string) string { return fmt.Sprintf("/proc/%d/ns/%s", g.pid, ns) }

// guestMain serves commands until its input ends.
func guestMain() int {
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	s := &guestServer{}
	for {
		var c command
		if in.Decode(&c) != nil {
			return 0
		}
		a, err := s.serve(c)
		if err != nil {
			a.Err = err.Error()
		}
		if out.Encode(a) != nil {
			return 1
		}
	}
}

type guestServer struct {
	held     int
	device   *Device
	agent    *AgentProcess
	listener net.Listener
	children []*exec.Cmd
}

func (s *guestServer) serve(c command) (a answerTo, err error) {
	switch c.Do {
	case "link":
		a.Link, err = inspectLink(c.Name)
	case "network": // what it has beside loopback's, a line each
		var w *hostnet.Watcher
		if w, err = hostnet.Open(hostnet.Config{}); err == nil {
			a.Text = describe(w.Network())
			err = w.Close()
		}
	case "add", "add-mq": // a persistent TAP, as RootlessKit makes one
		flags := netlink.TUNTAP_NO_PI
		if c.Do == "add-mq" {
			flags |= netlink.TUNTAP_MULTI_QUEUE
		}
		err = persistentTAP(c.Name, uint16(flags))
	case "make":
		err = Make(c.Name, c.Config.Queues)
	case "delete":
		err = netlink.LinkDel(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Name: c.Name, Index: index(c.Name)}})
	case "up":
		err = netlink.LinkSetUp(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: index(c.Name)}})
	case "hold": // be the other program that is attached
		s.held, err = hold(c.Name, flagsPlain)
	case "hold-mq":
		s.held, err = hold(c.Name, flagsPlain|unix.IFF_MULTI_QUEUE)
	case "release":
		err = unix.Close(s.held)
	case "open":
		var d *Device
		if d, err = Open(context.Background(), c.Config); err == nil {
			a.Device = infoOf(d)
			err = d.Close()
		}
	case "open and pass": // and keep it
		if s.device, err = Open(context.Background(), c.Config); err == nil {
			a.Device = infoOf(s.device)
			err = passFD(c.Name, s.device.FD())
		}
	case "start agent and pass": // for a guest of network()
		s.agent, err = StartAgentProcess(context.Background(), AgentConfig{Target: c.Config.Target,
			Subnet4: network().Address.Masked(), Gateway4: network().Gateway})
		if err == nil {
			err = s.agent.Started(context.Background())
		}
		if err == nil {
			a.PID = s.agent.Process().Pid
			a.Transparent[v4], a.Transparent[v6] = s.agent.Transparent()
			err = passFD(c.Name, s.agent.FD())
		}
	case "close":
		err = s.device.Close()
	case "wait inside": // by a child that opens a pipe with nobody at the other end
		var j *join
		if j, err = resolve(Target{PID: c.PID}); err == nil {
			_, err = ask(j, openFile(c.Name, unix.O_RDONLY))
		}
	case "nest": // a guest inside, that lives until we end
		var cmd *exec.Cmd
		if cmd, _, _, err = startGuest(c.Nested); err == nil {
			s.children = append(s.children, cmd)
			a.PID = cmd.Process.Pid
		}
	case "address": // the IPv6 one that a router would have it take
		err = netlink.AddrAdd(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: index(c.Name)}}, &netlink.Addr{
			IPNet: &net.IPNet{IP: net.ParseIP("fd00::100"), Mask: net.CIDRMask(64, 128)}, Flags: unix.IFA_F_NODAD,
		})
	case "listen":
		if s.listener, err = net.Listen("tcp", c.Name); err == nil {
			a.Text = s.listener.Addr().String()
		}
	case "accept": // and say who it is
		var conn net.Conn
		if conn, err = s.listener.Accept(); err == nil {
			a.Text = conn.RemoteAddr().String()
			conn.Close()
		}
	case "connect": // and read to the end
		var conn net.Conn
		if conn, err = net.Dial("tcp", c.Name); err == nil {
			var b []byte
			b, err = io.ReadAll(conn)
			a.Text = string(b)
			conn.Close()
		}
	case "trace":
		err = trace(c.PID)
	default:
		err = fmt.Errorf("unknown command %q", c.Do)
	}
	return a, err
}

// describe lists addresses and routes, but those that the kernel makes of addresses.
func describe(n *hostnet.Network) string {
	var b strings.Builder
	for _, a := range n.Addresses {
		fmt.Fprintln(&b, a.Prefix)
	}
	for _, r := range n.Routes {
		if !r.Kernel {
			fmt.Fprintf(&b, "%v via %v metric %d on-link %v source %v\n", r.Dst, r.Gateway, r.Metric, r.OnLink, r.Source)
		}
	}
	return b.String()
}

func index(name string) int {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return 0
	}
	return ifi.Index
}

// hold opens a queue of an interface, creating it when it does not exist.
func hold(name string, flags uint16) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if _, err := setInterface(fd, name, flags); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func persistentTAP(name string, extra uint16) error {
	fd, err := hold(name, unix.IFF_TAP|extra)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1)
}

func inspectLink(name string) (linkInfo, error) {
	var f linkInfo
	if lo, err := netlink.LinkByName("lo"); err == nil {
		f.LoopbackUp = lo.Attrs().Flags&net.FlagUp != 0
	}
	link, err := netlink.LinkByName(name)
	if _, ok := errors.AsType[netlink.LinkNotFoundError](err); ok {
		return f, nil
	}
	if err != nil {
		return f, err
	}
	at := link.Attrs()
	f.Exists = true
	f.Up = at.Flags&net.FlagUp != 0
	f.MTU = at.MTU
	f.MAC = at.HardwareAddr.String()
	sock, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return f, err
	}
	defer unix.Close(sock)
	if f.TSO, err = hasTSO(sock, name); err != nil {
		return f, err
	}
	if tun, ok := link.(*netlink.Tuntap); ok {
		f.Persistent = !tun.NonPersist
		f.MultiQueue = tun.Flags&netlink.TUNTAP_MULTI_QUEUE != 0
	}
	addrs, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return f, err
	}
	for _, a := range addrs {
		f.Addrs = append(f.Addrs, a.IPNet.String())
	}
	routes, err := netlink.RouteList(link, netlink.FAMILY_V4)
	if err != nil {
		return f, err
	}
	for _, r := range routes {
		if r.Dst == nil || r.Dst.String() == "0.0.0.0/0" {
			f.Routes = append(f.Routes, "default via "+r.Gw.String())
		}
	}
	slices.Sort(f.Routes)
	return f, nil
}

// hasTSO reports whether an interface takes TCP segments (ETHTOOL_GTSO).
func hasTSO(sock int, name string) (bool, error) {
	value := struct{ cmd, data uint32 }{cmd: unix.ETHTOOL_GTSO}
	ifr := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [24 - unsafe.Sizeof(uintptr(0))]byte
	}{data: unsafe.Pointer(&value)}
	copy(ifr.name[:unix.IFNAMSIZ-1], name)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(sock), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifr))); errno != 0 {
		return false, errno
	}
	return value.data != 0, nil
}

// network is the configuration used throughout.
func network() *Network {
	return &Network{
		Address: netip.MustParsePrefix("10.0.2.100/24"),
		Gateway: netip.MustParseAddr("10.0.2.2"),
		MTU:     65520,
		MAC:     net.HardwareAddr{0x02, 1, 2, 3, 4, 5},
	}
}
