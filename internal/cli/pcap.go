package cli

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"

	"github.com/spf13/pflag"

	"epiphyte/internal/api"
	"epiphyte/internal/pcap"
	"epiphyte/stack"
)

// defaultPcapSize bounds a capture into a file, in bytes, so that a guest's traffic does not
// fill the host's disk unasked.
const defaultPcapSize = 1 << 30

// addPcap adds the flags of captures into a file; letter is the shorthand of --pcap.
func (o *Options) addPcap(fs *pflag.FlagSet, letter string) {
	fs.VarP(fileValue("pcap", &o.Pcap), "pcap", letter, "write the frames that cross the TAP to `FILE`, as pcapng")
	fs.Var(sizeValue("pcap-size", &o.PcapSize, 0), "pcap-size", "end the capture at `SIZE` bytes, or so many k, M or G; 0: never")
	fs.Var(numberValue("pcap-snaplen", &o.PcapSnaplen, maxSnaplen), "pcap-snaplen", "keep `N` bytes of each frame; 0: all")
}

// maxSnaplen exceeds the longest frame that can be captured, in bytes.
const maxSnaplen = 1 << 18

// frames are the captures of what crosses one device, or a network's bridge.
type frames struct {
	*pcap.Tee
	name  string // of the device, in captures
	begun func() // called for each capture; may be nil

	refused atomic.Uint64

	file   *os.File // of --pcap; nil: none
	cancel context.CancelFunc
	ended  chan struct{} // closed when nothing is written to file any more
}

// capture begins the capture into the file of --pcap, and prepares for those that clients ask for.
func (o *Options) capture(n *guestNetwork, p *prepared, r *reporter) error {
	if o.Pcap == "" && o.HTTPSocket == "" && o.ConfSocket == "" && !o.FindSocket {
		return nil
	}
	f := &frames{Tee: new(pcap.Tee), name: n.config.Name}
	if n.agent != nil && (o.takesDirectPath(n.config) || o.splices()) {
		f.begun = sync.OnceFunc(func() {
			r.log.Info("connections of published ports that do not cross the TAP are in no capture; with --publish-mode=stack all of them cross it")
		})
	}
	n.frames = f
	if p.capture == nil {
		return nil
	}
	f.file, p.capture = p.capture, nil
	c, err := f.begin(pcap.Config{Snaplen: o.PcapSnaplen, Limit: o.PcapSize})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	f.cancel, f.ended = cancel, make(chan struct{})
	go func() {
		defer close(f.ended)
		f.report(c.Run(ctx, f.file), o, r.log)
	}()
	return nil
}

// captured is a device with its frames captured.
func (n *guestNetwork) captured(dev stack.Device) stack.Device {
	if n.frames == nil {
		return dev
	}
	return n.frames.Device(dev, pcap.Both)
}

func (f *frames) begin(cfg pcap.Config) (*pcap.Capture, error) {
	cfg.Interface, cfg.Program = f.name, programVersion()
	c, err := f.Begin(cfg)
	if err != nil {
		f.refused.Add(1)
	} else if f.begun != nil {
		f.begun()
	}
	return c, err
}

// stream gives a client a capture; see api.Config.
func (f *frames) stream(ctx context.Context, w io.Writer, snaplen int) error {
	c, err := f.begin(pcap.Config{Snaplen: snaplen})
	if err != nil {
		return err
	}
	c.Run(ctx, w) // an error means that the client has left
	return nil
}

// metrics count the frames missing in captures, and refused captures.
func (f *frames) metrics() []api.Metric {
	return []api.Metric{
		{Name: "capture_lost_frames", Help: "Frames missing in captures that were written too slowly", Counter: true, Values: []api.Value{{N: f.Lost()}}},
		{Name: "captures_refused", Help: "Captures that were refused, as there were too many at once", Counter: true, Values: []api.Value{{N: f.refused.Load()}}},
	}
}

// report logs why the capture by --pcap has ended, and how many frames it lacks.
func (f *frames) report(err error, o *Options, log *slog.Logger) {
	log = log.With("file", o.Pcap)
	switch {
	case errors.Is(err, pcap.ErrLimit):
		log.Warn("the capture ends at its size; --pcap-size sets another", "bytes", o.PcapSize)
	case err != nil:
		log.Error("the capture ends", "error", err)
	}
	if lost := f.Lost(); lost > 0 {
		log.Warn("frames are missing in the capture, which was written too slowly; --pcap-snaplen makes it smaller", "frames", lost)
	}
}

// close ends the capture by --pcap, after writing what has crossed so far.
func (f *frames) close() {
	if f == nil || f.file == nil {
		return
	}
	if f.cancel != nil {
		f.cancel()
		<-f.ended
	}
	f.file.Close()
}
