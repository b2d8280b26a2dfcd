package sniff

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"testing"
)

// clientHello is what Go's own client sends first, as one record.
func clientHello(t testing.TB, cfg *tls.Config) []byte {
	t.Helper()
	client, server := net.Pipe()
	defer server.Close()
	cfg.InsecureSkipVerify = true
	done := make(chan struct{})
	go func() {
		defer close(done)
		tls.Client(client, cfg).HandshakeContext(context.Background())
		client.Close()
	}()
	b := make([]byte, MaxHello)
	n, err := server.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	server.Close()
	<-done
	return b[:n]
}

// records divides the handshake of one record into records of at most n bytes.
func records(record []byte, n int) (split []byte) {
	for rest := record[recordHeader:]; len(rest) > 0; {
		piece := rest[:min(n, len(rest))]
		split = append(split, record[:3]...)
		split = binary.BigEndian.AppendUint16(split, uint16(len(piece)))
		split = append(split, piece...)
		rest = rest[len(piece):]
	}
	return split
}

// echConfigs are a list of one configuration whose front is name, RFC 9849 section 4.
func echConfigs(t testing.TB, name string) []byte {
	t.Helper()
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	vector := func(b []byte) []byte { return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...) }
	c := append([]byte{1, 0, 0x20}, vector(key.PublicKey().Bytes())...) // id, KEM
	c = append(c, vector([]byte{0, 1, 0, 1})...)                        // HKDF-SHA256, AES-128-GCM
	c = append(append(append(c, 64, byte(len(name))), name...), 0, 0)
	return vector(append([]byte{0xfe, 0x0d}, vector(c)...))
}

// TestTLSAtAllSplits: wherever segments and records end, Go's hello is read, at its last
// byte and not before.
func TestTLSAtAllSplits(t *testing.T) {
	for name, tt := range map[string]struct {
		cfg  *tls.Config
		want Result
	}{
		"named":    {&tls.Config{ServerName: "Example.com"}, Result{State: Named, Name: "Example.com"}},
		"nameless": {&tls.Config{ServerName: "192.0.2.1"}, Result{State: Nameless}},
		"TLS 1.2":  {&tls.Config{ServerName: "old.example", MaxVersion: tls.VersionTLS12}, Result{State: Named, Name: "old.example"}},
		"ECH": {&tls.Config{ServerName: "hidden.example", MinVersion: tls.VersionTLS13, EncryptedClientHelloConfigList: echConfigs(t, "front.example")},
			Result{State: Named, Name: "front.example", ECH: true}},
	} {
		hello := clientHello(t, tt.cfg)
		for _, size := range []int{1, 2, 3, 5, 100, 1000, recordMax} {
			stream := records(hello, size)
			for i := range stream {
				var s Stream
				if r := s.Feed(stream[:i]); r.State != More {
					t.Fatalf("%s: records of %d: after %d of %d bytes: %+v", name, size, i, len(stream), r)
				}
				if r := s.Feed(stream[i:]); r != tt.want {
					t.Fatalf("%s: records of %d, split at %d: %+v, want %+v", name, size, i, r, tt.want)
				}
				if s.Protocol() != "tls" {
					t.Fatalf("protocol %q", s.Protocol())
				}
			}
			var s Stream
			for i := range stream {
				if r := s.Feed(stream[i : i+1]); (r.State == More) != (i < len(stream)-1) {
					t.Fatalf("%s: records of %d, byte by byte: after %d: %+v", name, size, i, r)
				}
			}
		}
	}
}

// TestTLSMalformed: what servers read differently, or nobody sends.
func TestTLSMalformed(t *testing.T) {
	good := clientHello(t, &tls.Config{ServerName: "example.com"})
	change := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(good)) }
	sni := bytes.Index(good, []byte("\x00\x00\x00\x10\x00\x0e\x00\x00\x0bexample.com"))
	if sni < 0 {
		t.Fatal("no server name in the hello")
	}
	for name, tt := range map[string]struct {
		stream []byte
		want   State
	}{
		"alert before the hello": {append([]byte{21, 3, 1, 0, 2, 1, 90}, good...), Malformed},
		"key change before it":   {append([]byte{20, 3, 3, 0, 1, 1}, good...), Malformed},
		"alert, other version":   {[]byte{21, 9, 9, 0, 2, 1, 0}, Malformed},
		"hello, other version":   {change(func(b []byte) []byte { b[1], b[2] = 4, 4; return b }), Malformed},
		"alert, not version":     {[]byte{21, 16, 9, 0, 2, 1, 0}, Other},
		"handshake, not version": {[]byte{22, 16, 9, 0, 2, 1, 0}, Other},
		"heartbeat, not version": {[]byte{24, 9, 9, 0, 2, 1, 0}, Other},
		"server hello":           {change(func(b []byte) []byte { b[5] = 2; return b }), Malformed},
		"empty record":           {[]byte{22, 3, 1, 0, 0}, Malformed},
		"record too long":        {[]byte{22, 3, 1, 0x40, 1}, Malformed},
		"hello too long":         {[]byte{22, 3, 1, 0, 4, 1, 1, 0, 0}, Malformed},
		"another record between": {append(records(good, 40)[:45], 23, 3, 3, 0, 1, 0), Malformed},
		"two names": {change(func(b []byte) []byte {
			b[sni+8], b[sni+9] = 0, 4 // the first is "exam", then there is more
			return b
		}), Malformed},
		"another type of name":   {change(func(b []byte) []byte { b[sni+6] = 1; return b }), Malformed},
		"extension beyond hello": {change(func(b []byte) []byte { b[sni+2] = 0xff; return b }), Malformed},
		"second message in record": {change(func(b []byte) []byte {
			b = append(b, 1, 0, 0, 0)
			binary.BigEndian.PutUint16(b[3:], uint16(len(b)-recordHeader))
			return b
		}), Malformed},
		"byte after the extensions": {change(func(b []byte) []byte {
			b = append(b, 0)
			binary.BigEndian.PutUint16(b[3:], uint16(len(b)-recordHeader))
			binary.BigEndian.PutUint16(b[7:], uint16(len(b)-recordHeader-handshakeHeader))
			return b
		}), Malformed},
	} {
		var s Stream
		if r := s.Feed(tt.stream); r.State != tt.want {
			t.Errorf("%s: %v, want %v", name, r.State, tt.want)
		}
	}
}

// TestServersAreLenient is why a hello behind an alert, or in a record of no version that
// there is, is not something else.
func TestServersAreLenient(t *testing.T) {
	hello := clientHello(t, &tls.Config{ServerName: "hidden.example"})
	versionless := bytes.Clone(hello)
	versionless[1], versionless[2] = 9, 9
	for name, stream := range map[string][]byte{
		"an alert": append([]byte{21, 3, 1, 0, 2, 1, 90}, hello...), "another version": versionless,
	} {
		client, server := net.Pipe()
		defer client.Close()
		defer server.Close()
		go client.Write(stream)
		seen := errors.New("the hello was read")
		err := tls.Server(server, &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			if h.ServerName != "hidden.example" {
				t.Errorf("the server was asked for %q", h.ServerName)
			}
			client.Close()
			return nil, seen
		}}).HandshakeContext(t.Context())
		if !errors.Is(err, seen) {
			t.Errorf("%s: handshake: %v", name, err)
		}
	}
}

// The extension twice is not one name.
func TestTLSTwoExtensions(t *testing.T) {
	name := func(s string) []byte {
		b := []byte{0, 0, 0, byte(len(s) + 5), 0, byte(len(s) + 3), 0, 0, byte(len(s))}
		return append(b, s...)
	}
	for _, tt := range []struct {
		extensions []byte
		want       Result
	}{
		{name("a.example"), Result{State: Named, Name: "a.example"}},
		{append(name("a.example"), name("b.example")...), Result{State: Malformed}},
		{append(name("a.example"), 0xfe, 0x0d, 0, 0), Result{State: Named, Name: "a.example", ECH: true}},
		{[]byte{0xff, 0xce, 0, 0}, Result{State: Nameless, ECH: true}},
		{[]byte{0, 0, 0, 0}, Result{State: Malformed}},
	} {
		if r := parseHello(hello(tt.extensions)); r != tt.want {
			t.Errorf("%x: %+v, want %+v", tt.extensions, r, tt.want)
		}
	}
}

// hello is the least ClientHello with these extensions.
func hello(extensions []byte) []byte {
	body := append(make([]byte, 34), 0, 0, 2, 0x13, 1, 1, 0)
	body = binary.BigEndian.AppendUint16(body, uint16(len(extensions)))
	body = append(body, extensions...)
	return append([]byte{1, 0, byte(len(body) >> 8), byte(len(body))}, body...)
}

// TestHTTP: whose a request is, and what is none.
func TestHTTP(t *testing.T) {
	named := func(n string) Result { return Result{State: Named, Name: n} }
	malformed, other, nameless := Result{State: Malformed}, Result{State: Other}, Result{State: Nameless}
	for request, want := range map[string]Result{
		"GET / HTTP/1.1\r\nHost: Example.com\r\n\r\n":                            named("Example.com"),
		"GET / HTTP/1.1\r\nAccept: */*\r\nhOST:example.com:8080\r\nX: y\r\n\r\n": named("example.com"),
		"POST /x HTTP/1.1\nHost: example.com \n\nHost: other.com\n\n":            named("example.com"),
		"\r\nGET / HTTP/1.1\r\nHost: example.com\r\n\r\n":                        named("example.com"),
		"M-SEARCH * HTTP/1.1\r\nHost: [2001:db8::1]:1900\r\n\r\n":                named("2001:db8::1"),
		"GET http://example.com/p HTTP/1.1\r\nHost: example.com\r\n\r\n":         named("example.com"),
		"GET http://example.com?q HTTP/1.1\r\n\r\n":                              named("example.com"),
		"GET http://evil.com/ HTTP/1.1\r\nHost: example.com\r\n\r\n":             malformed,
		"GET http://example.com@evil.com/ HTTP/1.1\r\nHost: example.com\r\n\r\n": malformed,
		"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n":      named("example.com"),
		"CONNECT evil.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n":         malformed,
		"GET /?u=http://evil.com/ HTTP/1.1\r\nHost: example.com\r\n\r\n":         named("example.com"),
		"GET / HTTP/1.1\r\nHost: a.com\r\nHost: b.com\r\n\r\n":                   malformed,
		"GET / HTTP/1.1\r\nHost : a.com\r\n\r\n":                                 malformed,
		"GET / HTTP/1.1\r\nX: y\r\n Host: a.com\r\n\r\n":                         malformed,
		"GET / HTTP/1.1\r\nHost: a.com, b.com\r\n\r\n":                           malformed,
		"GET / HTTP/1.1\r\nX: y\rHost: b.com\r\nHost: a.com\r\n\r\n":             malformed,
		"GET  / HTTP/1.1\r\nHost: a.com\r\n\r\n":                                 malformed,
		"get / HTTP/1.1\r\nHost: a.com\r\n\r\n":                                  named("a.com"),
		strings.Repeat("X", 100) + " / HTTP/1.1\r\nHost: a.com\r\n\r\n":          named("a.com"),
		strings.Repeat("\r\n", 50) + "GET / HTTP/1.1\r\nHost: a.com\r\n\r\n":     named("a.com"),
		" \n\tGET / HTTP/1.1\r\nHost: a.com\r\n\r\n":                             named("a.com"),
		"GET / HTTP/1.1 \r\nHost: a.com\r\n\r\n":                                 malformed,
		"GET\t/\tHTTP/1.1\r\nHost: a.com\r\n\r\n":                                malformed,
		"GET / HTTP/1.9\r\nHost: a.com\r\n\r\n":                                  malformed,
		"GET / http/1.1\r\nHost: a.com\r\n\r\n":                                  malformed,
		"connect evil.com:443 HTTP/1.1\r\nHost: a.com:443\r\n\r\n":               malformed,
		"GET / HTTP/1.0\r\n\r\n":                                                 nameless,
		strings.Repeat("x", MaxHello+1):                                          malformed,
		"*1\r\n$4\r\nPING\r\n":                                                   other, // Redis
		"get key\r\n":                                                            other, // memcached
		"INVITE sip:a@example.com SIP/2.0\r\n":                                   other,
		"DESCRIBE rtsp://example.com/ RTSP/1.0\r\n":                              other,
		"GET / HTTP/1.1\r\nHost:\r\n\r\n":                                        nameless,
		"GET /" + strings.Repeat("x", MaxHello) + " HTTP/1.1\r\n":                malformed,
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n":                                       other,
		"PRI * HTTP/2.0\r\nHost: a.com\r\n\r\n":                                  malformed,
		"PRI * HTTP/2.0\r\n\r\nSM\r\nHost: a.com\r\n\r\n":                        malformed,
		"GET / HTTP/2.0\r\nHost: a.com\r\n\r\n":                                  malformed, // Node serves it
		"GET /\x00 HTTP/1.1\r\nHost: a.com\r\n\r\n":                              malformed, // Python's http.server serves it
		"EHLO example.com\r\n":                                                   other,
		"USER anonymous\r\n":                                                     other,
		"PING\r\n":                                                               other,
		"SSH-2.0-OpenSSH_9.6\r\n":                                                other,
		"\x00\x00\x00\x08\x04\xd2\x16\x2f":                                       other, // PostgreSQL
		"0032git-upload-pack /p\x00host=example.com\x00":                         other,
		"GET /\r\n": other,
	} {
		for _, step := range []int{1, 7, len(request)} {
			var s Stream
			var r Result
			for rest := request; rest != "" && r.State == More; {
				n := min(step, len(rest))
				r = s.Feed([]byte(rest[:n]))
				rest = rest[n:]
			}
			if r != want {
				t.Errorf("%.80q in steps of %d: %+v, want %+v", request, step, r, want)
			}
		}
	}
}

// TestOldHello: a hello in the form of SSL 2.0 names no server, and OpenSSL takes it.
func TestOldHello(t *testing.T) {
	for b, want := range map[string]State{
		"\x80\x2e\x01\x03\x03": Nameless,
		"\x80\x2e\x01\x03":     Nameless,
		"\x80\x2e\x01":         More,
		"\x80\x2e\x02":         Other,
		"\x80\x2e\x01\x02":     Other,
		"\x80\x00\x01\x03":     Other, // a record of ONC RPC (RFC 5531)
		"\xff\xfd\x01":         Other, // telnet
	} {
		for _, step := range []int{1, len(b)} {
			var s Stream
			var r Result
			for rest := b; rest != "" && r.State == More; rest = rest[step:] {
				r = s.Feed([]byte(rest[:step]))
			}
			if r.State != want {
				t.Errorf("%x in steps of %d: %v, want %v", b, step, r.State, want)
			}
		}
	}
}

// FuzzStream: any bytes, divided anyhow, mean the same, and are held up to the bound.
func FuzzStream(f *testing.F) {
	for _, cfg := range []*tls.Config{{ServerName: "example.com"}, {ServerName: "h.example", MinVersion: tls.VersionTLS13, EncryptedClientHelloConfigList: echConfigs(f, "front.example")}} {
		b := clientHello(f, cfg)
		f.Add(b, uint16(1))
		f.Add(records(b, 50), uint16(30))
	}
	f.Add([]byte("GET / HTTP/1.1\r\nHost: a.com\r\n\r\n"), uint16(5))
	f.Add([]byte("\n\r\nGET http://a HTTP/1.1\nHost:a\n\r\n"), uint16(5))
	f.Fuzz(func(t *testing.T, b []byte, step uint16) {
		var whole, pieces Stream
		want := whole.Feed(b)
		var got Result
		for rest := b; len(rest) > 0; {
			n := min(int(step)+1, len(rest))
			got = pieces.Feed(rest[:n])
			rest = rest[n:]
			if len(pieces.buf) > MaxHello+1 {
				t.Fatalf("%d bytes are held", len(pieces.buf))
			}
		}
		if got != want && len(b) > 0 {
			t.Errorf("whole: %+v, in pieces: %+v", want, got)
		}
		if (want.State == Named) != (want.Name != "") {
			t.Errorf("%+v", want)
		}
		if want.State == More && len(b) > 3*MaxHello && len(whole.buf) > MaxHello {
			t.Error("more is wanted than may come")
		}
	})
}
