package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"epiphyte/internal/api"
	"epiphyte/internal/api/apitest"
)

// answering runs both servers of a program until the end of the test.
func answering(t *testing.T, flows func() []api.Flow) (control, http string, p *apitest.Ports) {
	t.Helper()
	p = &apitest.Ports{}
	cfg := api.Config{Ports: p, Flows: flows, Stats: func() []api.Metric {
		return []api.Metric{
			{Name: "uptime_seconds", Values: []api.Value{{N: 12}}},
			{Name: "flows", Label: "proto", Values: []api.Value{{Label: "tcp", N: 3}, {Label: "udp", N: 1 << 60}}},
		}
	}}
	dir := t.TempDir()
	control, http = filepath.Join(dir, "api"), filepath.Join(dir, "http")
	for path, listen := range map[string]func(context.Context, string, api.Config) (*api.Server, error){control: api.ListenControl, http: api.ListenHTTP} {
		s, err := listen(t.Context(), path, cfg)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- s.Serve(context.Background()) }()
		t.Cleanup(func() { s.Close(); <-done })
	}
	return control, http, p
}

// asked runs a client command.
func asked(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = clientMain(context.Background(), "epiphyte", args[0], args[1:], &out, &errs)
	return code, out.String(), errs.String()
}

func TestClientPorts(t *testing.T) {
	control, http, p := answering(t, nil)
	for _, tt := range []struct {
		args   []string
		code   int
		stdout string
		stderr string
	}{
		{[]string{"ports", "--http-socket", http}, 0, "ID  PROTO  HOST  GUEST\n", ""},
		{[]string{"ports", "--http-socket", http, "--json"}, 0, `{"ports":[]}` + "\n", ""},
		{[]string{"publish", "--http-socket", http, "8080:80", "[::1]:5353-5354:53/udp"}, 0, "" +
			"ID  PROTO  HOST              GUEST\n" +
			"1   tcp    0.0.0.0:8080      10.0.2.100:80\n" +
			"2   udp    [::1]:5353-5354   53-54\n", ""},
		{[]string{"publish", "--api", control, "--json", "--guest=10.0.2.7", "90-91"}, 0, `{"ports":[` +
			`{"id":3,"proto":"tcp","host_addr":"","host_port":90,"guest_addr":"10.0.2.7","guest_port":90},` +
			`{"id":4,"proto":"tcp","host_addr":"","host_port":91,"guest_addr":"10.0.2.7","guest_port":91}]}` + "\n", ""},
		{[]string{"ports", "-a", control}, 0, "" +
			"ID  PROTO  HOST             GUEST\n" +
			"1   tcp    0.0.0.0:8080     10.0.2.100:80\n" +
			"2   udp    [::1]:5353-5354  53-54\n" +
			"3   tcp    0.0.0.0:90       10.0.2.7:90\n" +
			"4   tcp    0.0.0.0:91       10.0.2.7:91\n", ""},
		{[]string{"unpublish", "-a", control, "3", "4"}, 0, "", ""},
		{[]string{"unpublish", "--http-socket=" + http, "3", "2"}, 1, "", "epiphyte unpublish: id 3: no published port has it\n"},
		// The second fails, so the first is removed.
		{[]string{"publish", "--http-socket", http, "70", "81"}, 1, "", "epiphyte publish: 81: publish 0.0.0.0:81: listen on tcp 0.0.0.0:81: address already in use (another program has the port) (EADDRINUSE)\n"},
		{[]string{"publish", "-a", control, "79-83"}, 1, "", "epiphyte publish: bad request: add_hostfwd: slirp_add_hostfwd failed (EADDRINUSE: publish 0.0.0.0:81: listen on tcp 0.0.0.0:81: address already in use (another program has the port))\n"},
		{[]string{"publish", "-a", control, "lo:79"}, 1, "", "epiphyte publish: listen on interface lo: the control socket does not support this, the HTTP socket does\n"},
		{[]string{"publish", "-a", control, "--guest=fd00::1", "79"}, 1, "", "epiphyte publish: fd00::1 is not of the family of 0.0.0.0\n"},
		{[]string{"publish", "-a", control, "80:x"}, 1, "", `epiphyte publish: parse published port "80:x": "x" is not a port, 1 to 65535` + "\n"},
		{[]string{"unpublish", "-a", control, "8080:80"}, 1, "", `epiphyte unpublish: "8080:80" is not an id; the ports command lists the ids` + "\n"},
		{[]string{"ports", "-a", control + "x"}, 1, "", "epiphyte ports: there is no socket " + control + "x: give the path that the program was started with, or see 'epiphyte ps'\n"},
	} {
		code, stdout, stderr := asked(tt.args...)
		if tt.args[0] == "publish" { // alignment depends on all rows
			stdout, tt.stdout = strings.Join(strings.Fields(stdout), " "), strings.Join(strings.Fields(tt.stdout), " ")
		}
		if code != tt.code || stdout != tt.stdout || stderr != tt.stderr {
			t.Errorf("%s\n got %d %q %q\nwant %d %q %q", strings.Join(tt.args, " "), code, stdout, stderr, tt.code, tt.stdout, tt.stderr)
		}
	}
	if list := p.List(); len(list) != 1 || list[0].ID != 1 {
		t.Errorf("left: %v", list)
	}
}

func TestClientCommandLine(t *testing.T) {
	for _, tt := range []struct {
		args   []string
		stderr string
	}{
		{[]string{"ports", "-a", "x", "--http-socket", "y"}, "of --api-socket, --http-socket, --network and --id only one can be used"},
		{[]string{"ports", "--http-socket", "y", "--network", "web"}, "of --api-socket, --http-socket, --network and --id only one can be used"},
		{[]string{"ports", "--network", "we/b"}, `the network's name "we/b" cannot be: use letters, digits, and inside also - _ .`},
		{[]string{"ports", "-a", "x", "y"}, `"y" is one argument too many`},
		{[]string{"publish", "-a", "x"}, "RULE... is missing"},
		{[]string{"unpublish", "-a", "x"}, "ID... is missing"},
		{[]string{"flows", "--id", "0"}, `--id: "0" is not a guest, as 'ps' shows them: a number, or NETWORK/MEMBER`},
		{[]string{"flows", "-i1", "-a", "x"}, "of --api-socket, --http-socket, --network and --id only one can be used"},
		{[]string{"unpublish", "-a", "x", "--json", "1"}, "unrecognized option '--json'"},
		{[]string{"flows", "--http-socket=x", "--watch=0"}, "--watch must be a number of seconds, 0.01 to 86400"},
		{[]string{"flows", "--http-socket=x", "--watch=NaN"}, "--watch must be a number of seconds, 0.01 to 86400"},
	} {
		code, stdout, stderr := asked(tt.args...)
		if code != 1 || stderr != "epiphyte "+tt.args[0]+": "+tt.stderr+"\n" || stdout != "" {
			t.Errorf("%v: %d %q %q", tt.args, code, stderr, stdout)
		}
	}
	for _, c := range clientCommands() {
		code, stdout, stderr := asked(c.name, "--help")
		if code != 0 || stderr != "" || !strings.Contains(stdout, "--http-socket PATH") {
			t.Errorf("%s --help: %d %q %s", c.name, code, stderr, stdout)
		}
	}
}

// The seconds of --watch may be an argument of their own.
func TestClientWatchSeconds(t *testing.T) {
	for args, want := range map[string]time.Duration{
		"": 0, "-w": time.Second, "--watch": time.Second, "--watch=5": 5 * time.Second, "--watch 5": 5 * time.Second,
		"-w0.5": 500 * time.Millisecond, "-w 0.5": 500 * time.Millisecond, "-w --json": time.Second, "--watch -i 7": time.Second,
	} {
		c, exit := ParseClient("epiphyte", "flows", strings.Fields(args))
		if exit != nil || c.interval != want {
			t.Errorf("flows %s: %+v, %+v, want %v", args, c, exit, want)
		}
	}
}

func TestClientStats(t *testing.T) {
	control, http, _ := answering(t, nil)
	if code, stdout, stderr := asked("stats", "--http-socket", http); code != 0 || stderr != "" ||
		stdout != "uptime_seconds  12\nflows{tcp}      3\nflows{udp}      1152921504606846976\n" {
		t.Errorf("%d %q %q", code, stdout, stderr)
	}
	if code, stdout, stderr := asked("stats", "--api", control, "--json"); code != 0 || stderr != "" ||
		stdout != `{"uptime_seconds":12,"flows":{"tcp":3,"udp":1152921504606846976}}`+"\n" {
		t.Errorf("%d %q %q", code, stdout, stderr)
	}
}

// manyFlows are n quiet flows and a busy one, whose bytes grow with every call.
func manyFlows(n int) func() []api.Flow {
	var mu sync.Mutex
	looks := uint64(0)
	guest := netip.MustParseAddr("10.0.2.100")
	return func() []api.Flow {
		mu.Lock()
		defer mu.Unlock()
		looks++
		var flows []api.Flow
		for i := range n {
			flows = append(flows, api.Flow{Proto: "udp", Guest: netip.AddrPortFrom(guest, uint16(1000+i)), Age: 3600})
		}
		return append(flows, api.Flow{
			Proto: "tcp", Guest: netip.AddrPortFrom(guest, 40000), Remote: netip.MustParseAddrPort("192.0.2.1:443"),
			State: "open", In: looks * 1e12, Age: 90, Idle: 1.5,
		})
	}
}

func TestClientFlows(t *testing.T) {
	control, http, _ := answering(t, manyFlows(1))
	want := "" +
		"PROTO  GUEST             REMOTE         STATE  IN    OUT  AGE     IDLE\n" +
		"udp    10.0.2.100:1000   -              -      0 B   0 B  1h0m0s  0s\n" +
		"tcp    10.0.2.100:40000  192.0.2.1:443  open   1 TB  0 B  1m30s   1s\n"
	if code, stdout, stderr := asked("flows", "--http-socket", http); code != 0 || stderr != "" || stdout != want {
		t.Errorf("%d %q\n%s", code, stderr, cmp.Diff(want, stdout))
	}
	code, stdout, stderr := asked("flows", "--api", control, "--json")
	var doc struct{ Flows []map[string]any }
	if err := json.Unmarshal([]byte(stdout), &doc); err != nil || code != 0 || stderr != "" || len(doc.Flows) != 2 {
		t.Errorf("%d %q %q %v", code, stdout, stderr, err)
	}
}

// TestClientFlowsOfMembers names them, where there are several.
func TestClientFlowsOfMembers(t *testing.T) {
	_, http, _ := answering(t, func() []api.Flow {
		return []api.Flow{{Member: "db", Proto: "udp", Guest: netip.MustParseAddrPort("10.90.0.2:1000")}}
	})
	want := "" +
		"MEMBER  PROTO  GUEST           REMOTE  STATE  IN   OUT  AGE  IDLE\n" +
		"db      udp    10.90.0.2:1000  -       -      0 B  0 B  0s   0s\n"
	if code, stdout, stderr := asked("flows", "--http-socket", http); code != 0 || stdout != want {
		t.Errorf("%d %q\n%s", code, stderr, cmp.Diff(want, stdout))
	}
	if code, stdout, stderr := asked("flows", "--http-socket", http, "--json"); code != 0 || !strings.Contains(stdout, `"member":"db"`) {
		t.Errorf("%d %q %q", code, stdout, stderr)
	}
}

// TestClientWatch: three listings, then an interrupt.
func TestClientWatch(t *testing.T) {
	for _, asJSON := range []bool{false, true} {
		_, http, _ := answering(t, manyFlows(1))
		c := &Client{api: api.Client{HTTP: http}, json: asJSON}
		ctx, cancel := context.WithCancel(t.Context())
		tick := make(chan time.Time)
		var out bytes.Buffer
		done := make(chan error, 1)
		go func() { done <- c.watchFlows(ctx, &out, tick) }()
		tick <- time.Time{}
		tick <- time.Time{}
		// This may interrupt the third listing.
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if asJSON {
			if lines := strings.Split(strings.TrimSpace(out.String()), "\n"); len(lines) < 2 || !json.Valid([]byte(lines[1])) {
				t.Errorf("%q", out.String())
			}
			continue
		}
		tables := strings.Split(out.String(), "\n\n")
		if len(tables) < 2 || !strings.HasPrefix(tables[1], "PROTO") {
			t.Fatalf("%q", out.String())
		}
		// From the second listing on busy flows are known, and come first.
		if first := strings.Split(tables[1], "\n")[1]; !strings.HasPrefix(first, "tcp ") || strings.Count(first, "0 B") != 2 {
			t.Errorf("%q", first)
		}
	}
}

// TestClientWatchEnds with an error when the program does.
func TestClientWatchEnds(t *testing.T) {
	c := &Client{api: api.Client{HTTP: filepath.Join(t.TempDir(), "none")}}
	if err := c.watchFlows(t.Context(), &bytes.Buffer{}, nil); err == nil {
		t.Error("no error")
	}
}

// TestScreenStaysInPlace: all texts begin in the same place, and none makes the
// terminal scroll.
func TestScreenStaysInPlace(t *testing.T) {
	var out bytes.Buffer
	s := &screen{w: &out, size: func() (int, int) { return 4, 6 }}
	s.show([]byte("one\ntwo\n"))
	s.show([]byte("long line\n2\n3\n4\n5\n"))
	s.show([]byte("end\n"))
	want := "\x1b[Jone\ntwo\n" + "\x1b[2F\x1b[Jlong \n2\n... a\n" + "\x1b[3F\x1b[Jend\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}

func TestByteCount(t *testing.T) {
	for n, want := range map[float64]string{
		0: "0 B", 999: "999 B", 1000: "1 kB", 1234: "1.23 kB", 99_950: "100 kB", 999_499: "999 kB", 999_500: "1 MB",
		1 << 40: "1.1 TB", 1 << 63: "9.22 EB", 1e24: "1e+03 ZB",
	} {
		if got := byteCount(n); got != want {
			t.Errorf("%v: %s, want %s", n, got, want)
		}
	}
}
