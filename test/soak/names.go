package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/miekg/dns"

	"epiphyte/test/harness"
)

// Nameservers of the small internet. The others of a resolv.conf do not answer, or
// refuse.
const (
	refusesIPv4 = "198.51.100.5"
	refusesIPv6 = "2001:db8:2::5"
)

func answering() []string {
	return []string{"198.51.100.3", "198.51.100.4", "2001:db8:2::3", "2001:db8:2::4"}
}

func unhelpful() []string {
	return []string{refusesIPv4, refusesIPv6, harness.SilentIPv4, harness.SilentIPv6, harness.NetUnreachableIPv4, "198.51.100.6"}
}

// names serves DNS by UDP and TCP.
func (s *servers) names(ns *harness.NetNS) error {
	for _, host := range append(answering(), refusesIPv4, refusesIPv6) {
		var handler dns.HandlerFunc = func(w dns.ResponseWriter, q *dns.Msg) {
			r := new(dns.Msg).SetReply(q)
			r.Answer = []dns.RR{record(q.Question[0])}
			if host == refusesIPv4 || host == refusesIPv6 {
				r.Answer, r.Rcode = nil, dns.RcodeRefused
			}
			_ = w.WriteMsg(r) // a client that misses it asks again
		}
		addr := net.JoinHostPort(host, "53")
		packets, err := ns.ListenPacket("udp", addr)
		if err != nil {
			return err
		}
		listener, err := ns.Listen("tcp", addr)
		if err != nil {
			packets.Close()
			return err
		}
		for _, d := range []*dns.Server{{PacketConn: packets, Handler: handler}, {Listener: listener, Handler: handler}} {
			started := make(chan struct{})
			d.NotifyStartedFunc = func() { close(started) }
			s.wg.Go(func() { _ = d.ActivateAndServe() }) // until it is shut down
			<-started
			s.open = append(s.open, closer(func() error { return d.Shutdown() }))
		}
	}
	return nil
}

type closer func() error

func (f closer) Close() error { return f() }

// record is the one answer to a question: it follows from the name.
func record(q dns.Question) dns.RR {
	h := fnv.New64a()
	h.Write([]byte(strings.ToLower(q.Name)))
	sum := h.Sum(nil)
	head := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: 60}
	switch q.Qtype {
	case dns.TypeA:
		return &dns.A{Hdr: head, A: net.IP(sum[:4])}
	case dns.TypeAAAA:
		return &dns.AAAA{Hdr: head, AAAA: append(net.IP{0x20, 1, 0xd, 0xb8, 0, 0, 0, 0}, sum...)}
	}
	head.Rrtype = dns.TypeTXT
	text := fmt.Sprintf("%x", sum)
	return &dns.TXT{Hdr: head, Txt: []string{strings.Repeat(text, 1+int(sum[0])%15)}}
}

// ask resolves a name that nobody has asked for before. It gives how often it had to
// ask again.
func ask(c net.Conn, r *rand.Rand) (lost uint64, err error) {
	types := []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeTXT}
	q := new(dns.Msg).SetQuestion(fmt.Sprintf("n%x.soak.example.", r.Uint64()), types[r.IntN(len(types))])
	want := record(q.Question[0]).String()
	conn := &dns.Conn{Conn: c}
	for ; lost < tries; lost++ {
		// The helper gives up after 4.5 s, with an answer that says so.
		if err := c.SetDeadline(time.Now().Add(6 * time.Second)); err != nil {
			return lost, err
		}
		q.Id = uint16(r.Uint32())
		if err := conn.WriteMsg(q); err != nil {
			return lost, fmt.Errorf("ask for %s: %w", q.Question[0].Name, err)
		}
		a, err := conn.ReadMsg()
		for err == nil && a.Id != q.Id { // the answer to a question that was given up
			a, err = conn.ReadMsg()
		}
		if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
			continue
		}
		if err != nil {
			return lost, fmt.Errorf("answer to %s: %w", q.Question[0].Name, err)
		}
		if a.Rcode == dns.RcodeServerFailure || a.Rcode == dns.RcodeRefused {
			continue // in 4.5 s no nameserver of use has answered: the machine is busy
		}
		if a.Rcode != dns.RcodeSuccess || len(a.Answer) != 1 || a.Answer[0].String() != want {
			return lost, fmt.Errorf("asked for %s: %s %v, want %s", q.Question[0].Name, dns.RcodeToString[a.Rcode], a.Answer, want)
		}
		return lost, nil
	}
	return lost, fmt.Errorf("asked %d times for %s, and was given no answer", tries, q.Question[0].Name)
}

// writeResolvers replaces a resolv.conf with one whose nameservers are any, in any
// order, one of the first three being of use.
func writeResolvers(dir string, r *rand.Rand) error {
	good, bad := answering(), unhelpful()
	list := []string{good[r.IntN(len(good))]}
	for range r.IntN(3) {
		list = append(list, bad[r.IntN(len(bad))])
	}
	r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	text := "nameserver " + strings.Join(append(list, good...), "\nnameserver ") + "\n"
	path := filepath.Join(dir, "resolv.conf")
	if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// nameJob asks the guest's nameserver, each time from a socket of its own.
func (s *site) nameJob(network, host string) job {
	return job{name: "DNS by " + network, pause: 60 * time.Millisecond, do: func(ctx context.Context, r *rand.Rand, n *count) error {
		c, err := s.guest.Dial(ctx, network, net.JoinHostPort(host, "53"))
		if err != nil {
			return err
		}
		defer c.Close()
		for range 1 + r.IntN(3) {
			lost, err := ask(c, r)
			n.lost.Add(lost)
			if err != nil {
				return err
			}
		}
		return nil
	}}
}
