package sniff

import (
	"bytes"
	"strings"
)

// maxEmpty is how many bytes of empty lines may come before a request; servers skip
// some: RFC 9112 section 2.2.
const maxEmpty = 8

// feedHTTP takes what has come of a request's head.
func (s *Stream) feedHTTP(b []byte) {
	scanned := len(s.buf)
	s.buf = append(s.buf, b[:min(len(b), MaxHello+1-len(s.buf))]...)
	head := bytes.TrimLeft(s.buf[:min(len(s.buf), maxEmpty)], "\r\n")
	skipped := min(len(s.buf), maxEmpty) - len(head)
	head = s.buf[skipped:]
	if !s.requested {
		var may bool
		if s.requested, may = looksLikeRequest(head); !may {
			s.result.State = Other
			s.kind = unknownKind
			return
		}
	}
	// The end is looked for in what is new, and in what may have begun it.
	if end := headEnd(s.buf, max(0, scanned-3, skipped)); end >= 0 {
		s.result = parseRequest(string(s.buf[skipped:end]))
		return
	}
	if len(s.buf) > MaxHello {
		s.result.State = Malformed
	}
}

// headEnd is the offset after the empty line that ends the head, -1 if it has not come.
func headEnd(b []byte, from int) int {
	for i := from; i < len(b); i++ {
		if b[i] != '\n' {
			continue
		}
		switch next := b[i+1:]; {
		case len(next) > 0 && next[0] == '\n':
			return i + 2
		case len(next) > 1 && next[0] == '\r' && next[1] == '\n':
			return i + 3
		}
	}
	return -1
}

// looksLikeRequest reports whether b begins with the line of a request of HTTP/1, or may
// go on to do so: a method in capitals, a target, and the version at the end.
func looksLikeRequest(b []byte) (is, may bool) {
	const maxMethod = 32
	n := 0
	for n < min(len(b), maxMethod) && ('A' <= b[n] && b[n] <= 'Z' || b[n] == '-' || b[n] == '_') {
		n++
	}
	if n == len(b) {
		return false, true
	}
	if n == 0 || b[n] != ' ' {
		return false, false
	}
	line, _, whole := bytes.Cut(b, []byte("\n"))
	is = whole && version(string(bytes.TrimRight(line, "\r"))) != ""
	return is, is || !whole
}

// version is what a request's line ends with, if it is of HTTP/1.
func version(line string) string {
	i := strings.LastIndexByte(line, ' ')
	if v := line[i+1:]; v == "HTTP/1.1" || v == "HTTP/1.0" {
		return v
	}
	return ""
}

// parseRequest reads a request's head. The authority in its target goes before the Host
// (RFC 9112 section 3.2.2), but not every server has it so: both must agree.
func parseRequest(head string) Result {
	line, fields, _ := strings.Cut(head, "\n")
	line = strings.TrimSuffix(line, "\r")
	method, target, _ := strings.Cut(line, " ")
	target, _, _ = strings.Cut(target, " ")
	if strings.Count(line, " ") != 2 {
		return Result{State: Malformed}
	}
	authority := ""
	if _, after, ok := strings.Cut(target, "://"); ok && !strings.HasPrefix(target, "/") {
		authority, _, _ = strings.Cut(after, "/")
		authority, _, _ = strings.Cut(authority, "?")
	} else if method == "CONNECT" {
		authority = target
	}
	host, hosts := "", 0
	for field := range strings.SplitSeq(fields, "\n") {
		field = strings.TrimSuffix(field, "\r")
		if field == "" {
			break
		}
		name, value, colon := strings.Cut(field, ":")
		// Folded lines, and spaces before the colon, are read in several ways: RFC 9112
		// sections 5.1 and 5.2.
		if !colon || name == "" || strings.ContainsAny(name, " \t\r\x00") || strings.ContainsAny(value, "\r\x00") {
			return Result{State: Malformed}
		}
		if strings.EqualFold(name, "host") {
			host = strings.Trim(value, " \t")
			hosts++
		}
	}
	name, ok := hostOf(host)
	named, okTarget := hostOf(authority)
	switch {
	case hosts > 1, !ok, !okTarget, authority != "" && hosts == 1 && !strings.EqualFold(name, named):
		return Result{State: Malformed}
	case name == "" && named == "":
		return Result{State: Nameless}
	case name == "":
		name = named
	}
	return Result{State: Named, Name: name}
}

// hostOf is an authority without its port. Credentials before it are not taken.
func hostOf(authority string) (host string, ok bool) {
	if strings.ContainsAny(authority, "@ \t,/\\") {
		return "", false
	}
	if rest, found := strings.CutPrefix(authority, "["); found {
		inside, after, closed := strings.Cut(rest, "]")
		return inside, closed && (after == "" || after[0] == ':')
	}
	host, _, _ = strings.Cut(authority, ":")
	return host, strings.Count(authority, ":") <= 1
}
