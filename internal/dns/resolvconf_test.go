package dns

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	mdns "github.com/miekg/dns"
)

func TestParseResolvConf(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		want       []string
	}{
		{"usual", "search example.org\nnameserver 192.0.2.1\nnameserver 2001:db8::1\noptions edns0\n", []string{"192.0.2.1", "2001:db8::1"}},
		{"no newline at the end", "nameserver 192.0.2.1", []string{"192.0.2.1"}},
		{"white space", "nameserver\t \t192.0.2.1 \t\nnameserver 192.0.2.2\r\n", []string{"192.0.2.1", "192.0.2.2"}},
		{"comments", "# nameserver 192.0.2.1\n;nameserver 192.0.2.2\nnameserver 192.0.2.3#x\nnameserver 192.0.2.4 ; y\n", []string{"192.0.2.3", "192.0.2.4"}},
		{"keyword not at the start", " nameserver 192.0.2.1\nnameservers 192.0.2.2\nnameserver192.0.2.3\nnameserver 192.0.2.4\n", []string{"192.0.2.4"}},
		{"scope", "nameserver fe80::1%eth0\nnameserver fe80::1%2\n", []string{"fe80::1%eth0", "fe80::1%2"}},
		{"unusable", "nameserver example.org\nnameserver\nnameserver \nnameserver 192.0.2.1\n", []string{"192.0.2.1"}},
		{"twice, and mapped", "nameserver 192.0.2.1\nnameserver ::ffff:192.0.2.1\n", []string{"192.0.2.1"}},
		{"empty", "", []string{"127.0.0.1", "::1"}},
		{"none", "search example.org\n", []string{"127.0.0.1", "::1"}},
		{"many", strings.Repeat("nameserver 192.0.2.1\n", 50) + "nameserver 192.0.2.2\n" +
			"nameserver 192.0.2.3\nnameserver 192.0.2.4\nnameserver 192.0.2.5\nnameserver 192.0.2.6\n" +
			"nameserver 192.0.2.7\nnameserver 192.0.2.8\nnameserver 192.0.2.9\n",
			[]string{"192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5", "192.0.2.6", "192.0.2.7", "192.0.2.8"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got []string
			for _, a := range parseResolvConf([]byte(tc.text)) {
				got = append(got, a.String())
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestB28_NextQueryFollowsTheFile(t *testing.T) {
	old := time.Now().Add(-time.Hour)
	symlink := func(t *testing.T, target, path string) {
		os.Remove(path + ".link")
		must(t, os.Symlink(target, path+".link"))
		must(t, os.Rename(path+".link", path))
	}
	for _, tc := range []struct {
		name    string
		replace func(t *testing.T, path, server string)
	}{
		{"rename", func(t *testing.T, path, server string) {
			writeConf(t, path+".new", server)
			must(t, os.Rename(path+".new", path))
		}},
		{"rename of an old file", func(t *testing.T, path, server string) {
			writeConf(t, path+".new", server)
			must(t, os.Chtimes(path+".new", old, old))
			must(t, os.Rename(path+".new", path))
		}},
		{"in place, of the same size", func(t *testing.T, path, server string) {
			writeConf(t, path, server)
		}},
		{"symlink", func(t *testing.T, path, server string) {
			writeConf(t, path+"."+server, server)
			symlink(t, path+"."+server, path)
		}},
		{"target of a symlink", func(t *testing.T, path, server string) {
			writeConf(t, path+".target.new", server)
			must(t, os.Rename(path+".target.new", path+".target"))
			if _, err := os.Lstat(path); err != nil {
				symlink(t, path+".target", path)
			}
		}},
		{"symlinked directory", func(t *testing.T, path, server string) {
			dir, current := filepath.Join(filepath.Dir(path), server), filepath.Join(filepath.Dir(path), "current")
			must(t, os.MkdirAll(dir, 0o755))
			writeConf(t, filepath.Join(dir, "resolv.conf"), server)
			symlink(t, dir, current)
			if _, err := os.Lstat(path); err != nil {
				symlink(t, filepath.Join(current, "resolv.conf"), path)
			}
		}},
		{"removed and made again", func(t *testing.T, path, server string) {
			os.Remove(path)
			writeConf(t, path, server)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "resolv.conf")
			r, _ := upstream(t, Config{ResolvConf: path}, says("192.0.2.1"), says("192.0.2.2"))
			for i := range 40 {
				tc.replace(t, path, fmt.Sprintf("127.0.0.%d", 1+i%2))
				wantA(t, r, [...]transport{udp, tcp}[i/2%2], fmt.Sprintf("192.0.2.%d", 1+i%2))
			}
		})
	}
}

func TestB28_MissingFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "etc", "resolv.conf")
	r, _ := upstream(t, Config{ResolvConf: path}, says("192.0.2.1"))
	servfail := func() {
		t.Helper()
		overBoth(t, func(t *testing.T, via transport) { wantCode(t, r, via, mdns.RcodeServerFailure) })
	}
	servfail()
	must(t, os.Mkdir(filepath.Dir(path), 0o755))
	servfail()
	writeConf(t, path, "127.0.0.1")
	wantA(t, r, udp, "192.0.2.1")
	must(t, os.Remove(path))
	servfail()
	// What cannot be a file of nameservers must not hold us either.
	must(t, os.Mkdir(path, 0o755))
	servfail()
	must(t, os.Remove(path))
	must(t, unix.Mkfifo(path, 0o644))
	servfail()
	must(t, os.Remove(path))
	writeConf(t, path)
	wantA(t, r, udp, "192.0.2.1") // no nameserver named: the local host
}

// A file that does not change is not read again, but for the first second, in
// which a change may not show.
func TestResolvConfIsReadOnceWhenQuiet(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	c := resolvConf{path: path}
	for _, tc := range []struct {
		age  time.Duration
		want bool
	}{{0, true}, {time.Hour, false}} {
		writeConf(t, path, "192.0.2.1")
		at := time.Now().Add(-tc.age)
		must(t, os.Chtimes(path, at, at))
		if c.refresh(); c.err != nil {
			t.Fatal(c.err)
		}
		first := &c.servers[0]
		if c.refresh(); c.err != nil {
			t.Fatal(c.err)
		}
		if again := &c.servers[0] != first; again != tc.want {
			t.Errorf("file of age %v: read again is %v", tc.age, again)
		}
	}
}

// Nameservers that are given are asked, whatever the file says; the first of either is
// the one that DNS over TLS goes to.
func TestNameservers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	writeConf(t, path, "127.0.0.1")
	first := func(r *rig) (a netip.Addr) {
		r.do(func() { a = r.First() })
		return a
	}
	fixed, _ := upstream(t, Config{ResolvConf: path, Nameservers: []netip.Addr{netip.MustParseAddr("127.0.0.2")}}, says("192.0.2.1"), says("192.0.2.2"))
	overBoth(t, func(t *testing.T, via transport) { wantA(t, fixed, via, "192.0.2.2") })
	writeConf(t, path, "127.0.0.1", "127.0.0.3")
	wantA(t, fixed, udp, "192.0.2.2")
	if got := first(fixed); got.String() != "127.0.0.2" {
		t.Errorf("the first nameserver is %v, want the one given", got)
	}
	follows, _ := upstream(t, Config{ResolvConf: path}, nil)
	for _, want := range []string{"127.0.0.7", "127.0.0.1"} {
		writeConf(t, path, want, "127.0.0.3")
		follows.advance(time.Second) // another turn of the shard
		if got := first(follows); got.String() != want {
			t.Errorf("the first nameserver is %v, want the file's %s", got, want)
		}
	}
	must(t, os.Remove(path))
	follows.advance(time.Second)
	if got := first(follows); got.IsValid() {
		t.Errorf("without a file the first nameserver is %v", got)
	}
}
