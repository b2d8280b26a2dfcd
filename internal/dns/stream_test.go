package dns

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	mdns "github.com/miekg/dns"
)

func TestB27_StreamPipelines(t *testing.T) {
	hold := make(chan struct{})
	r, _ := upstream(t, Config{}, func(w mdns.ResponseWriter, q *mdns.Msg) {
		if w.RemoteAddr().Network() != "tcp" {
			return
		}
		if q.Question[0].Name == "slow.example." {
			<-hold
			says("192.0.2.9")(w, q)
			return
		}
		says("192.0.2.1")(w, q)
	})
	c := dial(t, r)
	// Equal ids are the client's fault, and yet both get their own answer.
	slow, quick := query("slow.example.", mdns.TypeA), query("name.example.", mdns.TypeA)
	quick.Id = slow.Id
	c.send(slow, quick)
	a := c.receive()
	checkA(t, a, "192.0.2.1")
	if a.Id != quick.Id {
		t.Errorf("id is %d, want %d", a.Id, quick.Id)
	}
	close(hold)
	checkA(t, c.receive(), "192.0.2.9")
}

// More queries than may be under way, with large answers, are all answered.
func TestB27_StreamCarriesLargeMessages(t *testing.T) {
	r, _ := upstream(t, Config{}, func(w mdns.ResponseWriter, q *mdns.Msg) {
		a := new(mdns.Msg).SetReply(q)
		for i := range 230 {
			a.Answer = append(a.Answer, &mdns.TXT{
				Hdr: mdns.RR_Header{Name: q.Question[0].Name, Rrtype: mdns.TypeTXT, Class: mdns.ClassINET},
				Txt: []string{fmt.Sprintf("%0250d", i)},
			})
		}
		w.WriteMsg(a)
	})
	c := dial(t, r)
	const queries = 3 * maxStreamQueries
	for range queries {
		c.send(query("big.example.", mdns.TypeTXT))
	}
	for range queries {
		if a := c.receive(); len(a.Answer) != 230 {
			t.Errorf("%d records, want 230", len(a.Answer))
		}
	}
}

func TestB27_StreamHonoursHalfClose(t *testing.T) {
	hold := make(chan struct{})
	r, _ := upstream(t, Config{}, func(w mdns.ResponseWriter, q *mdns.Msg) {
		<-hold
		says("192.0.2.1")(w, q)
	})
	c := dial(t, r)
	c.send(query("name.example.", mdns.TypeA))
	must(t, c.Conn.Conn.(*net.UnixConn).CloseWrite())
	close(hold)
	checkA(t, c.receive(), "192.0.2.1")
	if _, err := c.Conn.Conn.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("got %v after the last answer, want EOF", err)
	}
}

// A nameserver may close after each answer; no query is lost.
func TestStreamReconnects(t *testing.T) {
	r, servers := upstream(t, Config{}, func(w mdns.ResponseWriter, q *mdns.Msg) {
		says("192.0.2.1")(w, q)
		w.Close()
	})
	c := dial(t, r)
	for range 5 {
		c.send(query("name.example.", mdns.TypeA))
		checkA(t, c.receive(), "192.0.2.1")
	}
	c.send(query("a.example.", mdns.TypeA), query("b.example.", mdns.TypeA), query("c.example.", mdns.TypeA))
	for range 3 {
		checkA(t, c.receive(), "192.0.2.1")
	}
	if got := servers[0].asked.Load(); got != 8 {
		t.Errorf("%d queries came, want 8", got)
	}
}

func TestStreamsAreBounded(t *testing.T) {
	r := start(t, Config{MaxStreams: 2, Idle: 100 * time.Millisecond, ResolvConf: filepath.Join(t.TempDir(), "none")})
	one, two := dial(t, r), dial(t, r)
	if fd, err := r.Stream(); !errors.Is(err, ErrTooManyStreams) {
		t.Errorf("third stream: %d, %v", fd, err)
	}
	// Both end by themselves; half a message is no activity.
	_, err := one.Conn.Conn.Write([]byte{0, 50, 1})
	must(t, err)
	for _, c := range []*client{one, two} {
		if _, err := c.Conn.Conn.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("idle stream: %v, want EOF", err)
		}
	}
	eventually(t, "an ended stream leaves its place", func() bool {
		fd, err := r.Stream()
		if err == nil {
			unix.Close(fd)
		}
		return err == nil
	})
	r.Close()
	if _, err := r.Stream(); !errors.Is(err, ErrClosed) {
		t.Errorf("stream of a closed resolver: %v", err)
	}
}

// Streams that ask more than may be under way together are all served, also
// after one whose guest takes no answers.
func TestStreamsShareWhatTheyMayAsk(t *testing.T) {
	big := make([]byte, 60000)
	r, _ := upstream(t, Config{Idle: 100 * time.Millisecond}, func(w mdns.ResponseWriter, q *mdns.Msg) {
		if q.Question[0].Name != "big.example." {
			says("192.0.2.1")(w, q)
			return
		}
		a, _ := new(mdns.Msg).SetReply(q).Pack()
		w.Write(append(a, big...))
	})
	deaf := dial(t, r)
	for range maxStreamQueries {
		deaf.send(query("big.example.", mdns.TypeA))
	}
	var clients []*client
	for range maxTCPQueries/maxStreamQueries + 1 {
		clients = append(clients, dial(t, r))
	}
	for _, c := range clients {
		for range maxStreamQueries {
			c.send(query("name.example.", mdns.TypeA))
		}
	}
	for _, c := range clients {
		for range maxStreamQueries {
			checkA(t, c.receive(), "192.0.2.1")
		}
	}
	eventually(t, "the deaf guest's stream is closed", func() bool {
		free := false
		r.do(func() { free = r.streams == 0 && len(r.slots) == 0 })
		return free
	})
}

// A guest that sends and never reads holds no more than the bounds.
func TestStreamPushesBack(t *testing.T) {
	r, _ := upstream(t, Config{}, silence)
	c := dial(t, r)
	c.SetDeadline(time.Now().Add(200 * time.Millisecond))
	m := append(pack(t, query("name.example.", mdns.TypeA)), make([]byte, 60000)...)
	sent := 0
	for {
		n, err := c.Write(m)
		sent += n
		if err != nil {
			break
		}
		if sent > 4<<20 {
			t.Fatalf("%d bytes were taken", sent)
		}
	}
	within(t, 2*time.Second, r.Close)
}

func TestStreamEndsOnWhatIsNoQuery(t *testing.T) {
	r := start(t, Config{ResolvConf: filepath.Join(t.TempDir(), "none")})
	for _, m := range [][]byte{{}, {1, 2, 3}, append([]byte{0, 1, 0x80}, make([]byte, 9)...)} {
		c := dial(t, r)
		_, err := c.Write(m)
		must(t, err)
		if _, err := c.Conn.Conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%x: %v, want the end", m, err)
		}
	}
}

// The silence that met one query of a stream is not the next one's.
func TestStreamRecoversFromSilence(t *testing.T) {
	r, servers := upstream(t, Config{Retry: 50 * time.Millisecond, Timeout: 200 * time.Millisecond}, silence)
	c := dial(t, r)
	c.send(query("name.example.", mdns.TypeA))
	if a := c.receive(); a.Rcode != mdns.RcodeServerFailure {
		t.Errorf("got %v, want SERVFAIL", a)
	}
	servers[0].set(says("192.0.2.1"))
	c.send(query("name.example.", mdns.TypeA))
	checkA(t, c.receive(), "192.0.2.1")
}
