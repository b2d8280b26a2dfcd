package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// probeName is the file name under which this program is the probe: what runs
// inside containers.
const probeName = "probe"

const probeUsage = `usage: probe tcp|udp ADDRESS:PORT [BYTES]   converse, print "peer" as the server sees it
       probe serve PORT                     be such a server, TCP and UDP, IPv4 and IPv6
       probe dns SERVER:PORT tcp|udp NAME A|AAAA
       probe lookup NAME                    by way of resolv.conf`

// probe is the main function of the probe. Errors go to stderr, in the words
// of the system call that met them.
func probe(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var err error
	switch {
	case len(args) >= 2 && (args[0] == "tcp" || args[0] == "udp"):
		err = probeAsk(ctx, args[0], args[1], args[2:])
	case len(args) == 2 && args[0] == "serve":
		err = probeServe(ctx, args[1])
	case len(args) == 5 && args[0] == "dns":
		err = probeDNS(ctx, args[1], args[2], args[3], args[4])
	case len(args) == 2 && args[0] == "lookup":
		err = probeLookup(ctx, args[1])
	default:
		err = errors.New(probeUsage)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func probeAsk(ctx context.Context, network, addr string, rest []string) error {
	size := 1000
	if len(rest) > 0 {
		var err error
		if size, err = strconv.Atoi(rest[0]); err != nil {
			return fmt.Errorf("bytes: %w", err)
		}
	}
	x, err := ask(ctx, new(net.Dialer).DialContext, network, addr, size)
	if err != nil {
		return err
	}
	fmt.Printf("%s%s\n", peerPrefix, x.peer)
	return nil
}

func probeServe(ctx context.Context, port string) error {
	closers, err := listen(":" + port) // both families, or IPv4 alone where there is no other
	if err != nil {
		return err
	}
	<-ctx.Done()
	for _, c := range closers {
		c.Close()
	}
	return nil
}

func probeDNS(ctx context.Context, server, network, name, typ string) error {
	client := dns.Client{Net: network, Timeout: 5 * time.Second}
	q := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.StringToType[typ])
	r, _, err := client.ExchangeContext(ctx, q, server)
	if err != nil {
		return err
	}
	if r.Rcode != dns.RcodeSuccess {
		return errors.New(dns.RcodeToString[r.Rcode])
	}
	for _, rr := range r.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			fmt.Println(rr.A)
		case *dns.AAAA:
			fmt.Println(rr.AAAA)
		}
	}
	return nil
}

func probeLookup(ctx context.Context, name string) error {
	addrs, err := new(net.Resolver).LookupHost(ctx, name)
	for _, a := range addrs {
		fmt.Println(a)
	}
	return err
}
