package pcap_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/pcap"
	"epiphyte/internal/pcap/pcaptest"
	"epiphyte/internal/sockio"
	"epiphyte/internal/testnet"
	"epiphyte/stack"
)

var (
	guest4  = netip.MustParseAddrPort("10.0.2.100:5000")
	guest6  = netip.MustParseAddrPort("[fd00::100]:5000")
	remote4 = netip.MustParseAddrPort("198.51.100.7:53")
	remote6 = netip.MustParseAddrPort("[2001:db8::7]:53")
)

// begin starts a capture. end ends it and gives its error.
func begin(t *testing.T, tee *pcap.Tee, w io.Writer, cfg pcap.Config) (end func() error) {
	t.Helper()
	c, err := tee.Begin(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx, w) }()
	return func() error { cancel(); return <-ended }
}

func read(t *testing.T, b []byte) *pcaptest.Capture {
	t.Helper()
	c, err := pcaptest.Read(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// readFrame reads one frame from a device as the stack does, in pieces.
func readFrame(t *testing.T, dev stack.Device) {
	t.Helper()
	hdr, eth, head, tail := make([]byte, 10), make([]byte, 14), make([]byte, 40), make([]byte, 1<<17)
	iov := []unix.Iovec{sockio.Vec(eth), sockio.Vec(head), sockio.Vec(tail)}
	if dev.VNetHdr() {
		iov = append([]unix.Iovec{sockio.Vec(hdr)}, iov...)
	}
	if _, errno := dev.Readv(iov); errno != 0 {
		t.Fatal(errno)
	}
}

func writeFrame(t *testing.T, dev stack.Device, parts ...[]byte) {
	t.Helper()
	var iov []unix.Iovec
	for _, p := range parts {
		iov = append(iov, sockio.Vec(p))
	}
	if _, errno := dev.Writev(iov); errno != 0 {
		t.Fatal(errno)
	}
}

// virtio is a virtio-net header.
func virtio(flags, gso uint8, segment, sumStart, sumOffset uint16) []byte {
	b := make([]byte, 10)
	b[0], b[1] = flags, gso
	binary.LittleEndian.PutUint16(b[4:], segment)
	binary.LittleEndian.PutUint16(b[6:], sumStart)
	binary.LittleEndian.PutUint16(b[8:], sumOffset)
	return b
}

// TestWhatCrossesIsCaptured in both directions, in its order, whole and with its time.
func TestWhatCrossesIsCaptured(t *testing.T) {
	for name, cfg := range map[string]testnet.DeviceConfig{"bare frames": {}, "virtio header": {VNetHdr: true}} {
		t.Run(name, func(t *testing.T) {
			var tee pcap.Tee
			under := testnet.NewDevice(t, cfg)
			dev := tee.Device(under, pcap.Both)
			question, answer := testnet.UDP(guest4, remote4, 64, []byte("question")), testnet.UDP(remote4, guest4, 64, []byte("answer"))
			under.Inject(question)
			readFrame(t, dev) // before there is a capture

			var out bytes.Buffer
			before := time.Now()
			end := begin(t, &tee, &out, pcap.Config{Interface: "tap0", Program: "epiphyte 1"})
			under.Inject(question)
			readFrame(t, dev)
			parts := [][]byte{answer[:14], answer[14:20], answer[20:]}
			if cfg.VNetHdr {
				parts = append([][]byte{make([]byte, 10)}, parts...)
			}
			writeFrame(t, dev, parts...)
			if err := end(); err != nil {
				t.Fatal(err)
			}
			under.Inject(question)
			readFrame(t, dev) // after it

			c := read(t, out.Bytes())
			if c.Interface != "tap0" || c.Program != "epiphyte 1" || len(c.Frames) != 2 || c.Lost != 0 || c.Statistics != 1 {
				t.Fatalf("%+v", c)
			}
			for i, want := range [][]byte{question, answer} {
				f := c.Frames[i]
				if !bytes.Equal(f.Data, want) || f.Size != len(want) || f.Inbound != (i == 1) {
					t.Errorf("frame %d: inbound %v, size %d\n%x, want\n%x", i, f.Inbound, f.Size, f.Data, want)
				}
				if f.At.Before(before) || f.At.After(time.Now()) {
					t.Errorf("frame %d is of %v, and the test began at %v", i, f.At, before)
				}
			}
		})
	}
}

// TestPartialChecksumsAreFilledIn, of super-segments, too, which stay whole.
func TestPartialChecksumsAreFilledIn(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 3000)
	for name, ends := range map[string][2]netip.AddrPort{"IPv4": {guest4, remote4}, "IPv6": {guest6, remote6}} {
		t.Run(name, func(t *testing.T) {
			want := testnet.TCP(ends[0], ends[1], 0x18, 1, 2, data)
			at := len(want) - len(data) - 20
			partial := bytes.Clone(want)
			sum := testnet.PseudoSum(ends[0].Addr(), ends[1].Addr(), unix.IPPROTO_TCP, 20+len(data))
			binary.BigEndian.PutUint16(partial[at+16:], sum)

			var tee pcap.Tee
			dev := tee.Device(testnet.NewDevice(t, testnet.DeviceConfig{Offload: true}), pcap.Both)
			var whole, short bytes.Buffer
			endWhole := begin(t, &tee, &whole, pcap.Config{})
			endShort := begin(t, &tee, &short, pcap.Config{Snaplen: 100})
			writeFrame(t, dev, virtio(1, 1, 1448, uint16(at), 16), partial)
			if err := errors.Join(endWhole(), endShort()); err != nil {
				t.Fatal(err)
			}
			f := read(t, whole.Bytes()).Frames[0]
			if _, err := testnet.Parse(f.Data); err != nil || !bytes.Equal(f.Data, want) {
				t.Errorf("%v: %d bytes, want %d", err, len(f.Data), len(want))
			}
			c := read(t, short.Bytes())
			if f := c.Frames[0]; c.Snaplen != 100 || f.Size != len(want) || !bytes.Equal(f.Data, partial[:100]) {
				t.Errorf("shortened to %d of %d bytes: %d of %d", 100, len(want), len(f.Data), f.Size)
			}
		})
	}
}

// TestSuperDatagramsAreCut: each of the datagrams is one in the capture.
func TestSuperDatagramsAreCut(t *testing.T) {
	for name, ends := range map[string][2]netip.AddrPort{"IPv4": {guest4, remote4}, "IPv6": {guest6, remote6}} {
		t.Run(name, func(t *testing.T) {
			data := bytes.Repeat([]byte("0123456789"), 250)
			frame := testnet.UDP(ends[0], ends[1], 64, data)
			at := len(frame) - len(data) - 8
			var tee pcap.Tee
			dev := tee.Device(testnet.NewDevice(t, testnet.DeviceConfig{USO: true}), pcap.Both)
			var whole, short bytes.Buffer
			endWhole := begin(t, &tee, &whole, pcap.Config{})
			endShort := begin(t, &tee, &short, pcap.Config{Snaplen: 100})
			writeFrame(t, dev, virtio(1, 5, 1000, uint16(at), 6), frame)
			if err := errors.Join(endWhole(), endShort()); err != nil {
				t.Fatal(err)
			}
			var got []byte
			sizes := []int{1000, 1000, 500}
			cut := read(t, whole.Bytes()).Frames
			for i, f := range cut {
				p, err := testnet.Parse(f.Data)
				if err != nil || i >= len(sizes) || len(p.Payload) != 8+sizes[i] {
					t.Fatalf("datagram %d of %d bytes: %v", i, len(p.Payload), err)
				}
				got = append(got, p.Payload[8:]...)
			}
			if !bytes.Equal(got, data) {
				t.Errorf("%d bytes in datagrams are not the %d that were sent", len(got), len(data))
			}
			for i, f := range read(t, short.Bytes()).Frames {
				if f.Size != cut[i].Size || !bytes.Equal(f.Data, cut[i].Data[:100]) {
					t.Errorf("datagram %d shortened: %d of %d bytes", i, len(f.Data), f.Size)
				}
			}
		})
	}
}

// TestASlowWriterLosesFramesOfTheCaptureAlone, and the capture says how many.
func TestASlowWriterLosesFramesOfTheCaptureAlone(t *testing.T) {
	var tee pcap.Tee
	under := testnet.NewDevice(t, testnet.DeviceConfig{})
	under.Discard()
	dev := tee.Device(under, pcap.Both)
	stuck, release := io.Pipe()
	end := begin(t, &tee, release, pcap.Config{})
	frame := testnet.UDP(remote4, guest4, 64, make([]byte, 60000))
	const sent = 1000
	for range sent { // the guest gets them all
		writeFrame(t, dev, frame)
	}
	if tee.Lost() == 0 {
		t.Error("no frame is lost of 60 MB that nobody takes")
	}
	got := make(chan *pcaptest.Capture)
	go func() {
		c, err := pcaptest.Read(stuck)
		if err != nil {
			t.Error(err)
		}
		got <- c
	}()
	if err := end(); err != nil {
		t.Error(err)
	}
	release.Close()
	c := <-got
	if int(c.Lost)+len(c.Frames) != sent || c.Lost != tee.Lost() {
		t.Errorf("of %d frames %d are there and %d lost; counted: %d", sent, len(c.Frames), c.Lost, tee.Lost())
	}
}

// TestACaptureEndsAtItsLimit, well-formed and no larger.
func TestACaptureEndsAtItsLimit(t *testing.T) {
	var tee pcap.Tee
	under := testnet.NewDevice(t, testnet.DeviceConfig{})
	under.Discard()
	dev := tee.Device(under, pcap.Both)
	path := filepath.Join(t.TempDir(), "capture")
	f, err := pcap.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const limit = 10000
	c, err := tee.Begin(pcap.Config{Limit: limit})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- c.Run(t.Context(), f) }()
	frame := testnet.UDP(remote4, guest4, 64, make([]byte, 900))
	for err := error(nil); err == nil; {
		writeFrame(t, dev, frame)
		select {
		case err = <-ended:
			if !errors.Is(err, pcap.ErrLimit) {
				t.Fatal(err)
			}
		default:
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if c := read(t, b); len(b) > limit || len(c.Frames) != 10 {
		t.Errorf("%d frames in %d bytes, want 10 in %d at most", len(c.Frames), len(b), limit)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
}

// TestFailedWritesEndTheCapture, and nothing else: others go on.
func TestFailedWritesEndTheCapture(t *testing.T) {
	var tee pcap.Tee
	dev := tee.Device(testnet.NewDevice(t, testnet.DeviceConfig{}), pcap.Both)
	var out bytes.Buffer
	end := begin(t, &tee, &out, pcap.Config{})
	c, err := tee.Begin(pcap.Config{})
	if err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	r.CloseWithError(unix.ENOSPC)
	if err := c.Run(t.Context(), w); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("got %v", err)
	}
	frame := testnet.UDP(remote4, guest4, 64, []byte("answer"))
	writeFrame(t, dev, frame)
	if err := end(); err != nil || len(read(t, out.Bytes()).Frames) != 1 {
		t.Errorf("the other capture: %v, %d frames", err, len(read(t, out.Bytes()).Frames))
	}
}

// TestCapturesAreBounded in their number.
func TestCapturesAreBounded(t *testing.T) {
	var tee pcap.Tee
	for range pcap.MaxCaptures {
		end := begin(t, &tee, io.Discard, pcap.Config{})
		defer end()
	}
	if _, err := tee.Begin(pcap.Config{}); !errors.Is(err, pcap.ErrTooMany) {
		t.Errorf("one more: %v, want %v", err, pcap.ErrTooMany)
	}
}

// TestAnyFrameCanBeCaptured: what does not fit its virtio-net header is shown as it is.
func TestAnyFrameCanBeCaptured(t *testing.T) {
	frame := testnet.UDP(guest4, remote4, 64, []byte("question"))
	for size := range len(frame) + 1 {
		for _, hdr := range [][]byte{virtio(1, 5, 3, 34, 6), virtio(1, 5, 0, 34, 6), virtio(1, 1, 3, 65535, 65535), virtio(1, 0, 0, uint16(size), 0), virtio(1, 5, 60000, 0, 0)} {
			var tee pcap.Tee
			under := testnet.NewDevice(t, testnet.DeviceConfig{USO: true})
			dev := tee.Device(under, pcap.Both)
			var out bytes.Buffer
			end := begin(t, &tee, &out, pcap.Config{})
			under.InjectRaw(append(bytes.Clone(hdr), frame[:size]...))
			readFrame(t, dev)
			if err := end(); err != nil {
				t.Fatal(err)
			}
			if c := read(t, out.Bytes()); size > 0 && len(c.Frames) == 0 {
				t.Errorf("%d bytes with header %x are not in the capture", size, hdr)
			}
		}
	}
}

// BenchmarkWrite: what a frame towards the guest costs beyond its device.
func BenchmarkWrite(b *testing.B) {
	frame := testnet.UDP(remote4, guest4, 64, make([]byte, 1400))
	for name, wrap := range map[string]func(stack.Device) stack.Device{
		"bare":    func(d stack.Device) stack.Device { return d },
		"wrapped": func(d stack.Device) stack.Device { return new(pcap.Tee).Device(d, pcap.Both) },
		"captured": func(d stack.Device) stack.Device {
			tee := new(pcap.Tee)
			c, err := tee.Begin(pcap.Config{})
			if err != nil {
				b.Fatal(err)
			}
			go c.Run(b.Context(), io.Discard)
			return tee.Device(d, pcap.Both)
		},
	} {
		b.Run(name, func(b *testing.B) {
			dev := wrap(nowhere{})
			iov := []unix.Iovec{sockio.Vec(frame)}
			for b.Loop() {
				dev.Writev(iov)
			}
		})
	}
}

// nowhere is a device that takes everything.
type nowhere struct{ stack.Device }

func (nowhere) VNetHdr() bool                         { return false }
func (nowhere) Writev([]unix.Iovec) (int, unix.Errno) { return 0, 0 }
