package dns

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	mdns "github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"epiphyte/internal/shard"
	"epiphyte/internal/shard/shardtest"
)

// messages are queries and answers, whole and cut, for a fuzzer to begin with.
func messages(f *testing.F) (list [][]byte) {
	q := query("name.example.", mdns.TypeA)
	q.SetEdns0(1232, true)
	b := pack(f, q)
	for n := range len(b) + 1 {
		list = append(list, b[:n])
	}
	a := new(mdns.Msg).SetReply(q)
	for _, code := range []int{mdns.RcodeSuccess, mdns.RcodeFormatError, mdns.RcodeServerFailure, mdns.RcodeNameError, mdns.RcodeRefused} {
		list = append(list, pack(f, a.SetRcode(q, code)))
	}
	return append(list,
		append(bytes.Clone(b[:4]), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xc0, 0x0c),
		append(bytes.Clone(b[:12]), bytes.Repeat([]byte{63}, 300)...))
}

// FuzzQuery: the answer that is composed here belongs to its query, and is one to
// others, too, if the query is.
func FuzzQuery(f *testing.F) {
	for _, m := range messages(f) {
		f.Add(m)
	}
	f.Fuzz(func(t *testing.T, m []byte) {
		if !isQuery(m) {
			return
		}
		r := servFail(m, binary.BigEndian.Uint16(m))
		if !bytes.Equal(r[:2], m[:2]) || !answers(r, m) || r[3]&maskRcode != mdns.RcodeServerFailure {
			t.Errorf("SERVFAIL to %x is %x", m, r)
		}
		if len(r) > len(m)+11 {
			t.Errorf("SERVFAIL is %d bytes longer than the query", len(r)-len(m))
		}
		if name, whole := plainQuestion(m); whole {
			if got, whole := plainQuestion(r); !whole || got != name {
				t.Errorf("SERVFAIL to %v is about %v", name, got)
			}
		}
	})
}

// plainQuestion is the one question of a message that another parser accepts, with
// a name that is not compressed.
func plainQuestion(b []byte) (mdns.Question, bool) {
	m := new(mdns.Msg)
	if m.Unpack(b) != nil || len(m.Question) != 1 {
		return mdns.Question{}, false
	}
	name := make([]byte, 256)
	n, err := mdns.PackDomainName(m.Question[0].Name, name, 0, nil, false)
	return m.Question[0], err == nil && len(b) >= headerLen+n+4 && bytes.HasPrefix(b[headerLen:], name[:n])
}

// FuzzAnswers: a response answers a query if another parser finds the same question
// in both, and not if it finds different ones.
func FuzzAnswers(f *testing.F) {
	q := pack(f, query("name.example.", mdns.TypeA))
	for _, m := range messages(f) {
		f.Add(m, q)
	}
	f.Fuzz(func(t *testing.T, m, q []byte) {
		got := answers(m, q)
		asked, ok := plainQuestion(q)
		repeated, ok2 := plainQuestion(m)
		if !ok || !ok2 {
			return
		}
		same := mdns.IsSubDomain(asked.Name, repeated.Name) && mdns.IsSubDomain(repeated.Name, asked.Name) &&
			asked.Qtype == repeated.Qtype && asked.Qclass == repeated.Qclass
		if want := same && m[2]&flagQR != 0; got != want {
			t.Errorf("%v to %v: %v, want %v", repeated, asked, got, want)
		}
	})
}

// FuzzNameserver: whatever comes from the nameserver's address and port, the guest has
// one answer, to its question and with its id: the nameserver's, unchanged but for the
// id, or in the end SERVFAIL.
func FuzzNameserver(f *testing.F) {
	for _, m := range messages(f) {
		f.Add(m, true)
	}
	f.Add(messages(f)[40], false)
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(f, err)
	f.Cleanup(func() { silent.Close() })
	conf := filepath.Join(f.TempDir(), "resolv.conf")
	writeConf(f, conf, "127.0.0.1")
	q := pack(f, query("name.example.", mdns.TypeA))
	f.Fuzz(func(t *testing.T, m []byte, rightID bool) {
		clock := new(shardtest.Clock)
		s, err := shard.New(shard.Config{Clock: clock, Poller: new(shardtest.Poller)})
		must(t, err)
		r := New(Config{Shard: s, ResolvConf: conf, Port: silent.LocalAddr().(*net.UDPAddr).AddrPort().Port()})
		defer s.Close()
		defer r.Close()
		var replies [][]byte
		if !r.Submit(q, guestAt(), dnsAt(), func(_, _ netip.AddrPort, m []byte) { replies = append(replies, bytes.Clone(m)) }) {
			t.Fatal("the query is refused")
		}
		for sock := range r.sockets {
			if rightID && len(m) >= 2 {
				binary.BigEndian.PutUint16(m, sock.pending[0].id)
			}
			sock.deliver(bytes.Clone(m))
		}
		for range 2 { // a failure is kept for an interval, in case that another nameserver does better
			clock.Advance(r.cfg.Timeout)
			must(t, s.Turn(0))
		}
		if len(replies) != 1 {
			t.Fatalf("%d replies to %x", len(replies), m)
		}
		reply := replies[0]
		if !bytes.Equal(reply[:2], q[:2]) || !answers(reply, q) {
			t.Errorf("the reply is %x", reply)
		}
		if !bytes.Equal(reply[2:], m[min(2, len(m)):]) && !bytes.Equal(reply, servFail(q, binary.BigEndian.Uint16(q))) {
			t.Errorf("of %x came %x", m, reply)
		}
		if r.inFlight != 0 || len(r.sockets) != 0 {
			t.Errorf("left: %d exchanges, %d sockets", r.inFlight, len(r.sockets))
		}
	})
}

// FuzzNameserverTCP: of a nameserver's stream the first message is taken if it answers
// the query, and no byte beyond it.
func FuzzNameserverTCP(f *testing.F) {
	for _, m := range messages(f) {
		f.Add(frame(m))
	}
	f.Add([]byte{0xff, 0xff, 0})
	q := pack(f, query("name.example.", mdns.TypeA))
	f.Fuzz(func(t *testing.T, stream []byte) {
		if len(stream) >= 4 && stream[3]&1 != 0 {
			copy(stream[2:4], q) // the right id
		}
		var sent bytes.Buffer
		m, err := converse(struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(stream), &sent}, q)
		if !bytes.Equal(sent.Bytes(), frame(q)) {
			t.Errorf("sent %x", sent.Bytes())
		}
		want := unframe(stream)
		switch {
		case err == nil && (len(want) == 0 || !bytes.Equal(m, want[0])):
			t.Errorf("took %x of %x", m, stream)
		case err == nil && (!answers(m, q) || !bytes.Equal(m[:2], q[:2])):
			t.Errorf("took %x", m)
		case err != nil && !errors.Is(err, errOtherQuestion) && len(want) > 0:
			t.Errorf("%v, of %x", err, stream)
		}
	})
}

// unframe cuts a stream into the messages that are whole.
func unframe(stream []byte) (list [][]byte) {
	for len(stream) >= 2 {
		end := 2 + int(binary.BigEndian.Uint16(stream))
		if end > len(stream) {
			break
		}
		list, stream = append(list, stream[2:end]), stream[end:]
	}
	return list
}

// FuzzStream: of a guest's connection every query up to the first mistake is answered
// once, then the connection ends.
func FuzzStream(f *testing.F) {
	var all []byte
	for _, m := range messages(f) {
		f.Add(frame(m))
		if isQuery(m) {
			all = append(all, frame(m)...)
		}
	}
	f.Add(all)
	f.Add(append(all, 0, 1, 0))
	f.Fuzz(func(t *testing.T, stream []byte) {
		r := start(t, Config{
			ResolvConf: "/dev/null",
			Local: func(q []byte, _ netip.AddrPort, _ bool) ([]byte, bool) {
				return servFail(q, binary.BigEndian.Uint16(q)), true
			},
		})
		var want []string
		for _, m := range unframe(stream) {
			if !isQuery(m) {
				break
			}
			want = append(want, string(servFail(m, binary.BigEndian.Uint16(m))))
		}
		c := dial(t, r).Conn.Conn.(*net.UnixConn) // without its framing
		written := make(chan struct{})
		go func() {
			defer close(written)
			c.Write(stream) // may fail: a mistake ends the connection
			c.CloseWrite()
		}()
		var back bytes.Buffer
		if _, err := io.Copy(&back, c); err != nil && !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("read: %v", err)
		}
		<-written
		var got []string
		for _, m := range unframe(back.Bytes()) {
			got = append(got, string(m))
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%d answers of %d bytes, want %d", len(got), back.Len(), len(want))
		}
	})
}

// FuzzResolvConf: the nameservers are a few, of plain form, each once, and read again
// from a file that names them.
func FuzzResolvConf(f *testing.F) {
	for _, s := range []string{
		"", "nameserver 192.0.2.1", "search example.org\nnameserver 192.0.2.1\nnameserver\t2001:db8::1 \r\noptions edns0\n",
		"nameserver ::ffff:192.0.2.1#x\nnameserver fe80::1%eth0;y\n", "\x00nameserver 127.0.0.53\n", strings.Repeat("nameserver 192.0.2.1\n", 9),
		"nameserver 0\nnameserver 1.2.3.4.5\nnameserver [::1]\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		list := parseResolvConf(text)
		if len(list) == 0 || len(list) > maxServers {
			t.Errorf("%d nameservers", len(list))
		}
		path := filepath.Join(t.TempDir(), "resolv.conf")
		var servers []string
		for i, a := range list {
			if !a.IsValid() || a.Is4In6() || slices.Contains(list[:i], a) {
				t.Errorf("nameserver %v", a)
			}
			servers = append(servers, a.String())
		}
		writeConf(t, path, servers...)
		b, err := os.ReadFile(path)
		must(t, err)
		if again := parseResolvConf(b); !slices.Equal(again, list) {
			t.Errorf("%v is read again as %v", list, again)
		}
	})
}
