package forwards

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"epiphyte/internal/pasta"
	"epiphyte/portfwd"
)

// busy is a port that another program has.
const busy = 81

// fakePorts remembers what is served, as *portfwd.Manager would.
type fakePorts struct {
	served  []portfwd.Rule
	exposed []portfwd.Exposed
	changes []portfwd.Change
}

func (p *fakePorts) Change(_ context.Context, c portfwd.Change) error {
	for _, r := range c.Add {
		if r.HostPort == busy {
			return &portfwd.BindError{Proto: r.Proto, Errno: unix.EADDRINUSE}
		}
	}
	p.changes = append(p.changes, c)
	p.served = append(minus(p.served, c.Remove), c.Add...)
	p.exposed = append(minus(p.exposed, c.Hide), c.Expose...)
	return nil
}

func minus[R comparable](list, others []R) []R {
	return slices.DeleteFunc(slices.Clone(list), func(r R) bool { return slices.Contains(others, r) })
}

func table(t testing.TB, lines ...string) (all pasta.Table) {
	t.Helper()
	for _, line := range lines {
		list, err := pasta.ParseLine(line)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, list...)
	}
	return all
}

func lines(t pasta.Table) (all []string) {
	for _, f := range t {
		all = append(all, f.String())
	}
	return all
}

// world is a program that is started again and again.
type world struct {
	t     *testing.T
	dir   string
	ports *fakePorts
	set   *Set
	log   bytes.Buffer
}

// start begins with what the command line says, and with the file.
func (w *world) start(commandLine ...string) {
	w.ports = new(fakePorts)
	w.log.Reset()
	base := table(w.t, commandLine...)
	w.ports.served, w.ports.exposed = Rules(base.Effective(), false)
	w.set = New(Config{Ports: w.ports, Table: base, Dir: w.dir, Logger: slog.New(slog.NewTextHandler(&w.log, nil))})
	w.set.Restore(w.t.Context())
}

func (w *world) want(want ...string) {
	w.t.Helper()
	if diff := cmp.Diff(want, lines(w.set.List())); diff != "" {
		w.t.Error(diff)
	}
	publish, expose := Rules(w.set.List().Effective(), false)
	if len(minus(publish, w.ports.served)) > 0 || len(minus(w.ports.served, publish)) > 0 {
		w.t.Errorf("served are %v, want %v", w.ports.served, publish)
	}
	if !slices.Equal(expose, w.ports.exposed) {
		w.t.Errorf("exposed are %v, want %v", w.ports.exposed, expose)
	}
}

func (w *world) change(c pasta.Change) {
	w.t.Helper()
	if err := w.set.Change(w.t.Context(), c); err != nil {
		w.t.Error(err)
	}
}

func (w *world) path() string { return filepath.Join(w.dir, "rules") }

// TestRulesAreBack: what was added besides the command line is there after a restart, and
// the command line is as it says.
func TestRulesAreBack(t *testing.T) {
	w := &world{t: t, dir: filepath.Join(t.TempDir(), "s.d")}
	w.start("-t 8000-8009", "-T 5432")
	w.want("-t 8000-8009", "-T 5432")
	w.change(pasta.Change{
		Delete: table(t, "-t 8001"),
		Add:    table(t, "-t 0.0.0.0/8080:10.89.0.2/80", "-u %eth0/53", "-t 8001:81", "-T 80:8080"),
	})
	now := []string{"-t 8000", "-t 8002-8009", "-T 5432", "-t 0.0.0.0/8080:10.89.0.2/80", "-u %eth0/53", "-t 8001:81", "-T 80:8080"}
	w.want(now...)
	b, err := os.ReadFile(w.path())
	if err != nil {
		t.Fatal(err)
	}
	want := heading + "-t 0.0.0.0/8080:10.89.0.2/80\n-u %eth0/53\n-t 8001:81\n-T 80:8080\n"
	if diff := cmp.Diff(want, string(b)); diff != "" {
		t.Error(diff)
	}
	if info, err := os.Stat(w.path()); err != nil || info.Mode() != 0o600 {
		t.Error(info.Mode(), err)
	}

	// Killed and started again. The command line wants port 8001 for itself.
	w.start("-t 8000-8009", "-T 5432")
	w.want("-t 8000-8009", "-T 5432", "-t 0.0.0.0/8080:10.89.0.2/80", "-u %eth0/53", "-T 80:8080")
	if log := w.log.String(); strings.Count(log, "\n") != 1 || !strings.Contains(log, "line=4") || !strings.Contains(log, "conflicts with -t 8000-8009: port 8001") {
		t.Error(log)
	}
	// Of another command line.
	w.start("-t 8080:80")
	w.want("-t 8080:80", "-u %eth0/53", "-t 8001:81", "-T 80:8080")

	w.change(pasta.Change{Clear: []string{"HOST", "SPLICE"}})
	w.want()
	if _, err := os.Stat(w.path()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file without rules: %v", err)
	}
	w.start("-t 8080:80")
	w.want("-t 8080:80")
}

// TestBrokenFile: each line that cannot be is one warning, and the others are there.
func TestBrokenFile(t *testing.T) {
	w := &world{t: t, dir: filepath.Join(t.TempDir(), "s.d")}
	w.start()
	content := "-t 80\n\n# mine\n-t 0\nrubbish\n-t 80:8080\n-t 81\n\x00\xff\n  -u 53  \n-u 54"
	if err := os.WriteFile(w.path(), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	w.start()
	w.want("-t 80", "-u 53", "-u 54")
	for _, line := range []string{"line=4", "line=5", "line=6", "line=7", "line=8"} {
		if strings.Count(w.log.String(), line) != 1 {
			t.Errorf("%s is not warned of once:\n%s", line, w.log.String())
		}
	}
	if err := os.WriteFile(w.path(), bytes.Repeat([]byte("x\n"), 100_000), 0o600); err != nil {
		t.Fatal(err)
	}
	w.start("-t 80")
	w.want("-t 80")
	if n := strings.Count(w.log.String(), "\n"); n != maxWarnings+1 {
		t.Errorf("%d lines of log", n)
	}
	// What is no file is not waited for.
	for _, make := range []func() error{
		func() error { return unix.Mkfifo(w.path(), 0o600) },
		func() error { return os.Mkdir(w.path(), 0o700) },
		func() error { return os.Symlink("/dev/zero", w.path()) },
	} {
		if err := errors.Join(os.RemoveAll(w.path()), make()); err != nil {
			t.Fatal(err)
		}
		w.start("-t 80")
		w.want("-t 80")
	}
}

// TestAllOrNothing: a change that fails at any step leaves ports and file as they were.
func TestAllOrNothing(t *testing.T) {
	w := &world{t: t, dir: filepath.Join(t.TempDir(), "s.d")}
	w.start("-t 80")
	w.change(pasta.Change{Add: table(t, "-t 8080")})
	before, err := os.ReadFile(w.path())
	if err != nil {
		t.Fatal(err)
	}
	refused := func(c pasta.Change) error {
		t.Helper()
		err := w.set.Change(t.Context(), c)
		if err == nil {
			t.Fatal("no error")
		}
		w.want("-t 80", "-t 8080")
		if b, err := os.ReadFile(w.path()); !bytes.Equal(b, before) && !errors.Is(err, unix.ENOTDIR) {
			t.Errorf("the file is %q, %v", b, err)
		}
		return err
	}
	var conflict *pasta.ConflictError
	if err := refused(pasta.Change{Delete: table(t, "-t 80"), Add: table(t, "-u 53", "-t 8080:80")}); !errors.As(err, &conflict) {
		t.Error(err)
	}
	var bind *portfwd.BindError
	if err := refused(pasta.Change{Delete: table(t, "-t 80"), Add: table(t, fmt.Sprintf("-t %d", busy))}); !errors.As(err, &bind) {
		t.Error(err)
	}
	if err := errors.Join(os.RemoveAll(w.dir), os.WriteFile(w.dir, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := refused(pasta.Change{Delete: table(t, "-t 80"), Add: table(t, "-u 53")}); !errors.Is(err, unix.ENOTDIR) {
		t.Error(err)
	}
}

// TestAnotherSocket: where the kernel takes a port's new socket only without the old one,
// that goes first, and is back if the new one cannot be.
func TestAnotherSocket(t *testing.T) {
	w := &world{t: t}
	w.start("-t 80", fmt.Sprintf("-t 127.0.0.2/%d", busy+1))
	w.change(pasta.Change{Delete: table(t, "-t 80"), Add: table(t, "-t 127.0.0.1/80")})
	w.want(fmt.Sprintf("-t 127.0.0.2/%d", busy+1), "-t 127.0.0.1/80")
	if n := len(w.ports.changes); n != 2 {
		t.Errorf("%d steps", n)
	}
	err := w.set.Change(t.Context(), pasta.Change{Delete: table(t, "-t 127.0.0.1/80"), Add: table(t, "-t 80", fmt.Sprintf("-t %d", busy))})
	if !errors.Is(err, unix.EADDRINUSE) {
		t.Error(err)
	}
	w.want(fmt.Sprintf("-t 127.0.0.2/%d", busy+1), "-t 127.0.0.1/80")
}

// TestNothingToDo: no port is touched for what is there, or is not.
func TestNothingToDo(t *testing.T) {
	w := &world{t: t, dir: filepath.Join(t.TempDir(), "s.d")}
	w.start("-t 80", "-t auto")
	w.change(pasta.Change{Add: table(t, "-t 80", "-t auto"), Delete: table(t, "-u 9999", "-T 1")})
	if len(w.ports.changes) != 0 {
		t.Errorf("%+v", w.ports.changes)
	}
	if err := w.set.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(w.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory is left: %v", err)
	}
}

// TestDirectoryOfOthers: who else may write there says nothing about our ports.
func TestDirectoryOfOthers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "s.d")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o777), os.WriteFile(filepath.Join(dir, "rules"), []byte("-t 22\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: dir}
	w.start("-t 80")
	w.want("-t 80")
	if !strings.Contains(w.log.String(), "is not a directory that only this user may write to") {
		t.Error(w.log.String())
	}
	w.change(pasta.Change{Add: table(t, "-u 53")})
	w.want("-t 80", "-u 53")
}

// TestRules: each field, in both directions.
func TestRules(t *testing.T) {
	addr := netip.MustParseAddr
	publish, expose := Rules(table(t, "-t 127.0.0.1%lo/8000-8009:10.89.0.2/80-89", "-u 53", "-t auto,~1-1023",
		"-T [::1]/80:10.0.0.1/8080", "-U %eth0/~1-1023").Effective(), true)
	if diff := cmp.Diff([]portfwd.Rule{
		{Proto: "tcp", Host: addr("127.0.0.1"), Freebind: true, Device: "lo", HostPort: 8000, HostPortEnd: 8009, Guest: addr("10.89.0.2"), GuestPort: 80},
		{Proto: "udp", DualStack: true, HostPort: 53, GuestPort: 53},
		{Proto: "tcp", DualStack: true, HostPort: 1024, HostPortEnd: 7999, GuestPort: 1024, Auto: true},
		{Proto: "tcp", DualStack: true, HostPort: 8010, HostPortEnd: 65535, GuestPort: 8010, Auto: true},
	}, publish, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]portfwd.Exposed{
		{Proto: "tcp", Guest: addr("::1"), GuestPort: 80, Host: addr("10.0.0.1"), HostPort: 8080},
		{Proto: "udp", Device: "eth0", GuestPort: 1024, GuestPortEnd: 65535, HostPort: 1024, BestEffort: true},
	}, expose, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Error(diff)
	}
	for _, r := range publish {
		if err := r.Validate(); err != nil {
			t.Errorf("%+v: %v", r, err)
		}
	}
	for _, e := range expose {
		if err := e.Validate(); err != nil {
			t.Errorf("%+v: %v", e, err)
		}
	}
}
