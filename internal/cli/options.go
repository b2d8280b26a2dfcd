package cli

import (
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/spf13/pflag"

	"epiphyte/internal/addressing"
	"epiphyte/internal/outbound"
	"epiphyte/internal/pasta"
	"epiphyte/internal/sandbox"
	"epiphyte/portfwd"
	"epiphyte/tap"
)

// Options are common to both commands: the guest's network and how the program works.
type Options struct {
	Command             []string // runs in the guest, started by us; empty: none
	Plan                addressing.Plan
	MTU                 int // bytes of an IP packet, 68 to 65521
	DisableHostLoopback bool
	DisableDNS          bool
	Publish             []portfwd.Rule    // host ports to carry in, in the order given
	PublishMode         portfwd.Mode      // the path of their TCP clients
	Bulk                string            // which connections are handed over to the guest's kernel
	Expose              []portfwd.Exposed // ports of host loopback, on the guest's own
	LivePorts           bool              // any port may be published or exposed later
	Splice              bool              // clients of the host's loopback appear as the guest itself
	LoopbackToLoopback  bool              // with Splice: they go to the guest's loopback
	Source              *outbound.Source  // of the host's sockets
	Standing            *standing         // of a guest that stands beside the host; nil: it has a subnet of its own

	// Forwards are the ports of pasta's options, which Publish and Expose contain; nil: the
	// program is not called pasta.
	Forwards *pasta.Table
	Freebind bool // Forwards may name addresses that no interface has

	Policy PolicyOptions // restricts what the guest may reach

	APISocket   string        // control socket, slirp4netns's JSON; empty: none
	HTTPSocket  string        // the same and more over HTTP; empty: none
	FindSocket  bool          // another HTTP socket, where 'ps' finds it
	ConfSocket  string        // another HTTP socket, whose changes of Forwards are remembered; empty: none
	ResolvConf  string        // where the host's name servers are read
	NoOffload   bool          // no virtio-net header on the TAP
	Queues      int           // of the TAP, with a thread each; 0: one
	Pcap        string        // file to write frames to; empty: none
	PcapSize    int64         // of that file, in bytes; 0: no bound
	PcapSnaplen int           // bytes of each frame in it; 0: all
	LogLevel    slog.Level    // to stderr, or the file
	LogFormat   string        // logText or logJSON
	Quiet       bool          // no warnings about the command line
	LogFile     string        // in place of stderr; empty: none
	LogSize     int64         // of that file, in bytes
	StatsEvery  time.Duration // between two lines of counters in the log; 0: none

	Unconfined bool          // --sandbox=off
	User       *sandbox.User // to become once everything is open; nil: stay the same
	// RequireFiles and RequireCalls refuse a kernel that cannot restrict files or
	// system calls.
	RequireFiles, RequireCalls bool
}

// publishUsage is the help of --publish.
const publishUsage = "carry clients of host ports in to the guest; `RULE` is [HOST:]PORT[-END][:GUESTPORT[-END]][/udp]; repeatable"

// Values of --log-format.
const (
	logText = "text"
	logJSON = "json"
)

func defaultOptions(mtu int) Options {
	return Options{
		MTU:        mtu,
		Source:     new(outbound.Source),
		ResolvConf: resolvConf,
		PcapSize:   defaultPcapSize,
		LogFormat:  logText,
		Bulk:       bulkAuto,
		LogSize:    pasta.DefaultLogSize,
	}
}

// addOwn adds the flags that are not in slirp4netns's contract. p is the flag that gets the
// letter p.
func (o *Options) addOwn(fs *pflag.FlagSet, p string) {
	letter := map[string]string{p: "p"}
	fs.VarP(publishValue(&o.Publish), "publish", letter["publish"], publishUsage)
	fs.Var(modeValue(&o.PublishMode), "publish-mode", "how TCP clients are carried in, a `MODE`: auto, stack (through the TAP), direct (sockets of the guest's namespace)")
	o.addBulk(fs)
	fs.Var(exposeValue(&o.Expose), "expose-host", "show a TCP port of the host's 127.0.0.1 on the guest's own; `RULE` is PORT[:GUESTPORT]; repeatable")
	fs.Var(socketValue(httpSocket, &o.HTTPSocket), "http-socket", "accept HTTP requests about ports, flows and statistics on the socket `PATH`")
	o.addPcap(fs, letter["pcap"])
	o.Policy.addTo(fs)
	fs.Var(levelValue(&o.LogLevel), "log-level", "log to stderr from `LEVEL` on: debug, info, warn, error")
	fs.Var(choiceValue("log-format", &o.LogFormat, logText, logJSON), "log-format", "write the log as `FORMAT`: text, json")
	fs.Var(stringValue(&o.ResolvConf), "resolv-conf", "read the host's name servers from `PATH`")
	boolFlag(fs, "no-offload", "", "use the TAP without checksum and segmentation offload", &o.NoOffload)
	fs.Var(queuesValue(&o.Queues), "queues", fmt.Sprintf("give the TAP `N` queues with a thread each, 1 to %d", tap.MaxQueues))
	fs.Var(sandboxValue(&o.Unconfined), "sandbox", "`MODE`: auto gives up, once ready, whatever rights are not needed; off keeps them, for debugging")
	for _, name := range [...]string{"publish", "publish-mode", "bulk", "expose-host", "http-socket", "pcap", "pcap-size", "pcap-snaplen", "log-level", "log-format", "resolv-conf", "no-offload", "queues", "sandbox"} {
		own(fs.Lookup(name))
	}
	o.addLogFile(fs)
	o.addStats(fs)
}

// addMissing adds a flag of ours, unless the emulated program has one of that name.
func addMissing(fs *pflag.FlagSet, name string, v value, usage string) {
	if fs.Lookup(name) == nil {
		own(fs.VarPF(v, name, "", usage))
	}
}

// own marks a flag as not in the contract, whose flags are abbreviated first.
func own(f *pflag.Flag) { f.Annotations = map[string][]string{ownFlag: nil} }

// outboundValue is the value of --outbound-addr or, with the suffix 6, its twin.
func outboundValue(suffix string, set func(string) error, said func(option string)) value {
	return value{set: func(s string) error {
		said("--outbound-addr" + suffix)
		if set(s) != nil {
			family := "ipv4"
			if suffix != "" {
				family = "ipv6"
			}
			return &Exit{Code: 1, Stderr: "outbound-addr" + suffix + " has to be valid " + family + " address or interface name."}
		}
		return nil
	}}
}

// checkMTU refuses numbers that cannot be an interface's MTU.
func (o *Options) checkMTU() *Exit {
	if o.MTU < minMTU {
		return &Exit{Code: 1, Stderr: "cannot set MTU: Invalid argument (an IPv4 link carries at least 68 bytes)"}
	}
	return nil
}

// setPlan computes the address plan, the last of the contract's checks.
func (o *Options) setPlan(cidr, cidr6 string, ipv6 bool) *Exit {
	v4, err := addressing.ParseCIDR(cidr)
	if err != nil {
		return &Exit{Code: 1, Stderr: err.Error()}
	}
	var v6 netip.Prefix
	if ipv6 {
		v6, err = netip.ParsePrefix(cidr6)
		if err != nil {
			return &Exit{Code: 1, Stderr: fmt.Sprintf("invalid IPv6 CIDR: %s (a network such as %v)", cidr6, addressing.DefaultIPv6())}
		}
	}
	o.Plan, err = addressing.New(v4, v6)
	if err != nil {
		return &Exit{Code: 1, Stderr: err.Error()}
	}
	return nil
}

// addBulk adds the flag that attach has for members of networks, too.
func (o *Options) addBulk(fs *pflag.FlagSet) {
	fs.Var(choiceValue("bulk", &o.Bulk, bulkAuto, bulkAlways, bulkNever), "bulk", "which connections leave the TAP for the guest's kernel, a `MODE`: auto (those that move much, or often), always (all, for tests), never")
}
