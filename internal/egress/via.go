package egress

import (
	"net/netip"
	"strings"

	"epiphyte/internal/proxy"
)

// via reads an optional via PROXY.
func (p *reader) via(r *Rule, given bool) error {
	if len(p.words) == 0 || p.words[0].text != "via" {
		return nil
	}
	at, _ := p.next()
	w, ok := p.next()
	switch {
	case !r.allow:
		return p.errorf(at.column, "what is denied goes by no proxy")
	case given && r.protos != TCP, r.target.group == dnsGroup:
		return p.errorf(at.column, "only TCP goes by a proxy")
	case !ok:
		return p.errorf(w.column, "a proxy is missing: socks5://HOST:PORT, http-connect://HOST:PORT or unix:PATH")
	}
	server, err := p.proxy(w)
	if err != nil {
		return err
	}
	r.protos, r.Via = TCP, server
	return nil
}

// proxy reads a PROXY.
func (p *reader) proxy(w word) (*proxy.Server, error) {
	if path, ok := strings.CutPrefix(w.text, "unix:"); ok {
		const longest = 107 // of a socket's path, unix(7)
		if !strings.HasPrefix(path, "/") || len(path) > longest {
			return nil, p.errorf(w.column+len("unix:"), "the socket of a proxy is a whole path of %d bytes at most, not %q", longest, path)
		}
		return &proxy.Server{Kind: proxy.SOCKS5, Path: path}, nil
	}
	kind, at := proxy.SOCKS5, w.text
	scheme, rest, ok := strings.Cut(w.text, "://")
	switch {
	case ok && scheme == "socks5":
	case ok && scheme == "http-connect":
		kind = proxy.HTTP
	default:
		return nil, p.errorf(w.column, "%q is not a proxy: it is socks5://HOST:PORT, http-connect://HOST:PORT or unix:PATH", at)
	}
	where := word{rest, w.column + len(scheme) + len("://")}
	if strings.Contains(rest, "@") {
		return nil, p.errorf(where.column, "no user and password stand here: policies are kept where others read them, and records have their rules")
	}
	host, ports, err := p.splitTarget(where)
	if err != nil {
		return nil, err
	}
	if ports.text == "" {
		return nil, p.errorf(where.column+len(rest), "the port of the proxy is missing")
	}
	number, err := port(ports.text)
	if err != nil || number == 0 {
		return nil, p.errorf(ports.column, "%q is not a port from 1 to 65535", ports.text)
	}
	name := host.text
	if a, err := netip.ParseAddr(name); err != nil || a.Zone() != "" {
		if name, err = Canonical(name); err != nil || looksLikeAddress(name) {
			return nil, p.errorf(host.column, "%q is not a name or address", host.text)
		}
	}
	return &proxy.Server{Kind: kind, Host: name, Port: number}, nil
}

// goesBefore reports whether r takes precedence over other where both allow a flow: a rule
// with a proxy over one without, else the first in the text.
func (r *Rule) goesBefore(other *Rule) bool {
	if other == nil || (r.Via != nil) != (other.Via != nil) {
		return other == nil || r.Via != nil
	}
	return r.ID < other.ID
}

// Sockets returns the paths of the Unix sockets of proxies that the policy names.
func (p *Policy) Sockets() (paths []string) {
	for _, r := range p.rules {
		if r.Via != nil && r.Via.Path != "" {
			paths = append(paths, r.Via.Path)
		}
	}
	return paths
}
