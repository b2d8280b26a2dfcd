package api

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"
)

// add is a request with the given arguments.
func add(arguments string) string {
	return `{"execute":"add_hostfwd","arguments":{` + arguments + `}}`
}

// TestControlReplies compares replies with the contract byte by byte.
func TestControlReplies(t *testing.T) {
	path, _, _ := serve(t, ListenControl)
	bad := func(text string) string { return `{"error":{"desc":"bad request: ` + text + `"}}` }
	for _, tt := range []struct{ request, reply string }{
		{``, bad("cannot parse JSON")},
		{"  \n", bad("cannot parse JSON")},
		{`hello`, bad("cannot parse JSON")},
		{`{"execute":`, bad("cannot parse JSON")},
		{`{"execute"}`, bad("cannot parse JSON")},
		{`{]`, bad("cannot parse JSON")},
		{`42`, bad("json_object() failed")},
		{`"execute"`, bad("json_object() failed")},
		{`null`, bad("json_object() failed")},
		{`[{"execute":"list_hostfwd"}]`, bad("json_object() failed")},
		{`{}`, bad("no execute found")},
		{`{"Execute":"list_hostfwd"}`, bad("no execute found")},
		{`{"execute":1}`, bad("no execute found")},
		{`{"execute":null}`, bad("no execute found")},
		{`{"execute":"list_hostfwds"}`, bad("unknown execute")},
		{`{"execute":"LIST_HOSTFWD"}`, bad("unknown execute")},
		{`{"execute":""}`, bad("unknown execute")},
		{`{"execute":"list_hostfwd"}`, `{"return":{"entries":[]},"entries":[]}`},
		{add(`"proto":"tcp","host_addr":"0.0.0.0","host_port":8080,"guest_addr":"10.0.2.100","guest_port":80`), `{"return":{"id":1}}`},
		{add(`"proto":"udp","host_port":5353,"guest_addr":"","guest_port":53`) + "\n", `{"return":{"id":2}}`},
		{`{"execute":"list_hostfwd","arguments":7,"more":[1]} trailing`,
			`{"return":{"entries":[` +
				`{"id":1,"proto":"tcp","host_addr":"0.0.0.0","host_port":8080,"guest_addr":"10.0.2.100","guest_port":80},` +
				`{"id":2,"proto":"udp","host_addr":"0.0.0.0","host_port":5353,"guest_addr":"10.0.2.100","guest_port":53}]},` +
				`"entries":[` +
				`{"id":1,"proto":"tcp","host_addr":"0.0.0.0","host_port":8080,"guest_addr":"10.0.2.100","guest_port":80},` +
				`{"id":2,"proto":"udp","host_addr":"0.0.0.0","host_port":5353,"guest_addr":"10.0.2.100","guest_port":53}]}`},
		{`{"execute":"remove_hostfwd","arguments":{"id":1}}`, `{"return":{}}`},
		{`{"execute":"remove_hostfwd","arguments":{"id":2.0}}{}`, `{"return":{}}`},
		{`{"execute":"list_hostfwd"}`, `{"return":{"entries":[]},"entries":[]}`},
		// Beyond the contract.
		{`{"execute":"list_flows"}`, `{"return":` + strings.TrimSpace(oneFlow) + `}`},
		{`{"execute":"show_stats"}`, `{"return":{"uptime_seconds":12,"sent_bytes":{"tcp":1152921504606846976,"udp":2}}}`},
		{add(`"proto":"tcp","host_addr":"::","host_port":8080,"guest_port":80`), `{"return":{"id":3}}`},
		{add(`"proto":"udp6","host_port":8080,"guest_addr":"fd00::5","guest_port":80`), `{"return":{"id":4}}`},
		{add(`"proto":"tcp4","host_addr":"127.0.0.1","host_port":8080,"guest_port":80`), `{"return":{"id":5}}`},
		{`{"execute":"list_hostfwd"}`,
			`{"return":{"entries":[` +
				`{"id":3,"proto":"tcp","host_addr":"::","host_port":8080,"guest_addr":"","guest_port":80},` +
				`{"id":4,"proto":"udp","host_addr":"::","host_port":8080,"guest_addr":"fd00::5","guest_port":80},` +
				`{"id":5,"proto":"tcp","host_addr":"127.0.0.1","host_port":8080,"guest_addr":"10.0.2.100","guest_port":80}]},` +
				`"entries":[` +
				`{"id":3,"proto":"tcp","host_addr":"::","host_port":8080,"guest_addr":"","guest_port":80},` +
				`{"id":4,"proto":"udp","host_addr":"::","host_port":8080,"guest_addr":"fd00::5","guest_port":80},` +
				`{"id":5,"proto":"tcp","host_addr":"127.0.0.1","host_port":8080,"guest_addr":"10.0.2.100","guest_port":80}]}`},
	} {
		// Both a client that shuts down its side and one that does not.
		c := connect(t, path)
		io.WriteString(c, tt.request)
		c.CloseWrite()
		if got := rest(t, c); got != tt.reply {
			t.Errorf("%s\n got %s\nwant %s", tt.request, got, tt.reply)
		}
		if !strings.Contains(tt.reply, "error") || tt.request == "" || strings.TrimSpace(tt.request) == "" || tt.request == `{"execute":` {
			continue // would be executed twice, or waits for more
		}
		if got := ask(t, path, tt.request); got != tt.reply {
			t.Errorf("%s, not shut down\n got %s\nwant %s", tt.request, got, tt.reply)
		}
	}
}

// TestControlErrors: the text is the contract's, and the cause explains it.
func TestControlErrors(t *testing.T) {
	path, p, _ := serve(t, ListenControl)
	const good = `"proto":"tcp","host_port":8080,"guest_port":80`
	for _, tt := range []struct{ request, desc, cause string }{
		{`{"execute":"add_hostfwd"}`, "add_hostfwd: bad arguments.proto", "tcp"},
		{`{"execute":"add_hostfwd","arguments":null}`, "add_hostfwd: bad arguments.proto", "tcp"},
		{`{"execute":"add_hostfwd","arguments":[]}`, "add_hostfwd: bad arguments.proto", "tcp"},
		{add(``), "add_hostfwd: bad arguments.proto", ""},
		{add(`"host_port":8080,"guest_port":80`), "add_hostfwd: bad arguments.proto", ""},
		{add(`"proto":"TCP","host_addr":"x"`), "add_hostfwd: bad arguments.proto", ""},
		{add(`"proto":"sctp"`), "add_hostfwd: bad arguments.proto", ""},
		{add(`"proto":6`), "add_hostfwd: bad arguments.proto", ""},
		{add(`"proto":"tcp","host_addr":"localhost","host_port":0`), "add_hostfwd: bad arguments.host_addr", "localhost"},
		{add(`"proto":"tcp","host_addr":"010.0.0.1"`), "add_hostfwd: bad arguments.host_addr", ""},
		{add(`"proto":"tcp","host_addr":5`), "add_hostfwd: bad arguments.host_addr", "not an IP address"},
		{add(`"proto":"tcp4","host_addr":"::1",` + good[14:]), "add_hostfwd: bad arguments.host_addr", "family"},
		{add(`"proto":"tcp6","host_addr":"0.0.0.0",` + good[14:]), "add_hostfwd: bad arguments.host_addr", "family"},
		{add(`"proto":"tcp","host_addr":"::ffff:10.0.0.1",` + good[14:]), "add_hostfwd: bad arguments.host_addr", ""},
		{add(`"proto":"tcp","guest_addr":"x"`), "add_hostfwd: bad arguments.host_port", ""},
		{add(`"proto":"tcp","host_port":"8080","guest_port":80`), "add_hostfwd: bad arguments.host_port", "a number"},
		{add(`"proto":"tcp","host_port":"8080-8090","guest_port":80`), "add_hostfwd: bad arguments.host_port", "a number"},
		{add(`"proto":"tcp","host_port":0,"guest_port":80`), "add_hostfwd: bad arguments.host_port", "65535"},
		{add(`"proto":"tcp","host_port":0.9,"guest_port":80`), "add_hostfwd: bad arguments.host_port", ""},
		{add(`"proto":"tcp","host_port":-1,"guest_port":80`), "add_hostfwd: bad arguments.host_port", "-1"},
		{add(`"proto":"tcp","host_port":73616,"guest_port":80`), "add_hostfwd: bad arguments.host_port", "73616"},
		{add(`"proto":"tcp","host_port":1e999,"guest_port":80`), "add_hostfwd: bad arguments.host_port", ""},
		{add(`"proto":"tcp","host_port":true,"guest_port":80`), "add_hostfwd: bad arguments.host_port", ""},
		{add(`"proto":"tcp","host_port":8080,"guest_addr":"web"`), "add_hostfwd: bad arguments.guest_addr", "web"},
		{add(`"proto":"tcp","host_port":8080,"guest_addr":"fd00::1","guest_port":80`), "add_hostfwd: bad arguments.guest_addr", "family"},
		{add(`"proto":"tcp","host_port":8080`), "add_hostfwd: bad arguments.guest_port", ""},
		{add(`"proto":"tcp","host_port":8080,"guest_port":65536`), "add_hostfwd: bad arguments.guest_port", "65536"},
		{add(`"proto":"tcp","host_port":81,"guest_port":80`), "add_hostfwd: slirp_add_hostfwd failed", "EADDRINUSE: publish 0.0.0.0:81:80: listen on tcp 0.0.0.0:81: address already in use (another program has the port)"},
		{add(`"proto":"tcp","host_port":82,"guest_port":80`), "add_hostfwd: slirp_add_hostfwd failed", "EACCES"},
		{`{"execute":"remove_hostfwd"}`, "remove_hostfwd: bad arguments.id", ""},
		{`{"execute":"remove_hostfwd","arguments":{"id":"1"}}`, "remove_hostfwd: bad arguments.id", ""},
		{`{"execute":"remove_hostfwd","arguments":{"id":0}}`, "remove_hostfwd: bad arguments.id", ""},
		{`{"execute":"remove_hostfwd","arguments":{"id":-1}}`, "remove_hostfwd: bad arguments.id", ""},
		{`{"execute":"remove_hostfwd","arguments":{"id":1}}`, "remove_hostfwd: bad arguments.id", "no published port"},
		{`{"execute":"remove_hostfwd","arguments":{"id":1e30}}`, "remove_hostfwd: bad arguments.id", ""},
	} {
		got := ask(t, path, tt.request)
		prefix := `{"error":{"desc":"bad request: ` + tt.desc + `","cause":"`
		if !strings.HasPrefix(got, prefix) || !strings.Contains(got, tt.cause) || !json.Valid([]byte(got)) {
			t.Errorf("%s\n got %s\nwant %s ... %s", tt.request, got, prefix, tt.cause)
		}
	}
	if len(p.List()) != 0 {
		t.Errorf("%d ports were published", len(p.List()))
	}
	// Fractions are cut off, as by slirp4netns.
	if got := ask(t, path, add(`"proto":"tcp","host_port":8090.7,"guest_port":8.09e3`)); got != `{"return":{"id":1}}` {
		t.Errorf("fraction: %s", got)
	}
	if r := p.List()[0].Rule; r.HostPort != 8090 || r.GuestPort != 8090 {
		t.Errorf("fraction: published %v", r)
	}
}

// TestControlSplitWrites: a request may arrive in any pieces.
func TestControlSplitWrites(t *testing.T) {
	path, p, _ := serve(t, ListenControl)
	request := ` {"x":"}\"{\\","execute":"add_hostfwd","arguments":{"proto":"tcp","host_port":8080,"guest_port":80}}`
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range 50 {
		var pieces []string
		for left := request; left != ""; {
			n := 1 + rnd.IntN(len(left))
			if i == 0 {
				n = 1
			}
			pieces = append(pieces, left[:n])
			left = left[n:]
		}
		if got, want := ask(t, path, pieces...), fmt.Sprintf(`{"return":{"id":%d}}`, i+1); got != want {
			t.Fatalf("%q: %s", pieces, got)
		}
	}
	if len(p.List()) != 50 {
		t.Errorf("%d ports", len(p.List()))
	}
}

// TestControlTooLarge: 4095 bytes are a request, 4096 are not.
func TestControlTooLarge(t *testing.T) {
	path, _, _ := serve(t, ListenControl)
	const tooLarge = `{"error":{"desc":"bad request: too large message"}}`
	of := func(n int) string {
		const head, tail = `{"execute":"list_hostfwd","x":"`, `"}`
		return head + strings.Repeat("x", n-len(head)-len(tail)) + tail
	}
	if got := ask(t, path, of(4095)); got != `{"return":{"entries":[]},"entries":[]}` {
		t.Errorf("4095 bytes: %s", got)
	}
	if got := ask(t, path, of(4096)); got != tooLarge {
		t.Errorf("4096 bytes: %s", got)
	}
	if got := ask(t, path, of(100_000)); got != tooLarge {
		t.Errorf("100000 bytes: %s", got)
	}
	if got := ask(t, path, strings.Repeat("\x00", 2000), strings.Repeat("\x00", 2096)); got != tooLarge {
		t.Errorf("4096 zeros: %s", got)
	}
}

// TestControlEndlessClient: a client that never stops writing gets a reply and
// the end of the connection, as `cat /dev/zero | nc -U` does.
func TestControlEndlessClient(t *testing.T) {
	path, _, _ := serve(t, ListenControl)
	c := connect(t, path)
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		zeros := make([]byte, 64<<10)
		for {
			if _, err := c.Write(zeros); err != nil {
				return
			}
		}
	}()
	if got := rest(t, c); got != `{"error":{"desc":"bad request: too large message"}}` {
		t.Error(got)
	}
	<-wrote
}

// TestControlSlowRequests: a request that takes long does not delay others.
func TestControlSlowRequests(t *testing.T) {
	path, p, _ := serve(t, ListenControl)
	var slow sync.WaitGroup
	for range maxConns - 1 {
		c := connect(t, path)
		io.WriteString(c, add(`"proto":"tcp","host_port":83,"guest_port":80`))
		slow.Go(func() {
			if got := rest(t, c); !strings.HasPrefix(got, `{"return":`) {
				t.Error(got)
			}
		})
	}
	start := time.Now()
	if got := ask(t, path, `{"execute":"list_hostfwd"}`); got != `{"return":{"entries":[]},"entries":[]}` {
		t.Error(got)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("took %v beside slow requests", took)
	}
	close(p.Hold)
	slow.Wait()
}

// TestControlThousandPorts: a range of 1000 ports, as podman publishes it, is done
// quickly and leaves nothing open.
func TestControlThousandPorts(t *testing.T) {
	path, p, _ := serve(t, ListenControl)
	before := openFiles(t)
	start := time.Now()
	for i := range 1000 {
		c := connect(t, path)
		io.WriteString(c, add(fmt.Sprintf(`"proto":"tcp","host_addr":"0.0.0.0","host_port":%d,"guest_addr":"","guest_port":%d`, 10000+i, 20000+i))+"\n")
		c.CloseWrite()
		b := make([]byte, 2048)
		n, err := c.Read(b) // once, as podman does
		if want := fmt.Sprintf(`{"return":{"id":%d}}`, i+1); err != nil || string(b[:n]) != want {
			t.Fatalf("port %d: %q, %v", i, b[:n], err)
		}
		c.Close()
	}
	took := time.Since(start)
	t.Logf("1000 ports in %v", took)
	if took > 2*time.Second {
		t.Errorf("1000 ports took %v", took)
	}
	if len(p.List()) != 1000 {
		t.Errorf("%d ports", len(p.List()))
	}
	var list struct{ Entries []Port }
	if err := json.Unmarshal([]byte(ask(t, path, `{"execute":"list_hostfwd"}`)), &list); err != nil || len(list.Entries) != 1000 {
		t.Errorf("list of %d: %v", len(list.Entries), err)
	}
	if n := openFiles(t) - before; n > 4 {
		t.Errorf("%d descriptors more", n)
	}
}

// TestControlLateBytes: bytes after the request do not reset the connection before
// the reply is read.
func TestControlLateBytes(t *testing.T) {
	path, _, _ := serve(t, ListenControl)
	for range 50 {
		c := connect(t, path)
		io.WriteString(c, `{"execute":"list_hostfwd"}`)
		io.WriteString(c, "\n") // may meet a closed socket
		if got := rest(t, c); got != `{"return":{"entries":[]},"entries":[]}` {
			t.Fatal(got)
		}
	}
}
