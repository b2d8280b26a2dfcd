package dns

import (
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
	port := freePort(t, "127.0.0.1", "127.0.0.2")
	serve(t, "127.0.0.1", port, says("192.0.2.1"))
	serve(t, "127.0.0.2", port, says("192.0.2.2"))
	servers := [...]string{"127.0.0.1", "127.0.0.2"}
	answers := [...]string{"192.0.2.1", "192.0.2.2"}
	old := time.Now().Add(-time.Hour)

	for _, tc := range []struct {
		name    string
		replace func(t *testing.T, path string, i int)
	}{
		{"rename", func(t *testing.T, path string, i int) {
			writeConf(t, path+".new", servers[i])
			if err := os.Rename(path+".new", path); err != nil {
				t.Fatal(err)
			}
		}},
		{"rename of an old file", func(t *testing.T, path string, i int) {
			writeConf(t, path+".new", servers[i])
			if err := os.Chtimes(path+".new", old, old); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(path+".new", path); err != nil {
				t.Fatal(err)
			}
		}},
		{"in place, of the same size", func(t *testing.T, path string, i int) {
			writeConf(t, path, servers[i])
		}},
		{"symlink", func(t *testing.T, path string, i int) {
			target := path + "." + servers[i]
			writeConf(t, target, servers[i])
			os.Remove(path + ".link")
			if err := os.Symlink(target, path+".link"); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(path+".link", path); err != nil {
				t.Fatal(err)
			}
		}},
		{"target of a symlink", func(t *testing.T, path string, i int) {
			writeConf(t, path+".target.new", servers[i])
			if err := os.Rename(path+".target.new", path+".target"); err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				os.Remove(path)
				if err := os.Symlink(path+".target", path); err != nil {
					t.Fatal(err)
				}
			}
		}},
		{"symlinked directory", func(t *testing.T, path string, i int) {
			dir := filepath.Join(filepath.Dir(path), servers[i])
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			writeConf(t, filepath.Join(dir, "resolv.conf"), servers[i])
			link := filepath.Join(filepath.Dir(path), "current")
			os.Remove(link)
			if err := os.Symlink(dir, link); err != nil {
				t.Fatal(err)
			}
			os.Remove(path)
			if err := os.Symlink(filepath.Join(link, "resolv.conf"), path); err != nil {
				t.Fatal(err)
			}
		}},
		{"removed and made again", func(t *testing.T, path string, i int) {
			os.Remove(path)
			writeConf(t, path, servers[i])
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "resolv.conf")
			r := start(t, Config{Port: port, ResolvConf: path})
			for i := range 20 {
				tc.replace(t, path, i%2)
				wantA(t, r, [...]transport{udp, tcp}[i/2%2], answers[i%2])
			}
		})
	}
}

func TestB28_MissingFile(t *testing.T) {
	port := freePort(t, "127.0.0.1")
	serve(t, "127.0.0.1", port, says("192.0.2.1"))
	path := filepath.Join(t.TempDir(), "etc", "resolv.conf")
	r := start(t, Config{Port: port, ResolvConf: path})
	servfail := func() {
		t.Helper()
		overBoth(t, func(t *testing.T, via transport) { wantCode(t, r, via, mdns.RcodeServerFailure) })
	}
	servfail()
	if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	servfail()
	writeConf(t, path, "127.0.0.1")
	wantA(t, r, udp, "192.0.2.1")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	servfail()
	// What cannot be a file of nameservers must not hold us either.
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	servfail()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(path, 0o644); err != nil {
		t.Fatal(err)
	}
	servfail()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
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
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
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
