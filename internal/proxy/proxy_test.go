package proxy

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestTalk: what comes is taken a byte at a time or at once, and never more than the proxy's.
func TestTalk(t *testing.T) {
	const rest = "SSH-2.0-server\r\n\r\n"
	for _, tt := range []struct {
		name    string
		kind    Kind
		host    string
		says    []string // what we send
		hears   []string // what the proxy sends after each of it
		want    unix.Errno
		refused bool
	}{
		{"SOCKS5 to a name", SOCKS5, "a.example", []string{"\x05\x01\x00", "\x05\x01\x00\x03\x09a.example\x01\xbb"}, []string{"\x05\x00", "\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50"}, 0, false},
		{"SOCKS5 to an address", SOCKS5, "192.0.2.1", []string{"\x05\x01\x00", "\x05\x01\x00\x01\xc0\x00\x02\x01\x01\xbb"}, []string{"\x05\x00", "\x05\x00\x00\x03\x01a\x00\x50"}, 0, false},
		{"SOCKS5 refuses", SOCKS5, "a.example", []string{"\x05\x01\x00", "\x05\x01\x00\x03\x09a.example\x01\xbb"}, []string{"\x05\x00", "\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00"}, unix.ECONNREFUSED, true},
		{"SOCKS5 wants a password", SOCKS5, "a.example", []string{"\x05\x01\x00"}, []string{"\x05\xff"}, unix.EACCES, true},
		{"no SOCKS5", SOCKS5, "a.example", []string{"\x05\x01\x00"}, []string{"HTTP/1.1 400 Bad\r\n\r\n"}, unix.ECONNREFUSED, true},
		{"CONNECT", HTTP, "a.example", []string{"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n"}, []string{"HTTP/1.0 200 Fine\r\nA: b\r\n\r\n"}, 0, false},
		{"CONNECT to IPv6", HTTP, "2001:db8::1", []string{"CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n\r\n"}, []string{"HTTP/1.1 407 Who?\r\n\r\n"}, unix.EACCES, true},
		{"no HTTP", HTTP, "a.example", []string{"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n"}, []string{"220 mail\r\n\r\n"}, unix.ECONNREFUSED, true},
	} {
		for _, step := range []int{1, 1000} {
			talk := NewTalk(tt.kind, tt.host, 443)
			say, a := talk.Start(), Answer{}
			for i, hear := range tt.hears {
				if string(say) != tt.says[i] {
					t.Errorf("%s: says %q, want %q", tt.name, say, tt.says[i])
				}
				all := hear
				if i == len(tt.hears)-1 && !tt.refused {
					all += rest
				}
				for n := min(step, len(all)); ; n = min(n+step, len(all)) {
					if a = talk.Hear([]byte(all[:n])); a.Words > 0 || a.Errno != 0 || n == len(all) {
						break
					}
				}
				if a.Errno == 0 && a.Words != len(hear) {
					t.Fatalf("%s: %d bytes of %q are the proxy's, want %d", tt.name, a.Words, all, len(hear))
				}
				say = a.Say
			}
			if a.Errno != tt.want || a.Done == tt.refused {
				t.Errorf("%s: done %v, %v, want %v", tt.name, a.Done, a.Errno, tt.want)
			}
		}
	}
}

func FuzzHear(f *testing.F) {
	f.Add(true, []byte("HTTP/1.1 200 OK\r\n\r\n"))
	f.Add(false, []byte("\x05\x00"))
	f.Add(false, []byte("\x05\x00\x00\x03\xffa"))
	f.Fuzz(func(t *testing.T, http bool, b []byte) {
		talk := NewTalk(SOCKS5, "a.example", 443)
		if http {
			talk.kind = HTTP
		}
		for range 3 {
			a := talk.Hear(b)
			if a.Errno == 0 && a.Words > len(b) || a.Done && a.Words == 0 {
				t.Fatalf("%+v of %q", a, b)
			}
			if a.Words == 0 || a.Errno != 0 || a.Done {
				return
			}
			b = b[a.Words:]
		}
	})
}
