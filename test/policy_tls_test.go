package test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// clientHello is the first flight of a client, one record.
func clientHello(t testing.TB, sni string) []byte {
	t.Helper()
	a, b := net.Pipe()
	defer b.Close()
	go tls.Client(a, &tls.Config{ServerName: sni, InsecureSkipVerify: true}).Handshake()
	header := make([]byte, 5)
	if _, err := io.ReadFull(b, header); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, binary.BigEndian.Uint16(header[3:]))
	if _, err := io.ReadFull(b, body); err != nil {
		t.Fatal(err)
	}
	return append(header, body...)
}

// recorder divides the first record that is written into records of size bytes, each
// written in two parts, the first of which ends within its header.
type recorder struct {
	net.Conn
	size  int
	begun bool
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.begun {
		return r.Conn.Write(b)
	}
	r.begun = true
	for body := b[5:]; len(body) > 0; {
		n := min(r.size, len(body))
		record := append(append([]byte{}, b[:3]...), byte(n>>8), byte(n))
		record = append(record, body[:n]...)
		for _, part := range [][]byte{record[:2], record[2:]} {
			if _, err := r.Conn.Write(part); err != nil {
				return 0, err
			}
		}
		body = body[n:]
	}
	return len(b), nil
}

// serveTLS serves echo by TLS, and says in got what its clients have asked for.
func serveTLS(t testing.TB, f family, cfg *tls.Config, got *arrivals) net.Addr {
	cfg.Certificates = []tls.Certificate{certificate(t)}
	return serveTCP(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.server, "0"), func(c *net.TCPConn) {
		s := tls.Server(c, cfg)
		if err := s.Handshake(); err != nil {
			return
		}
		got.note(s.ConnectionState().ServerName)
		io.Copy(s, s)
	})
}

// handshake has TLS with an address and says whether that works; what does not is to be a
// reset.
func (p *policed) handshake(t testing.TB, at string, cfg *tls.Config, size int) bool {
	t.Helper()
	c, err := p.dialFor(t, "tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	if size > 0 {
		c = &recorder{Conn: c, size: size}
	}
	client := tls.Client(c, cfg)
	c.SetDeadline(time.Now().Add(deadline))
	if err = client.Handshake(); err == nil {
		err = answers(t, client, "over TLS")
	}
	if err != nil && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) || os.IsTimeout(err) {
		t.Errorf("%s: %v, want a reset", cfg.ServerName, err)
	}
	return err == nil
}

// TestPolicyReadsLongHellos: a hello of several kilobytes, in records and segments of any
// size, whose name comes last.
func TestPolicyReadsLongHellos(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, f family) {
		var got arrivals
		server := serveTLS(t, f, &tls.Config{NextProtos: []string{"end"}}, &got)
		p := underPolicy(t, "allow good.example\n")
		p.zone.lead(f, "good.example", f.server)
		long := make([]string, 40)
		for i := range long {
			long[i] = fmt.Sprintf("%0200d", i)
		}
		for _, size := range []int{0, 37, 1000, 5000} {
			for sni, want := range map[string]bool{"good.example": true, "evil.example": false} {
				cfg := &tls.Config{ServerName: sni, InsecureSkipVerify: true, NextProtos: append(long, "end")}
				if got := p.handshake(t, p.at(t, f, "good.example", server), cfg, size); got != want {
					t.Errorf("SNI %s in records of %d: %v", sni, size, got)
				}
			}
		}
		if seen := got.about("evil"); len(seen) > 0 {
			t.Errorf("the server was asked for %q", seen)
		}
	})
}

// echConfig is a key for Encrypted Client Hello, as a server has it and as clients find it
// in DNS (RFC 9849 section 4).
func echConfig(t testing.TB, front string) (list []byte, key tls.EncryptedClientHelloKey) {
	t.Helper()
	private := must(ecdh.X25519().GenerateKey(rand.Reader))(t)
	var b bytes.Buffer
	number := func(v ...any) {
		for _, v := range v {
			binary.Write(&b, binary.BigEndian, v)
		}
	}
	public := private.PublicKey().Bytes()
	// id, KEM X25519, key, one suite of HKDF-SHA256 and AES-128-GCM, longest name, front.
	number(uint8(7), uint16(0x20), uint16(len(public)), public, uint16(4), uint16(1), uint16(1), uint8(32), uint8(len(front)), []byte(front), uint16(0))
	config := append([]byte{0xfe, 0x0d, 0, byte(b.Len())}, b.Bytes()...)
	return append([]byte{0, byte(len(config))}, config...), tls.EncryptedClientHelloKey{Config: config, PrivateKey: private.Bytes()}
}

// TestPolicyECH: whoever hides the name in an encrypted hello shows the front's, which must
// be the name that was allowed; and the keys for it are not had by DNS.
func TestPolicyECH(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, f family) {
		var got arrivals
		front, frontKey := echConfig(t, "front.example")
		good, goodKey := echConfig(t, "good.example")
		server := serveTLS(t, f, &tls.Config{EncryptedClientHelloKeys: []tls.EncryptedClientHelloKey{frontKey, goodKey}}, &got)
		p := underPolicy(t, "allow good.example\nallow deeper.example\n")
		p.zone.lead(f, "good.example", f.server)
		p.zone.set("good.example.", "HTTPS", `good.example. 60 IN HTTPS 1 . alpn="h2" ech="`+base64.StdEncoding.EncodeToString(front)+`"`)
		handshake := func(inner string, list []byte) bool {
			return p.handshake(t, p.at(t, f, "good.example", server), &tls.Config{
				ServerName: inner, InsecureSkipVerify: true, EncryptedClientHelloConfigList: list,
				EncryptedClientHelloRejectionVerify: func(tls.ConnectionState) error { return nil },
			}, 0)
		}
		// Even where what is hidden is what is allowed: nobody can see that.
		for _, inner := range []string{"hidden.example", "good.example", "deeper.example"} {
			if handshake(inner, front) {
				t.Errorf("%s behind a front that is not allowed is let through", inner)
			}
		}
		p.wantRecord(t, "good.example", "deny", "name in the traffic")
		if len(got.about("")) > 0 {
			t.Errorf("the server was asked for %q", got.about(""))
		}
		if !handshake("good.example", good) || len(got.about("good.example")) != 1 {
			t.Errorf("behind itself as the front it is not reached: %q", got.about(""))
		}
		answer := p.ask(t, "good.example", dns.TypeHTTPS)
		if len(answer.Answer) != 1 || bytes.Contains([]byte(answer.String()), []byte("ech")) || !bytes.Contains([]byte(answer.String()), []byte("h2")) {
			t.Errorf("the guest is told %v", answer)
		}
	})
}

// TestPolicyOldTLS: TLS 1.2 is read alike; and without a name it is refused if one is
// required.
func TestPolicyOldTLS(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, f family) {
		var got arrivals
		server := serveTLS(t, f, &tls.Config{MaxVersion: tls.VersionTLS12}, &got)
		p := underPolicy(t, "allow good.example\nsni require\n")
		p.zone.lead(f, "good.example", f.server)
		for sni, want := range map[string]bool{"good.example": true, "evil.example": false, "": false} {
			cfg := &tls.Config{ServerName: sni, InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}
			if got := p.handshake(t, p.at(t, f, "good.example", server), cfg, 0); got != want {
				t.Errorf("SNI %q: %v", sni, got)
			}
		}
		p.wantRecord(t, "good.example", "deny", "no name in the hello")
	})
}
