package test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"epiphyte/internal/pcap/pcaptest"
	"epiphyte/internal/testnet"
	"epiphyte/test/harness"
)

// bulk is sent and comes back in these tests. All that a test captures fits the buffer of a
// capture, so that nothing may be missing however busy the machine is.
const bulk = 512 << 10

// TestCaptureHasWhatCrossesTheTAP: TCP with super-segments, UDP in runs that travel joined,
// DNS over both transports and clients of a published port, of both families. Each stream
// and datagram is there as it was sent, and there is nothing to complain of.
func TestCaptureHasWhatCrossesTheTAP(t *testing.T) {
	ours(t, "--pcap")
	const resolver = "198.51.100.9"
	serveDNS(t, env.Net.Net, resolver, named("192.0.2.44"))
	for i, c := range cells() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			hostPort := strconv.Itoa(18310 + i)
			file := filepath.Join(t.TempDir(), "capture")
			flags := append(c.flags, "--publish-mode=stack", "--pcap="+file)
			for _, f := range families() {
				flags = append(flags, f.rule(hostPort)+":"+guestPort)
			}
			w := serveWith(t, harness.HelperConfig{Etc: etc(t, resolver)}, flags...)
			sent := &traffic{streams: map[netip.AddrPort][]byte{}}
			eachFamily(t, func(t *testing.T, f family) { w.makeTraffic(t, f, hostPort, sent) })
			if t.Failed() {
				return
			}
			w.endOrderly(t)
			capture := readCapture(t, file)
			if capture.Interface != tapName || !strings.HasPrefix(capture.Program, "epiphyte ") || capture.Lost != 0 {
				t.Errorf("of %q by %q, %d frames lost", capture.Interface, capture.Program, capture.Lost)
			}
			found := dissect(t, capture)
			sent.wantIn(t, found)
			complaints(t, file, found.repeated)
		})
	}
}

func readCapture(t testing.TB, file string) *pcaptest.Capture {
	t.Helper()
	f := must(os.Open(file))(t)
	defer f.Close()
	return must(pcaptest.Read(f))(t)
}

// endOrderly ends the helper by its exit descriptor.
func (w *world) endOrderly(t testing.TB) {
	t.Helper()
	if err := w.helper.CloseExitFD(); err != nil {
		t.Fatal(err)
	}
	if code, sig, err := w.helper.Exit(timeout(t, deadline)); code != 0 || err != nil {
		t.Fatalf("ended with %d, signal %v, %v", code, sig, err)
	}
}

// traffic is what a capture must have, or has.
type traffic struct {
	streams   map[netip.AddrPort][]byte // by the guest's end: sent in both directions
	datagrams map[string]int            // how often each
	names     []string                  // asked for, once over UDP and once over TCP
}

// makeTraffic makes some of each kind.
func (w *world) makeTraffic(t *testing.T, f family, published string, sent *traffic) {
	t.Helper()
	data := random(uint64(f.af), bulk)
	addr := serveTCP(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.server, "0"), echoTCP)
	c := w.dial(t, "tcp"+f.v, addr.String())
	comesBack(t, c, data)
	sent.streams[addrPort(c.LocalAddr())] = data

	s := must(env.Net.Net.ListenPacket("udp"+f.v, net.JoinHostPort(f.server, "0")))(t).(*net.UDPConn)
	defer s.Close()
	u := w.listenPacket(t, f).(*net.UDPConn)
	to := s.LocalAddr().(*net.UDPAddr).AddrPort()
	sendAll(t, u, []message{{data: []byte("first")}}, to)
	mapping := wantDatagrams(t, "first", s, [][]byte{[]byte("first")})
	runs := slices.DeleteFunc(messages(uint64(f.af)), func(m message) bool { return m.segment == 0 && len(m.data) > 1400 })
	sendAll(t, u, runs, to)
	wantDatagrams(t, "out", s, datagrams(runs))
	sendAll(t, s, runs, mapping)
	wantDatagrams(t, "in", u, datagrams(runs))
	if sent.datagrams == nil {
		sent.datagrams = map[string]int{}
	}
	for _, d := range datagrams(runs) {
		sent.datagrams[string(d)] += 2
	}

	name := "captured" + f.v + ".test."
	for _, network := range []string{"udp", "tcp"} {
		if rcode, _, err := w.lookup(t, network+f.v, f.dns, name, deadline); err != nil || rcode != dns.RcodeSuccess {
			t.Fatalf("ask for %s over %s: %d, %v", name, network, rcode, err)
		}
	}
	sent.names = append(sent.names, name)

	ends := make(chan net.Addr, 1)
	serveTCP(t, w.NetNS, "tcp"+f.v, f.anyHost()+":"+guestPort, func(c *net.TCPConn) {
		ends <- c.LocalAddr()
		echoTCP(c)
	})
	comesBack(t, client(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.host(), published)), data)
	sent.streams[addrPort(<-ends)] = data
}

func addrPort(a net.Addr) netip.AddrPort {
	p := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}

// comesBack sends data to an echo server and wants it back.
func comesBack(t testing.TB, c net.Conn, data []byte) {
	t.Helper()
	failed := make(chan error, 1)
	go func() {
		err := writeChunks(c, data, 1<<18)
		if err == nil {
			err = c.(*net.TCPConn).CloseWrite()
		}
		failed <- err
	}()
	got, err := io.ReadAll(c)
	if sendErr := <-failed; err != nil || sendErr != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d of %d bytes came back: %v, %v", len(got), len(data), err, sendErr)
	}
}

// dissected is what a capture's frames hold.
type dissected struct {
	streams   map[[2]netip.AddrPort]*stream // by source and destination
	datagrams map[string]int
	messages  []dns.Msg
	repeated  map[int]bool // numbers of frames with bytes that were there before
}

// stream is one direction of a connection.
type stream struct {
	begin uint32 // sequence number of the first byte
	data  []byte
	have  []bool

	finished bool
}

// dissect takes the frames apart, and wants each to be whole and well-formed.
func dissect(t testing.TB, c *pcaptest.Capture) *dissected {
	t.Helper()
	d := &dissected{streams: map[[2]netip.AddrPort]*stream{}, datagrams: map[string]int{}, repeated: map[int]bool{}}
	for i, f := range c.Frames {
		number := i + 1 // as other programs count
		if len(f.Data) != f.Size {
			t.Errorf("frame %d: %d of %d bytes", number, len(f.Data), f.Size)
		}
		if i > 0 && f.At.Before(c.Frames[i-1].At) {
			t.Errorf("frame %d is older than the one before", number)
		}
		if header.Ethernet(f.Data).Type() == header.ARPProtocolNumber {
			continue
		}
		p, err := testnet.Parse(f.Data)
		if err != nil {
			t.Errorf("frame %d: %v", number, err)
			continue
		}
		switch p.Proto {
		case uint8(header.UDPProtocolNumber):
			payload := p.Payload[header.UDPMinimumSize:]
			d.datagrams[string(payload)]++
			d.message(payload)
		case uint8(header.TCPProtocolNumber):
			d.segment(number, p.Src, p.Dst, header.TCP(p.Payload))
		}
	}
	for _, s := range d.streams {
		if len(s.data) > 2 {
			d.message(s.data[2:])
		}
	}
	return d
}

func (d *dissected) message(b []byte) {
	var m dns.Msg
	if m.Unpack(b) == nil && len(m.Question) == 1 {
		d.messages = append(d.messages, m)
	}
}

func (d *dissected) segment(number int, src, dst netip.Addr, tcp header.TCP) {
	key := [2]netip.AddrPort{netip.AddrPortFrom(src, tcp.SourcePort()), netip.AddrPortFrom(dst, tcp.DestinationPort())}
	s, payload := d.streams[key], tcp.Payload()
	if tcp.Flags().Contains(header.TCPFlagSyn) {
		if s == nil || s.begin != tcp.SequenceNumber()+1 {
			s = &stream{begin: tcp.SequenceNumber() + 1}
			d.streams[key] = s
		} else {
			d.repeated[number] = true
		}
	}
	if s == nil {
		return
	}
	if tcp.Flags().Contains(header.TCPFlagFin) {
		if s.finished {
			d.repeated[number] = true
		}
		s.finished = true
	}
	if len(payload) == 0 {
		return
	}
	at := int(tcp.SequenceNumber() - s.begin)
	if end := at + len(payload); end > len(s.data) && end <= 1<<22 {
		s.data = append(s.data, make([]byte, end-len(s.data))...)
		s.have = append(s.have, make([]bool, end-len(s.have))...)
	}
	copy(s.data[min(at, len(s.data)):], payload)
	for i := range payload {
		if at+i < len(s.have) {
			if s.have[at+i] {
				d.repeated[number] = true
			}
			s.have[at+i] = true
		}
	}
}

// wantIn wants all of the traffic to be in a capture.
func (sent *traffic) wantIn(t testing.TB, found *dissected) {
	t.Helper()
	for guest, data := range sent.streams {
		directions := 0
		for ends, s := range found.streams {
			if ends[0] != guest && ends[1] != guest {
				continue
			}
			directions++
			if !bytes.Equal(s.data, data) {
				t.Errorf("from %v to %v: %d bytes, or other ones than the %d sent", ends[0], ends[1], len(s.data), len(data))
			}
		}
		if directions != 2 {
			t.Errorf("%v: %d directions", guest, directions)
		}
	}
	for d, n := range sent.datagrams {
		if found.datagrams[d] != n {
			t.Errorf("a datagram of %d bytes is there %d times, want %d", len(d), found.datagrams[d], n)
		}
	}
	for _, name := range sent.names {
		questions, answers := 0, 0
		for _, m := range found.messages {
			if m.Question[0].Name != name {
				continue
			}
			if questions++; m.Response && len(m.Answer) == 1 {
				questions--
				answers++
			}
		}
		if questions != 2 || answers != 2 {
			t.Errorf("%s: %d questions and %d answers", name, questions, answers)
		}
	}
}

// complaints wants tshark and tcpdump, where they are installed, to have none. What was
// sent again is known as such.
func complaints(t testing.TB, file string, repeated map[int]bool) {
	t.Helper()
	if path, err := exec.LookPath("tcpdump"); err == nil {
		if out, err := exec.Command(path, "-n", "-r", file).CombinedOutput(); err != nil || !bytes.Contains(out, []byte("IP")) {
			t.Errorf("tcpdump: %v\n%.2000s", err, out)
		}
	}
	path, err := exec.LookPath("tshark")
	if err != nil {
		t.Log("tshark is not installed: the capture was read by this test alone")
		return
	}
	const again = "tcp.analysis.retransmission"
	cmd := exec.Command(path, "-n", "-r", file,
		"-d", "udp.port==1024-65535,data", "-d", "tcp.port==1024-65535,data", // random bytes at ports that may mean something
		"-o", "tcp.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE",
		"-Y", strings.Join([]string{
			"_ws.malformed", "_ws.short", "_ws.expert.severity >= 8388608", // errors
			"ip.checksum.status == 0", "tcp.checksum.status == 0", "udp.checksum.status == 0",
			// Nothing is acknowledged before it was sent. A gap may be one: the guest's
			// queue was full.
			"tcp.analysis.ack_lost_segment", again,
		}, " || "), "-T", "fields", "-e", "frame.number", "-e", again, "-e", "_ws.expert.message")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Errorf("tshark: %v: %s", err, &stderr)
	}
	for line := range strings.Lines(string(out)) {
		var number int
		if fmt.Sscan(line, &number); strings.Contains(line, "etransmission") && repeated[number] {
			continue
		}
		t.Errorf("tshark says of frame %s", line)
	}
}

// TestCaptureByHTTP: a client of the running program begins and ends captures, and has as
// much of each frame as it wants. No more run at once than may.
func TestCaptureByHTTP(t *testing.T) {
	ours(t, "--http-socket")
	socket := filepath.Join(t.TempDir(), "http")
	w := serve(t, "--http-socket="+socket)
	addr := serveTCP(t, env.Net.Net, "tcp4", harness.NetIPv4+":0", echoTCP)
	data := random(1, bulk)
	comesBack(t, w.dial(t, "tcp4", addr.String()), data) // before

	begin := func(flags ...string) *harness.Helper {
		h := startClient(t, slices.Concat([]string{"pcap", "--http-socket", socket}, flags)...)
		eventually(t, deadline, func() error {
			if h.Stdout.String() == "" {
				return fmt.Errorf("no capture yet: %s", h.Stderr)
			}
			return nil
		})
		return h
	}
	end := func(h *harness.Helper) *pcaptest.Capture {
		if err := h.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		if code, sig, err := h.Exit(timeout(t, deadline)); code != 0 || err != nil || h.Stderr.String() != "" {
			t.Fatalf("ended with %d, signal %v, %v: %s", code, sig, err, h.Stderr)
		}
		return must(pcaptest.Read(strings.NewReader(h.Stdout.String())))(t)
	}
	whole, short := begin(), begin("--snaplen=60")
	more := []*harness.Helper{begin(), begin()}
	fifth := startClient(t, "pcap", "--http-socket", socket)
	if code, _, err := fifth.Exit(timeout(t, deadline)); code != 1 || err != nil || strings.Count(fifth.Stderr.String(), "\n") != 1 {
		t.Errorf("the fifth capture: %d, %v: %s", code, err, fifth.Stderr)
	}
	for _, h := range more {
		end(h)
	}
	c := w.dial(t, "tcp4", addr.String())
	comesBack(t, c, data)
	found := dissect(t, end(whole))
	if len(found.streams) != 2 {
		t.Errorf("%d streams, and one connection was made meanwhile", len(found.streams))
	}
	(&traffic{streams: map[netip.AddrPort][]byte{addrPort(c.LocalAddr()): data}}).wantIn(t, found)
	cut := end(short)
	sizes := 0
	for i, f := range cut.Frames {
		if len(f.Data) != min(f.Size, 60) {
			t.Errorf("frame %d: %d of %d bytes", i+1, len(f.Data), f.Size)
		}
		sizes += f.Size
	}
	if cut.Snaplen != 60 || sizes < 2*bulk {
		t.Errorf("snap length %d, frames of %d bytes in all", cut.Snaplen, sizes)
	}
	comesBack(t, w.dial(t, "tcp4", addr.String()), data) // after
}

// startClient starts the program for a command that asks a running one.
func startClient(t testing.TB, args ...string) *harness.Helper {
	t.Helper()
	h := must(env.Start(timeout(t, deadline), harness.HelperConfig{Args: args, NoWait: true, Plain: true}))(t)
	t.Cleanup(h.Kill)
	return h
}

// TestCaptureOfAHelperThatIsKilled is whole, and has what crossed before.
func TestCaptureOfAHelperThatIsKilled(t *testing.T) {
	ours(t, "--pcap")
	file := filepath.Join(t.TempDir(), "capture")
	w := serve(t, "--pcap="+file)
	addr := serveTCP(t, env.Net.Net, "tcp4", harness.NetIPv4+":0", echoTCP)
	data := random(1, bulk)
	c := w.dial(t, "tcp4", addr.String())
	comesBack(t, c, data)
	last := random(2, 64)
	comesBack(t, w.dial(t, "tcp4", addr.String()), last)
	eventually(t, deadline, func() error { // what crossed before it comes before it
		if b := must(os.ReadFile(file))(t); !bytes.Contains(b, last) {
			return fmt.Errorf("the last bytes are not among the %d of the capture", len(b))
		}
		return nil
	})
	if mode := must(os.Stat(file))(t).Mode().Perm(); mode != 0o600 {
		t.Errorf("mode %o, want 600", mode)
	}
	w.helper.Kill()
	(&traffic{streams: map[netip.AddrPort][]byte{addrPort(c.LocalAddr()): data}}).wantIn(t, dissect(t, readCapture(t, file)))
}

// TestCaptureEndsAtItsSize: the network goes on, and the log says so once.
func TestCaptureEndsAtItsSize(t *testing.T) {
	ours(t, "--pcap-size")
	file := filepath.Join(t.TempDir(), "capture")
	w := serve(t, "--pcap="+file, "--pcap-size=100k")
	addr := serveTCP(t, env.Net.Net, "tcp4", harness.NetIPv4+":0", echoTCP)
	for range 2 {
		comesBack(t, w.dial(t, "tcp4", addr.String()), random(1, bulk))
	}
	if size := must(os.Stat(file))(t).Size(); size > 100<<10 {
		t.Errorf("%d bytes", size)
	}
	readCapture(t, file)
	saysOnce(t, w.helper, "--pcap-size")
}

// TestCaptureThatNobodyTakes costs the guest nothing: what does not fit is missing in the
// capture, and counted.
func TestCaptureThatNobodyTakes(t *testing.T) {
	t.Parallel()
	ours(t, "--pcap")
	dir := t.TempDir()
	pipe, socket := filepath.Join(dir, "pipe"), filepath.Join(dir, "http")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	held := must(os.OpenFile(pipe, os.O_RDWR, 0))(t) // read by nobody
	defer held.Close()
	w := serve(t, "--pcap="+pipe, "--http-socket="+socket)
	addr := serveTCP(t, env.Net.Net, "tcp4", harness.NetIPv4+":0", echoTCP)
	comesBack(t, w.dial(t, "tcp4", addr.String()), random(1, 16<<20))
	stats := startClient(t, "stats", "--json", "--http-socket", socket)
	if code, _, err := stats.Exit(timeout(t, deadline)); code != 0 || err != nil {
		t.Fatalf("stats: %d, %v: %s", code, err, stats.Stderr)
	}
	var counted struct {
		Lost uint64 `json:"capture_lost_frames"`
	}
	if err := json.Unmarshal([]byte(stats.Stdout.String()), &counted); err != nil || counted.Lost == 0 {
		t.Errorf("no frame is lost of 32 MiB that nobody takes: %v: %s", err, stats.Stdout)
	}
}

// TestCaptureOfANetwork has each frame once, those between members and those for outside.
func TestCaptureOfANetwork(t *testing.T) {
	t.Parallel()
	n := newNetworks(t)
	a, b := n.run(t, "web", "a"), n.run(t, "web", "b")
	h := n.start(t, "pcap", "--network", "web")
	eventually(t, deadline, func() error {
		if h.Stdout.String() == "" {
			return fmt.Errorf("no capture yet: %s", h.Stderr)
		}
		return nil
	})
	data := random(1, bulk)
	near := serveTCP(t, b.NetNS, "tcp4", b.IPv4.String()+":7000", echoTCP)
	far := serveTCP(t, env.Net.Net, "tcp4", harness.NetIPv4+":0", echoTCP)
	sent := &traffic{streams: map[netip.AddrPort][]byte{}}
	for _, to := range []net.Addr{near, far} {
		c := a.dial(t, "tcp4", to.String())
		comesBack(t, c, data)
		sent.streams[addrPort(c.LocalAddr())] = data
	}
	if err := h.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if code, sig, err := h.Exit(timeout(t, deadline)); code != 0 || err != nil {
		t.Fatalf("ended with %d, signal %v, %v: %s", code, sig, err, h.Stderr)
	}
	file := filepath.Join(t.TempDir(), "capture")
	if err := os.WriteFile(file, []byte(h.Stdout.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	found := dissect(t, readCapture(t, file))
	sent.wantIn(t, found)
	if len(found.repeated) > 0 {
		t.Logf("sent again: frames %v", found.repeated)
	}
	complaints(t, file, found.repeated)
}
