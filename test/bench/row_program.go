package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// pair is a server and a client that people run, and how to read what the client says.
type pair struct {
	name    string // of the row
	title   string
	digits  int                                       // of the rate
	needs   []string                                  // programs, found by [lookup]
	prepare func(context.Context, *scene, site) error // what the server reads; nil: nothing
	serve   func(site) []string                       // the server's command line, in the foreground
	ready   func(site) []string                       // succeeds once it takes clients; nil: once it listens
	ask     func(site) []string                       // the client's
	parse   func(string) (report, error)
	bytes   bool // what is counted are bytes, else operations
	dns     bool // the server is the host's resolver
}

// site is where a pair is at work.
type site struct {
	dir     string         // of this sample, empty at first
	at      netip.AddrPort // where the server listens
	to      netip.AddrPort // what the client connects to
	seconds int            // for how long the client is to ask
}

// report is what a client says of its run.
type report struct {
	done    float64 // operations or bytes
	seconds float64 // that they took; 0: as long as the program ran
	errors  float64 // operations that have failed
}

// row of the pair with the server on the host.
func (p pair) row() row {
	r := row{name: p.name, mtu: bigMTU, needs: p.needs, dns: p.dns, run: p.run}
	if p.bytes {
		r.metrics = []metric{
			{key: "gbps", title: p.title, unit: "Gbit/s", digits: 1},
			{key: "cpu_s_per_gb", title: p.title, unit: "helper CPU s/GB", lower: true, digits: 2, helpers: true},
			{key: "all_cpu_s_per_gb", title: p.title, unit: "CPU s/GB with client and server", lower: true, digits: 2},
		}
		return r
	}
	r.metrics = operationMetrics(p.title)
	r.metrics[0].digits = p.digits
	return r
}

// programRows are pairs, each out and by a published port, and again where the helper has
// less of the machine.
func programRows() []row {
	var rows []row
	add := func(r row, group string) {
		r.groups = []string{group}
		rows = append(rows, r)
	}
	list := goRows()
	for _, p := range pairs() {
		list = append(list, p.row())
	}
	for _, r := range list {
		for _, r := range []row{r, publish(r)} {
			add(r, "programs")
			for _, v := range variants() {
				add(v.of(r), "programs-"+v.name)
			}
		}
	}
	return rows
}

// publish turns a row round: the server is in the guest, the client on the host.
func publish(r row) row {
	r.name, r.published, r.dns = "published-"+r.name, &published{mode: "auto", udp: r.dns}, false
	return r.titled(func(title string) string { return "Published port: " + title })
}

// variant is a row with less of the machine for the helper.
type variant struct {
	name, title string
	set         func(*row)
}

func variants() []variant {
	return []variant{
		{"cores-1", ", helper on 1 processor", func(r *row) { r.cpus, r.helpers = 1, true }},
		{"pinned", ", all on one processor", func(r *row) { r.together = true }},
		{"beside", ", beside a busy program", func(r *row) { r.beside = true }},
	}
}

// of is the variant of a row, measured only when named.
func (v variant) of(r row) row {
	r.name, r.extra = v.name+"-"+r.name, true
	v.set(&r)
	return r.titled(func(title string) string { return title + v.title })
}

// titled changes the titles of a row's metrics.
func (r row) titled(f func(string) string) row {
	r.metrics = slices.Clone(r.metrics)
	for i := range r.metrics {
		r.metrics[i].title = f(r.metrics[i].title)
	}
	return r
}

// operationMetrics are the rate of operations, what each costs the helper, and what it
// costs with client and server.
func operationMetrics(title string) []metric {
	return []metric{
		{key: "per_s", title: title, unit: "per s"},
		{key: "cpu_us_per_op", title: title, unit: "helper CPU µs", lower: true, digits: 1, helpers: true},
		allCPU(title),
	}
}

// allCPU is what an operation costs all that take part.
func allCPU(title string) metric {
	return metric{key: "all_cpu_us_per_op", title: title, unit: "CPU µs with client and server", lower: true, digits: 1}
}

// run has the client ask, again and again until the window is over. CPU time is from the
// first one's start to the last one's end.
func (p pair) run(ctx context.Context, s *scene, window time.Duration) (values, error) {
	dir, err := os.MkdirTemp("", p.name+"-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	at := netip.AddrPortFrom(s.server, s.port)
	if s.port == 0 {
		at = netip.AddrPortFrom(s.server, guestPort) // free: the host is new
	}
	where := site{dir: dir, at: at, to: netip.AddrPortFrom(s.target, at.Port()), seconds: max(1, int(window.Seconds()))}
	if s.targetPort != 0 {
		where.to = netip.AddrPortFrom(s.target, s.targetPort)
	}
	if p.prepare != nil {
		if err := p.prepare(ctx, s, where); err != nil {
			return nil, fmt.Errorf("prepare %s: %w", p.needs[0], err)
		}
	}
	server, err := startProgram(s.servers, p.serve(where)...)
	if err != nil {
		return nil, err
	}
	defer server.kill()
	if err := p.await(ctx, s, server, where); err != nil {
		return nil, fmt.Errorf("%s does not serve: %w: %s", p.needs[0], err, server.output())
	}
	if s.together {
		if err := errors.Join(s.helper.pin(1), server.pin(1)); err != nil {
			return nil, err
		}
	}
	u := usage{scene: s, server: server}
	return u.measure(ctx, p, where, window)
}

// await waits until the server takes clients.
func (p pair) await(ctx context.Context, s *scene, server *helper, where site) error {
	ctx, cancel := context.WithTimeout(ctx, defaultPatience)
	defer cancel()
	for {
		err := p.serves(ctx, s, where)
		if err == nil {
			return nil
		}
		if ended := errors.Join(server.alive(), pause(ctx, 5*time.Millisecond)); ended != nil {
			return errors.Join(err, ended)
		}
	}
}

// serves gives an error while the server does not take clients.
func (p pair) serves(ctx context.Context, s *scene, where site) error {
	proto := "tcp"
	if p.dns {
		proto = "udp"
	}
	if err := listens(s.servers, proto, where.at.Port()); err != nil || p.ready == nil {
		return err
	}
	return s.tool(ctx, p.ready(where)...)
}

// usage is the CPU time of all that takes part in a sample.
type usage struct {
	scene  *scene
	server *helper
}

// measure runs clients for a window.
func (u usage) measure(ctx context.Context, p pair, where site, window time.Duration) (values, error) {
	helperBefore, err := u.scene.helperCPU()
	if err != nil {
		return nil, err
	}
	serverBefore, err := u.server.cpuWithEnded()
	if err != nil {
		return nil, err
	}
	var sum report
	var clients time.Duration
	for begin := time.Now(); time.Since(begin) < window; {
		r, cpu, err := u.client(ctx, p, where)
		if err != nil {
			return nil, err
		}
		sum.done, sum.seconds, sum.errors = sum.done+r.done, sum.seconds+r.seconds, sum.errors+r.errors
		clients += cpu
	}
	helperAfter, err := u.scene.helperCPU()
	if err != nil {
		return nil, err
	}
	serverAfter, err := u.server.cpuWithEnded()
	if err != nil {
		return nil, err
	}
	if sum.done == 0 || sum.seconds == 0 {
		return nil, fmt.Errorf("%s has done nothing, with %v errors", p.name, sum.errors)
	}
	helper := helperAfter - helperBefore
	all := helper + clients + serverAfter - serverBefore
	if p.bytes {
		gb := sum.done / 1e9
		return values{"gbps": gb * 8 / sum.seconds, "cpu_s_per_gb": helper.Seconds() / gb, "all_cpu_s_per_gb": all.Seconds() / gb, "errors": sum.errors}, nil
	}
	return values{"per_s": sum.done / sum.seconds, "cpu_us_per_op": helper.Seconds() * 1e6 / sum.done, "all_cpu_us_per_op": all.Seconds() * 1e6 / sum.done, "errors": sum.errors}, nil
}

// clientLimit bounds a client that counts requests and not seconds: where a peer loses a
// connection, it would wait for ever.
const clientLimit = 20 * time.Second

// client runs one to its end, and gives the CPU time that it took.
func (u usage) client(ctx context.Context, p pair, where site) (r report, cpu time.Duration, err error) {
	limit := clientLimit + time.Duration(where.seconds)*time.Second
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not ended after %v", limit))
	defer cancel()
	if where.dir, err = os.MkdirTemp(where.dir, "client-"); err != nil {
		return r, 0, err
	}
	defer os.RemoveAll(where.dir)
	argv := p.ask(where)
	var out, complaint strings.Builder
	cmd, err := program(argv...)
	if err != nil {
		return r, 0, err
	}
	cmd.Stdout, cmd.Stderr = &out, &complaint
	begin := time.Now()
	if err := u.scene.client.Start(cmd); err != nil {
		return r, 0, fmt.Errorf("start %s: %w", argv[0], err)
	}
	stop := context.AfterFunc(ctx, func() { cmd.Process.Kill() })
	defer stop()
	if u.scene.together {
		// What it starts in between is caught by the second pass.
		h := &helper{pid: cmd.Process.Pid}
		_ = errors.Join(h.pin(1), h.pin(1)) // it may have ended already
	}
	if err := cmd.Wait(); err != nil {
		return r, 0, errors.Join(fmt.Errorf("%s: %w: %s", argv[0], err, oneLine(complaint.String())), context.Cause(ctx))
	}
	took := time.Since(begin)
	if r, err = p.parse(out.String()); err != nil {
		return r, 0, fmt.Errorf("parse report of %s: %w", argv[0], err)
	}
	if r.seconds == 0 {
		r.seconds = took.Seconds()
	}
	// With that of the processes that it has waited for.
	return r, cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), nil
}

// helperCPU is 0 for a ceiling.
func (s *scene) helperCPU() (time.Duration, error) {
	if s.helper == nil {
		return 0, nil
	}
	return s.helper.cpu()
}

// startProgram starts a program whose processes all end when it is killed.
func startProgram(ns *harness.NetNS, argv ...string) (*helper, error) {
	cmd, err := program(argv...)
	if err != nil {
		return nil, err
	}
	h, err := newHelper(cmd.Path)
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = h.log, h.log
	h.cmd = cmd
	if err := ns.Start(cmd); err != nil {
		h.log.Close()
		return nil, fmt.Errorf("start %s: %w", argv[0], err)
	}
	h.pid = cmd.Process.Pid
	return h, nil
}

// program prepares a program that is the first of its PID namespace: the kernel ends the
// others with it. Its System V shared memory goes with
// its IPC namespace.
func program(argv ...string) (*exec.Cmd, error) {
	path, err := lookup(argv[0])
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(path, argv[1:]...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWIPC}
	return cmd, nil
}

// lookup finds a program, also where distributions put those that are no commands.
func lookup(name string) (string, error) {
	for _, dir := range []string{"/usr/sbin", "/usr/lib/git-core", "/usr/libexec/git-core", "/usr/lib/postgresql/*/bin"} {
		if found, err := filepath.Glob(filepath.Join(dir, name)); err == nil && len(found) > 0 {
			return found[len(found)-1], nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s is not installed (as root, sh test/prepare.sh bench installs it)", name)
	}
	return path, nil
}

// missing says which program a row cannot be measured without.
func (r row) missing() error {
	for _, name := range r.needs {
		if _, err := lookup(name); err != nil {
			return err
		}
	}
	return nil
}

// scratch names a directory with what a program serves, which is kept for the run.
func scratch(name string) string { return filepath.Join(os.TempDir(), name) }

// fillOnce makes such a directory where there is none yet.
func fillOnce(name string, fill func(dir string) error) error {
	dir := scratch(name)
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := fill(dir); err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	return nil
}

// tool runs a program to its end, on the host.
func (s *scene) tool(ctx context.Context, argv ...string) error {
	cmd, err := program(argv...)
	if err != nil {
		return err
	}
	return s.finish(ctx, cmd)
}

// finish runs a command to its end, on the host.
func (s *scene) finish(ctx context.Context, cmd *exec.Cmd) error {
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := s.host.Start(cmd); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { cmd.Process.Kill() })
	defer stop()
	if err := cmd.Wait(); err != nil {
		return errors.Join(fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, oneLine(out.String())), ctx.Err())
	}
	return nil
}
