package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"runtime"
	"time"
)

// envGenerator makes this program a generator; its value is a [load] in JSON.
const envGenerator = "EPIPHYTE_BENCH_GENERATOR"

// Descriptors that a generator inherits.
const (
	pageFD   = 3
	socketFD = 4 // the server's listening or UDP socket
)

// Loads that generators know. Each is a pair of a server and a client.
const (
	loadSend     = "send"      // TCP, the client sends without pause
	loadReceive  = "receive"   // TCP, the server sends without pause
	loadEcho     = "echo"      // TCP, one byte to and fro on one connection
	loadConnect  = "connect"   // TCP, connect, one byte to and fro, close, and again
	loadHold     = "hold"      // TCP, many connections that stay open, idle
	loadEchoUDP  = "echo-udp"  // one datagram to and fro
	loadFloodUDP = "flood-udp" // UDP, the client sends at the rate of the page
	loadUDPIn    = "udp-in"    // UDP, the server sends at the rate of the page to whoever asks
	loadDNS      = "dns"       // queries, all threads by one socket
	loadDNSFresh = "dns-fresh" // queries, a new socket for each
	loadFirst    = "first"     // TCP, tries until a byte has gone to and fro
	loadDenied   = "denied"    // frames that a policy denies; the server gets none

	loadEchoGo    = "echo-go"    // as echo, by Go's net
	loadConnectGo = "connect-go" // as connect, by Go's net
	loadHTTPGo    = "http-go"    // requests by net/http on connections that stay open
)

// load is what a pair of generators does.
type load struct {
	Kind    string
	Server  bool           // which of the two
	Target  netip.AddrPort // what the client connects to
	Threads int            // of the client; connections for loadHold
	Size    int            // bytes of a write, of a read, of a datagram
	Burst   int            // datagrams that one write leaves to the kernel to cut (UDP_SEGMENT); 0: none

	// For the runner: the load has begun when ready connections have carried a
	// byte, and has failed when they have not within patience.
	ready    int
	patience time.Duration // default: 8 s
	rate     uint64        // that the page has at first
	// The server's socket has a receive buffer of the kernel's default size.
	defaultBuffer bool
}

// environment of a generator: a processor of the scheduler for each thread, for
// no thread ever gives its own up; no collector, no preemption signals. One that is plain
// has what Go gives every program.
func (l load) environment() ([]string, error) {
	spec, err := json.Marshal(l)
	if l.plain() {
		return []string{envGenerator + "=" + string(spec)}, err
	}
	return []string{
		envGenerator + "=" + string(spec),
		fmt.Sprintf("GOMAXPROCS=%d", l.threads()+2),
		"GOGC=off", "GODEBUG=asyncpreemptoff=1",
	}, err
}

// threads that the generator runs.
func (l load) threads() int {
	switch {
	case l.Kind == loadHold, l.Server && (l.dns() || l.plain()):
		return 1
	case l.Kind == loadConnect && l.Server:
		// Each waits for its client to close, so as many again can accept.
		return min(2*l.Threads, maxThreads)
	}
	return l.Threads
}

func (l load) dns() bool { return l.Kind == loadDNS || l.Kind == loadDNSFresh }

func (l load) udp() bool {
	return l.dns() || l.Kind == loadEchoUDP || l.Kind == loadFloodUDP || l.Kind == loadUDPIn || l.Kind == loadDenied
}

// generate runs a generator until it is killed or can do no more.
func generate(spec string) error {
	var l load
	if err := json.Unmarshal([]byte(spec), &l); err != nil {
		return fmt.Errorf("parse load: %w", err)
	}
	p, err := mapPage(pageFD)
	if err != nil {
		return err
	}
	f := clients()[l.Kind]
	if l.Server {
		f = servers()[l.Kind]
	}
	if f == nil {
		return fmt.Errorf("unknown load %q", l.Kind)
	}
	failed := make(chan error)
	for i := range l.threads() {
		go func() {
			if !l.plain() {
				runtime.LockOSThread()
			}
			failed <- f(l, p, i)
		}()
	}
	return <-failed
}

// generator is the work of one thread. It returns only when it can do no more.
type generator func(l load, p *page, thread int) error

func servers() map[string]generator {
	return map[string]generator{
		loadSend:     serveSink,
		loadReceive:  serveSource,
		loadEcho:     serveEcho,
		loadConnect:  serveConnect,
		loadHold:     serveHold,
		loadEchoUDP:  serveEchoUDP,
		loadFloodUDP: serveSinkUDP,
		loadUDPIn:    serveSourceUDP,
		loadDNS:      serveDNS,
		loadDNSFresh: serveDNS,
		loadFirst:    serveConnect,
		loadDenied:   serveSinkUDP,

		loadEchoGo:    serveGo,
		loadConnectGo: serveGo,
		loadHTTPGo:    serveHTTPGo,
	}
}

func clients() map[string]generator {
	return map[string]generator{
		loadSend:     runSource,
		loadReceive:  runSink,
		loadEcho:     runEcho,
		loadConnect:  runConnect,
		loadHold:     runHold,
		loadEchoUDP:  runEchoUDP,
		loadFloodUDP: runSourceUDP,
		loadUDPIn:    runSinkUDP,
		loadDNS:      newDNSClient(),
		loadDNSFresh: runDNSFresh,
		loadFirst:    runFirst,
		loadDenied:   runDenied,

		loadEchoGo:    runEchoGo,
		loadConnectGo: runConnectGo,
		loadHTTPGo:    newHTTPClient(),
	}
}
