package sniff

import (
	"bytes"
	"strings"
)

// feedHTTP takes the next piece of a request's head.
func (s *Stream) feedHTTP(b []byte) {
	scanned := len(s.buf)
	s.buf = append(s.buf, b[:min(len(b), MaxHello+1-len(s.buf))]...)
	// Servers skip empty lines before a request (RFC 9112 section 2.2), some any number.
	for s.blank < len(s.buf) && isBlank(s.buf[s.blank]) {
		s.blank++
	}
	from := max(scanned-3, s.blank) // the end is in what is new, or has begun before
	if !s.requested {
		from = s.blank
		var may bool
		if s.requested, may = looksLikeRequest(s.buf[s.blank:]); !may {
			s.result.State = Other
			s.kind = unknownKind
			return
		}
	}
	if end := headEnd(s.buf, from); s.requested && end >= 0 {
		s.result = parseRequest(string(s.buf[s.blank:end]))
		return
	}
	if len(s.buf) > MaxHello {
		s.result.State = Malformed
	}
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

// isToken reports whether a method may contain c, RFC 9110 section 5.6.2.
func isToken(c byte) bool {
	return 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
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

// preface begins HTTP/2 (RFC 9113 section 3.4). It has the form of a request.
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// looksLikeRequest reports whether b begins with what some server takes for an HTTP/1 request
// line, or may still become one: any method, a target, and a version at the end.
func looksLikeRequest(b []byte) (is, may bool) {
	if start := b[:min(len(b), len(preface))]; strings.HasPrefix(preface, string(start)) {
		return false, len(start) < len(preface)
	}
	n := 0
	for n < len(b) && isToken(b[n]) {
		n++
	}
	if n == len(b) {
		return false, true
	}
	if n == 0 || b[n] != ' ' && b[n] != '\t' {
		return false, false
	}
	line, _, whole := bytes.Cut(b, []byte("\n"))
	if b[0] == '0' && bytes.IndexByte(line, 0) >= 0 {
		return false, false // git's own protocol, which begins with a length
	}
	is = whole && hasVersion(string(line))
	return is, is || !whole
}

// hasVersion reports whether a line ends with a version. Some servers take any, such as
// HTTP/2.0.
func hasVersion(line string) bool {
	const protocol = "HTTP/"
	line = strings.TrimRight(line, " \t\r")
	last := line[strings.LastIndexAny(line, " \t")+1:]
	return len(last) > len(protocol) && strings.EqualFold(last[:len(protocol)], protocol)
}

// parseRequest reads a request's head. An authority in the target overrides the Host (RFC
// 9112 section 3.2.2), but not in every server: both must agree.
func parseRequest(head string) Result {
	line, fields, _ := strings.Cut(head, "\n")
	line = strings.TrimSuffix(line, "\r")
	method, target, _ := strings.Cut(line, " ")
	target, _, _ = strings.Cut(target, " ")
	// Servers differ in how they read other white space and other versions.
	if strings.Count(line, " ") != 2 || strings.ContainsAny(line, "\t\r\x00") || !strings.HasSuffix(line, " HTTP/1.1") && !strings.HasSuffix(line, " HTTP/1.0") {
		return Result{State: Malformed}
	}
	authority := ""
	if _, after, ok := strings.Cut(target, "://"); ok && !strings.HasPrefix(target, "/") {
		authority, _, _ = strings.Cut(after, "/")
		authority, _, _ = strings.Cut(authority, "?")
	} else if strings.EqualFold(method, "CONNECT") {
		authority = target
	}
	host, hosts := "", 0
	for field := range strings.SplitSeq(fields, "\n") {
		field = strings.TrimSuffix(field, "\r")
		if field == "" {
			break
		}
		name, value, colon := strings.Cut(field, ":")
		// Servers differ in how they read folded lines and spaces before the colon: RFC
		// 9112 sections 5.1 and 5.2.
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

// hostOf returns an authority without its port. It refuses credentials.
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
