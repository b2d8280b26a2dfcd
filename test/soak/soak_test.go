package main

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"epiphyte/test/harness"
)

// serve gives the address of a server of exchanges on the machine's loopback.
func serve(t *testing.T, l *ledger) string {
	t.Helper()
	s := &servers{ledger: l}
	t.Cleanup(s.close)
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.accept(listener)
	return listener.Addr().String()
}

// exchange carries an order out by way of pass, which stands for a helper.
func exchange(t *testing.T, o order, pass func(client, server *net.TCPConn)) error {
	t.Helper()
	l := newLedger()
	to := serve(t, l)
	if pass != nil {
		to = relay(t, to, pass)
	}
	verdict, done := l.open(o.ID)
	defer done()
	c, err := net.Dial("tcp4", to)
	if err != nil {
		t.Fatal(err)
	}
	return l.run(o, c.(*net.TCPConn), verdict)
}

// relay gives an address whose one client is joined to a server by pass.
func relay(t *testing.T, to string, pass func(client, server *net.TCPConn)) string {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		client, err := listener.Accept()
		if err != nil {
			return
		}
		defer client.Close()
		server, err := net.Dial("tcp4", to)
		if err != nil {
			return
		}
		defer server.Close()
		pass(client.(*net.TCPConn), server.(*net.TCPConn))
	}()
	t.Cleanup(func() { listener.Close(); <-done })
	return listener.Addr().String()
}

// TestEveryKindSucceedsByTheKernelAlone: what a helper is blamed for is its own.
func TestEveryKindSucceedsByTheKernelAlone(t *testing.T) {
	for k := range kinds {
		for _, size := range []uint32{0, 1, 300_000} {
			if err := exchange(t, order{Kind: k, ID: uint64(k), Up: size, Down: size, Pause: 5}, nil); err != nil {
				t.Errorf("%v, %d bytes: %v", k, size, err)
			}
		}
	}
}

// TestFaultsOfAHelperAreSeen by the one end or the other.
func TestFaultsOfAHelperAreSeen(t *testing.T) {
	// spoil copies, and changes what comes after the order.
	spoil := func(change func([]byte) []byte) func(client, server *net.TCPConn) {
		return func(client, server *net.TCPConn) {
			var wg sync.WaitGroup
			wg.Go(func() {
				_, _ = io.CopyN(server, client, 19) // the order
				b, _ := io.ReadAll(client)
				_, _ = server.Write(change(b))
				_ = server.CloseWrite()
			})
			_, _ = io.Copy(client, server)
			_ = client.CloseWrite()
			wg.Wait()
		}
	}
	for name, c := range map[string]struct {
		kind kind
		pass func(client, server *net.TCPConn)
		want string
	}{
		"a changed byte":         {answer, spoil(func(b []byte) []byte { b[len(b)/2] ^= 1; return b }), "wrong bytes"},
		"a missing byte":         {answer, spoil(func(b []byte) []byte { return b[:len(b)-1] }), "49999 of 50000"},
		"a byte too many":        {both, spoil(func(b []byte) []byte { return append(b, 0) }), "wrong bytes"},
		"a reset that is an end": {resetUp, spoil(bytes.Clone), "want a reset"},
		"an end that is a reset": {both, func(client, server *net.TCPConn) {
			_, _ = io.CopyN(server, client, 19)
			_ = client.SetLinger(0)
		}, "connection reset"},
	} {
		err := exchange(t, order{Kind: c.kind, ID: 7, Up: 50000, Down: 1000}, c.pass)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// TestPatternsHaveNoSeams: bytes do not depend on how they are cut.
func TestPatternsHaveNoSeams(t *testing.T) {
	var cut []byte
	p := newPattern(5, up)
	for n := range 100 {
		cut = append(cut, p.next(n)...)
	}
	if !bytes.Equal(cut, newPattern(5, up).next(len(cut))) {
		t.Error("other bytes in other pieces")
	}
	if bytes.Equal(newPattern(5, up).next(8), newPattern(5, down).next(8)) || bytes.Equal(newPattern(5, up).next(8), newPattern(6, up).next(8)) {
		t.Error("two streams are alike")
	}
}

// answers is a socket with datagrams in it, after which it is silent.
type answers [][]byte

func (a *answers) SetReadDeadline(time.Time) error { return nil }

func (a *answers) Read(b []byte) (int, error) {
	if len(*a) == 0 {
		return 0, &net.OpError{Err: timeout{}}
	}
	n := copy(b, (*a)[0])
	*a = (*a)[1:]
	return n, nil
}

type timeout struct{ error }

func (timeout) Timeout() bool { return true }

func TestDatagrams(t *testing.T) {
	want := message(1, 100)
	changed := bytes.Clone(want)
	changed[50] ^= 1
	for name, c := range map[string]struct {
		in    answers
		ok    bool
		wrong bool
	}{
		"the answer":           {answers{want}, true, false},
		"none":                 {nil, false, false},
		"after an earlier one": {answers{message(2, 30), want}, true, false},
		"changed":              {answers{changed}, false, true},
		"cut":                  {answers{want[:90]}, false, true},
		"nonsense":             {answers{[]byte("nonsense, and not short")}, false, true},
		"short nonsense":       {answers{[]byte("no")}, false, true},
	} {
		ok, err := answered(&c.in, make([]byte, 1000), want, time.Second)
		if ok != c.ok || errors.Is(err, errWrong) != c.wrong {
			t.Errorf("%s: %v, %v", name, ok, err)
		}
	}
}

// TestNames: an answer that is another name's is told from the right one.
func TestNames(t *testing.T) {
	for _, typ := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeTXT} {
		client, server := net.Pipe()
		defer client.Close()
		defer server.Close()
		go func() {
			for i, c := 0, (&dns.Conn{Conn: server}); ; i++ {
				q, err := c.ReadMsg()
				if err != nil {
					return
				}
				asked := q.Question[0]
				if i == 1 {
					asked.Name = "other." + asked.Name
				}
				r := new(dns.Msg).SetReply(q)
				r.Answer = []dns.RR{record(asked)}
				_ = c.WriteMsg(r)
			}
		}()
		r := rand.New(rand.NewPCG(1, uint64(typ)))
		if _, err := ask(client, r); err != nil {
			t.Error(err)
		}
		if _, err := ask(client, r); err == nil {
			t.Error("the answer to another question is taken")
		}
	}
}

// usages makes samples of a second each, with changes to a steady figure.
func usages(seconds int, change func(second int, u *harness.Usage)) (list []harness.Usage) {
	for s := range seconds {
		u := harness.Usage{RSS: 30 << 20, FDs: 100 + s%7, Threads: 20}
		change(s, &u)
		list = append(list, u)
	}
	return list
}

func TestLevel(t *testing.T) {
	for name, c := range map[string]struct {
		change func(int, *harness.Usage)
		want   string // empty: level
	}{
		"steady":             {func(int, *harness.Usage) {}, ""},
		"a warm-up":          {func(s int, u *harness.Usage) { u.RSS += int64(min(s, 100)) << 20 }, ""},
		"a burst at the end": {func(s int, u *harness.Usage) { u.FDs += 900 * (s / 580) }, ""},
		"a slow leak":        {func(s int, u *harness.Usage) { u.RSS += int64(s) << 20 / 20 }, "resident memory"},
		"descriptors":        {func(s int, u *harness.Usage) { u.FDs += s / 2 }, "descriptors"},
		"threads":            {func(s int, u *harness.Usage) { u.Threads += s / 100 }, "threads"},
	} {
		p := &process{name: "it", samples: usages(600, c.change)}
		got := strings.Join(p.level(), "\n")
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestBack(t *testing.T) {
	idle := harness.Usage{RSS: 10 << 20, FDs: 90, Threads: 20}
	for name, c := range map[string]struct {
		after harness.Usage
		want  string
	}{
		"as before":         {idle, ""},
		"mappings are left": {harness.Usage{RSS: 20 << 20, FDs: 120, Threads: 20}, ""},
		"a descriptor more": {harness.Usage{RSS: 20 << 20, FDs: 124, Threads: 20}, "descriptors"},
		"memory":            {harness.Usage{RSS: 80 << 20, FDs: 90, Threads: 20}, "resident memory"},
		"threads":           {harness.Usage{RSS: 10 << 20, FDs: 90, Threads: 25}, "threads"},
	} {
		p := &process{name: "it", idle: idle, after: c.after}
		got := strings.Join(p.back(30), "\n")
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestParse(t *testing.T) {
	env := map[string]string{"SOAK": "60s", "SEED": "7"}
	if o, err := parse(func(k string) string { return env[k] }); err != nil || o.length != time.Minute || o.seed != 7 || o.plot != -1 {
		t.Errorf("%+v, %v", o, err)
	}
	for k, v := range map[string]string{"SOAK": "5s", "SEED": "x"} {
		if o, err := parse(func(key string) string { return map[string]string{k: v}[key] }); err == nil {
			t.Errorf("%s=%s: %+v", k, v, o)
		}
	}
}
