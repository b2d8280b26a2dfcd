package test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// transfer sends size bytes from one member to another, stops half-way until resume is
// closed, and delivers what became of it. half is closed when it stops.
func transfer(t testing.TB, from, to *member, size int, resume <-chan struct{}) (half <-chan struct{}, done <-chan error) {
	t.Helper()
	block, sum, want := random(77, 1<<20), sha256.New(), sha256.New()
	l := must(to.Listen("tcp", "[::]:0"))(t)
	c := must(from.Dial(timeout(t, deadline), "tcp4", hostPort(to.IPv4.String(), l.Addr())))(t)
	t.Cleanup(func() { l.Close(); c.Close() })
	halfway, result := make(chan struct{}), make(chan error, 1)
	received := make(chan error, 1)
	go func() {
		s, err := l.Accept()
		if err != nil {
			received <- err
			return
		}
		defer s.Close()
		s.SetDeadline(time.Now().Add(time.Minute))
		n, err := io.Copy(sum, s)
		if err == nil && n != int64(size) {
			err = fmt.Errorf("%d bytes of %d", n, size)
		}
		received <- err
	}()
	go func() {
		c.SetDeadline(time.Now().Add(time.Minute))
		var err error
		for i := range size / len(block) {
			if i == size/len(block)/2 {
				close(halfway)
			}
			want.Write(block)
			if _, err = c.Write(block); err != nil {
				break
			}
		}
		if err == nil {
			select {
			case <-resume:
				err = c.(*net.TCPConn).CloseWrite()
			case <-t.Context().Done(): // the test has failed
				err = t.Context().Err()
			}
		}
		if err != nil {
			c.Close()
		}
		err = errors.Join(err, <-received)
		if err == nil && !bytes.Equal(sum.Sum(nil), want.Sum(nil)) {
			err = errors.New("the checksum is wrong")
		}
		result <- err
	}()
	return halfway, result
}

// survives is a network whose processes something is done to: a member with published
// ports, one that talks to it, and a place outside.
type survives struct {
	*networks
	outside place
	db, app *member
}

func newSurvivors(t testing.TB, port string) *survives {
	t.Helper()
	n := newNetworks(t)
	s := &survives{networks: n, outside: newOutside(t)}
	s.db = n.run(t, "web", "db", "-p", "0.0.0.0:"+port+":"+echoPort, "-p", "[::]:"+port+":"+echoPort+"/udp")
	s.app = n.attach(t, "web", "app", newGuest(t).PID, "--alias", "front")
	for _, m := range []*member{s.db, s.app} {
		m.serveEcho(t)
	}
	return s
}

// works is an error if something of the network is not as it was.
func (s *survives) works(t testing.TB, port string, wait time.Duration) error {
	for _, f := range families() {
		for way, try := range ways {
			if err := try(s.app, t, f, s.db.address(f), wait); err != nil {
				return fmt.Errorf("app to db by %s over %s: %w", way, f.name, err)
			}
			if err := try(s.app, t, f, s.outside.of(f), wait); err != nil {
				return fmt.Errorf("app to outside by %s over %s: %w", way, f.name, err)
			}
		}
	}
	for _, name := range []string{"db", "front.web"} {
		r, err := s.app.tryAsk(t, "udp4", name, dns.TypeA, wait)
		if err != nil || len(r.Answer) != 1 {
			return fmt.Errorf("%s: %v, %w", name, r, err)
		}
	}
	return publishedEchoes(t, port, wait)
}

func publishedEchoes(t testing.TB, port string, wait time.Duration) error {
	for network, to := range map[string]string{"tcp4": harness.HostIPv4, "udp6": harness.HostIPv6} {
		c, err := env.Net.Net.Dial(timeout(t, wait), network, net.JoinHostPort(to, port))
		if err != nil {
			return fmt.Errorf("the published port: %w", err)
		}
		c.SetDeadline(time.Now().Add(wait))
		err = says(c, "hello")
		c.Close()
		if err != nil {
			return fmt.Errorf("the published port by %s: %w", network, err)
		}
	}
	return nil
}

// TestN4_Survives the death of its worker, of its keeper, and an upgrade: a transfer
// between members that is under way ends with the right checksum, addresses stay, names,
// published ports and the way out are back within 2 seconds.
func TestN4_Survives(t *testing.T) {
	t.Parallel()
	const size = 1 << 30 // enough to be in the middle of it
	for i, what := range []struct {
		name   string
		do     func(testing.TB, *survives, shown)
		keeper bool // is another afterwards
	}{
		{name: "worker", do: func(t testing.TB, _ *survives, s shown) { kill(t, s.Worker) }},
		{name: "keeper", do: func(t testing.TB, _ *survives, s shown) { kill(t, s.Keeper) }, keeper: true},
		{name: "both", do: func(t testing.TB, _ *survives, s shown) { kill(t, s.Worker); kill(t, s.Keeper) }, keeper: true},
		{name: "upgrade", do: upgrade},
	} {
		t.Run(what.name, func(t *testing.T) {
			t.Parallel()
			port := fmt.Sprint(19100 + i)
			s := newSurvivors(t, port)
			if err := s.works(t, port, deadline); err != nil {
				t.Fatal(err)
			}
			before := s.inspect(t, "web")
			resume := make(chan struct{})
			half, done := transfer(t, s.app, s.db, size, resume)
			<-half
			what.do(t, s, before)
			begin := time.Now()
			soon(t, 2*time.Second, func() error { return s.works(t, port, patience) })
			t.Logf("everything works after %v", time.Since(begin))
			close(resume)
			if err := <-done; err != nil {
				t.Errorf("the transfer: %v", err)
			}
			after := s.inspect(t, "web")
			if after.Worker == before.Worker || (after.Keeper != before.Keeper) != what.keeper {
				t.Errorf("the processes were %d and %d, and are %d and %d", before.Keeper, before.Worker, after.Keeper, after.Worker)
			}
			if len(after.members) != len(before.members) || after.Subnet != before.Subnet || after.Subnet6 != before.Subnet6 {
				t.Fatalf("the network was %+v, and is %+v", before, after)
			}
			for i, m := range after.members {
				b := before.members[i]
				if m.Name != b.Name || m.IPv4 != b.IPv4 || m.IPv6 != b.IPv6 || m.MAC != b.MAC || !m.Since.Equal(b.Since) || len(m.Publish) != len(b.Publish) {
					t.Errorf("a member was %+v, and is %+v", b, m)
				}
			}
		})
	}
}

func kill(t testing.TB, pid int) {
	t.Helper()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// upgrade has a copy of the program at another path go on, which then is what runs.
func upgrade(t testing.TB, s *survives, before shown) {
	t.Helper()
	newer := filepath.Join(s.dir, "newer")
	program := must(os.ReadFile(env.Binary))(t)
	if err := os.WriteFile(newer, program, 0o755); err != nil {
		t.Fatal(err)
	}
	cfg := s.cfg
	cfg.Args, cfg.NoWait = []string{"network", "upgrade", "web"}, true
	cfg.Wrap = []string{"sh", "-c", `shift; exec "$0" "$@"`, newer}
	h := must(env.Start(timeout(t, deadline), cfg))(t)
	defer h.Kill()
	if code, _, err := h.Exit(timeout(t, deadline)); code != 0 || err != nil {
		t.Fatalf("exit status %d, %v: %s", code, err, h.Stderr)
	}
	soon(t, 2*time.Second, func() error {
		info, err := s.tryInspect(t, "web")
		if err != nil || info.Worker == before.Worker {
			return fmt.Errorf("the worker is still %d: %w", info.Worker, err)
		}
		if path, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", info.Worker)); err != nil || path != newer {
			return fmt.Errorf("the worker is %s: %w", path, err)
		}
		return nil
	})
}

// TestN4_DetachedMembers outlive the worker, and end with their process, or when they
// are disconnected.
func TestN4_DetachedMembers(t *testing.T) {
	t.Parallel()
	n := newNetworks(t)
	first := must(env.NewGuest())(t)
	a, b := n.connect(t, "web", "a", first.PID), n.connect(t, "web", "b", newGuest(t).PID)
	b.serveEcho(t)
	a.finds(t, b)
	kill(t, n.inspect(t, "web").Worker)
	soon(t, 2*time.Second, func() error {
		for _, f := range families() {
			if err := a.tryTCP(t, f, b.address(f), patience); err != nil {
				return err
			}
		}
		_, err := a.tryAsk(t, "udp4", "b", dns.TypeA, patience)
		return err
	})
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	// Its namespace is still held by this test; its process is not.
	soon(t, 3*time.Second, func() error {
		if r, err := b.tryAsk(t, "udp4", "a", dns.TypeA, patience); err != nil || r.Rcode != dns.RcodeNameError {
			return fmt.Errorf("a is known: %v, %w", r, err)
		}
		return nil
	})
	n.do(t, "network", "disconnect", "web", "b")
	soon(t, time.Second, func() error { // until the keeper has let go of it, too
		if links, err := b.Links(); err != nil || len(links) > 0 {
			return fmt.Errorf("a disconnected member has %v, %w", links, err)
		}
		return nil
	})
	n.gone(t)
}

// TestN5_DisconnectedFromOneOfTwo: the interface goes, and the guest reaches outside by
// its other network.
func TestN5_DisconnectedFromOneOfTwo(t *testing.T) {
	t.Parallel()
	n := newNetworks(t)
	outside := newOutside(t)
	app := n.run(t, "front", "app", "--network", "back")
	n.do(t, "network", "disconnect", "front", "app")
	eventually(t, deadline, func() error {
		links, err := app.Links()
		if err != nil || len(links) != 1 || links[0] != "eth1" {
			return fmt.Errorf("the guest has %v, %w", links, err)
		}
		return nil
	})
	for _, f := range families() {
		if err := app.tryTCP(t, f, outside.of(f), deadline); err != nil {
			t.Errorf("outside over %s: %v", f.name, err)
		}
	}
	app.leave()
	n.gone(t)
}

// TestN5_ConnectedToAnother: a guest of one network joins a second one while it runs, by
// an interface that it does not have yet, and never the same network twice.
func TestN5_ConnectedToAnother(t *testing.T) {
	t.Parallel()
	n := newNetworks(t)
	app, db := n.run(t, "front", "app"), n.run(t, "back", "db")
	db.serveEcho(t)
	behind := n.connect(t, "back", "app", app.PID)
	if behind.Interface != "eth1" {
		t.Errorf("the interface is %s", behind.Interface)
	}
	behind.finds(t, db)
	if _, stderr, code := n.try(t, "network", "connect", "front", fmt.Sprint(app.PID)); code != 1 || !strings.Contains(stderr, "called app") {
		t.Errorf("connected twice: exit status %d, %q", code, stderr)
	}
	if links, err := app.Links(); err != nil || len(links) != 2 {
		t.Errorf("the guest has %v, %v", links, err)
	}
	app.leave()
	db.leave()
	n.gone(t)
}

// TestN5_MemberLeaves: when its command ends, its name, address and ports are free at
// once; the network ends a while after its last member, and leaves nothing.
func TestN5_MemberLeaves(t *testing.T) {
	t.Parallel()
	n := newNetworks(t)
	stays := n.run(t, "web", "stays")
	for _, how := range []struct {
		name string
		end  func(*member)
	}{
		{"command ends", func(m *member) { kill(t, m.PID) }},
		{"run is killed", func(m *member) { kill(t, m.helper.PID) }},
		{"SIGTERM", func(m *member) { _ = m.helper.Signal(unix.SIGTERM) }},
	} {
		t.Run(how.name, func(t *testing.T) {
			m := n.run(t, "web", "db", "--ip", "10.90.0.77", "-p", "127.0.0.1:19120:7000")
			if m.IPv4.String() != "10.90.0.77" {
				t.Errorf("the address is %v", m.IPv4)
			}
			how.end(m)
			if _, _, err := m.helper.Exit(timeout(t, deadline)); err != nil {
				t.Fatal(err)
			}
			soon(t, time.Second, func() error {
				if r, err := stays.tryAsk(t, "udp4", "db", dns.TypeA, patience); err != nil || r.Rcode != dns.RcodeNameError {
					return fmt.Errorf("the name is known: %v, %w", r, err)
				}
				return nil
			})
			if err := refusal(t, env.Host, "tcp4", "127.0.0.1:19120"); !isErrno(err, syscall.ECONNREFUSED) {
				t.Errorf("the port: %v", err)
			}
			// All of it is another's now, by the same options.
			next := n.run(t, "web", "other", "--alias", "db", "--ip", "10.90.0.77", "-p", "127.0.0.1:19120:7000")
			wantRecords(t, stays, "udp4", "db", dns.TypeA, "10.90.0.77")
			next.leave()
		})
	}
	stays.leave()
	n.gone(t)
}

// TestN5_StartsOnce: members that come at the same time make one network.
func TestN5_StartsOnce(t *testing.T) {
	t.Parallel()
	n := newNetworks(t)
	const members = 8
	var started sync.WaitGroup
	helpers := make([]*harness.Helper, members)
	for i := range helpers {
		started.Go(func() {
			cfg := n.cfg
			cfg.Args, cfg.NoWait = []string{"run", "--network", "web", "--name", fmt.Sprint("m", i), "--", "sh", "-c", sleeper}, true
			helpers[i], _ = env.Start(t.Context(), cfg)
		})
	}
	started.Wait()
	for _, h := range helpers {
		if h == nil {
			t.Fatal("not started")
		}
		t.Cleanup(h.Kill)
	}
	for _, h := range helpers {
		pidOf(t, h.Stdout, h.Stderr)
	}
	info := n.inspect(t, "web")
	addresses := map[string]bool{}
	for _, m := range info.members {
		addresses[m.IPv4.String()] = true
	}
	if len(info.members) != members || len(addresses) != members {
		t.Errorf("%d members with %d addresses, want %d: %s", len(info.members), len(addresses), members, info.Members)
	}
	keepers := 0
	for _, what := range harness.ProcessesWith(n.variable()) {
		if strings.Contains(what, "network serve") {
			keepers++
		}
	}
	if keepers != 1 {
		t.Errorf("%d keepers: %v", keepers, harness.ProcessesWith(n.variable()))
	}
	for _, h := range helpers {
		if s := h.Stderr.String(); s != "" {
			t.Errorf("a member said %q", s)
		}
	}
}

// TestN5_Terminated: SIGTERM ends the network, as a service manager does; its members
// start it again.
func TestN5_Terminated(t *testing.T) {
	t.Parallel()
	n := newNetworks(t)
	service := n.start(t, "network", "serve", "--stay", "web")
	eventually(t, deadline, func() error {
		_, err := n.tryInspect(t, "web")
		return err
	})
	a := n.run(t, "web", "a")
	if err := service.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code, sig, err := service.Exit(timeout(t, deadline)); code != 0 || sig != 0 || err != nil {
		t.Errorf("exit status %d, signal %v, %v: %s", code, sig, err, service.Stderr)
	}
	soon(t, 2*time.Second, func() error {
		info, err := n.tryInspect(t, "web")
		if err == nil && (len(info.members) != 1 || info.members[0].IPv4 != a.IPv4) {
			err = fmt.Errorf("members: %s", info.Members)
		}
		return err
	})
	a.leave()
	n.gone(t)
}
