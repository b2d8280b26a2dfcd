// Package proxy speaks the protocols of proxies that connect in our place: SOCKS5 (RFC
// 1928) and CONNECT of HTTP (RFC 9110 section 9.3.6).
//
// # Theory of operation
//
// A Talk is the dialogue on one connection, without the connection: it says what to send,
// and is shown what has come. It takes exactly the proxy's own bytes of that, and leaves
// what follows, the first bytes of the server behind it, to the caller.
//
// Invariants: a Talk ends after MaxWords bytes at the latest.
//
// What it does not do: it has no socket and no clock, and sends no user name or password.
package proxy

import (
	"bytes"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// Kind is a proxy's protocol.
type Kind uint8

// The kinds.
const (
	SOCKS5 Kind = iota
	HTTP        // its CONNECT method
)

// Server is a proxy.
type Server struct {
	Kind Kind
	Host string // a name or an address; empty: Path is its Unix socket
	Port uint16
	Path string
}

// MaxWords bounds what a proxy says before it has connected, in bytes.
const MaxWords = 4096

// Talk has a proxy connect to a destination.
type Talk struct {
	kind Kind
	host string // a name or an address
	port uint16
	said bool // of SOCKS5: the destination
}

// NewTalk has a proxy connect to a host, which is a name or an address.
func NewTalk(k Kind, host string, port uint16) *Talk { return &Talk{kind: k, host: host, port: port} }

// Start is what to send first.
func (t *Talk) Start() []byte {
	if t.kind == HTTP {
		at := t.host
		if a, err := netip.ParseAddr(at); err == nil && a.Is6() {
			at = "[" + at + "]"
		}
		at += ":" + strconv.Itoa(int(t.port))
		return []byte("CONNECT " + at + " HTTP/1.1\r\nHost: " + at + "\r\n\r\n")
	}
	t.said = false
	return []byte{5, 1, 0} // one method: no authentication
}

// Answer is what a proxy's words mean.
type Answer struct {
	Words int    // how many bytes were the proxy's own; 0: they are not whole yet
	Say   []byte // what to send now
	Done  bool   // it has connected
	// Errno is why it has not, as a program of the guest is to see it.
	Errno unix.Errno
}

// Hear takes what has arrived, without the bytes that earlier Answers counted as Words.
func (t *Talk) Hear(b []byte) Answer {
	switch {
	case t.kind == HTTP:
		return t.hearHTTP(b)
	case !t.said:
		return t.hearMethod(b)
	}
	return hearReply(b)
}

// hearHTTP reads the head of a response.
func (t *Talk) hearHTTP(b []byte) Answer {
	end := bytes.Index(b, []byte("\r\n\r\n"))
	if end < 0 {
		return Answer{}
	}
	const status = len("HTTP/1.1 ")
	if !bytes.HasPrefix(b, []byte("HTTP/1.")) || end < status+3 {
		return Answer{Errno: unix.ECONNREFUSED} // no proxy
	}
	a := Answer{Words: end + 4}
	switch code := string(b[status : status+3]); {
	case code[0] == '2':
		a.Done = true
	case code == "403", code == "407", code == "401":
		a.Errno = unix.EACCES
	case code == "502", code == "503", code == "504":
		a.Errno = unix.EHOSTUNREACH
	default:
		a.Errno = unix.ECONNREFUSED
	}
	return a
}

// hearMethod reads the method that the proxy has chosen, and names the destination.
func (t *Talk) hearMethod(b []byte) Answer {
	switch {
	case len(b) < 2:
		return Answer{}
	case b[0] != 5:
		return Answer{Errno: unix.ECONNREFUSED} // no proxy
	case b[1] != 0:
		return Answer{Errno: unix.EACCES} // it wants authentication
	}
	t.said = true
	say := []byte{5, 1, 0} // CONNECT
	if a, err := netip.ParseAddr(t.host); err != nil {
		say = append(append(say, 3, byte(len(t.host))), t.host...)
	} else if a.Is4() {
		say = append(append(say, 1), a.AsSlice()...)
	} else {
		say = append(append(say, 4), a.AsSlice()...)
	}
	return Answer{Words: 2, Say: append(say, byte(t.port>>8), byte(t.port))}
}

// hearReply reads whether the proxy has connected. Its bound address is ignored.
func hearReply(b []byte) Answer {
	if len(b) < 5 {
		return Answer{}
	}
	a := Answer{Words: 4 + 2}
	switch b[3] {
	case 1:
		a.Words += 4
	case 3:
		a.Words += 1 + int(b[4])
	case 4:
		a.Words += 16
	default:
		return Answer{Errno: unix.ECONNREFUSED}
	}
	switch {
	case len(b) < a.Words && b[1] == 0:
		return Answer{}
	case b[1] == 0:
		a.Done = true
	default:
		a.Errno = socksErrno(b[1])
	}
	return a
}

// socksErrno is RFC 1928 section 6's REP.
func socksErrno(reply byte) unix.Errno {
	switch reply {
	case 2:
		return unix.EACCES
	case 3:
		return unix.ENETUNREACH
	case 1, 4, 6:
		return unix.EHOSTUNREACH
	}
	return unix.ECONNREFUSED
}
