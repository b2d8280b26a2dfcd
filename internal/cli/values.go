package cli

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"epiphyte/portfwd"
	"epiphyte/tap"
)

// value is a pflag.Value made of functions: what to do when the flag is set and
// what to show as its default.
type value struct {
	set     func(string) error
	initial string
	kind    string // "bool": shown without an argument; kindNumber
}

// kindNumber is the kind of a value that is one number. An option for which it is optional
// takes the next argument if that is a number.
const kindNumber = "number"

func (v value) Set(s string) error { return v.set(s) }
func (v value) String() string     { return v.initial }
func (v value) Type() string       { return v.kind }

// switchFlag adds a flag without an argument; act is called each time it is given.
func switchFlag(fs *pflag.FlagSet, name, shorthand, usage string, act func() error) *pflag.Flag {
	f := fs.VarPF(value{kind: "bool", set: func(string) error { return act() }}, name, shorthand, usage)
	f.NoOptDefVal = "true"
	return f
}

// boolFlag adds a flag that sets dst, to true when it has no argument.
func boolFlag(fs *pflag.FlagSet, name, shorthand, usage string, dst *bool) {
	v := value{kind: "bool", initial: strconv.FormatBool(*dst), set: func(s string) error {
		b, err := strconv.ParseBool(s)
		if err != nil {
			return fmt.Errorf("--%s must be true or false", name)
		}
		*dst = b
		return nil
	}}
	fs.VarPF(v, name, shorthand, usage).NoOptDefVal = "true"
}

// parseInt reads an integer of the contract, as strtol(3) does in base 10, to
// the end of the string: leading white space and a sign are allowed, an empty
// string is 0. Out of range is an error where the original wraps around.
func parseInt(s string) (int, error) {
	s = strings.TrimLeft(s, " \t\n\v\f\r")
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(s, 10, 32)
	return int(n), err
}

// fdValue reads a descriptor number, 0 or greater.
func fdValue(name string, dst *FD) value {
	return value{set: func(s string) error {
		n, err := parseInt(s)
		if err != nil || n < 0 {
			return fmt.Errorf("%s must be a non-negative integer", name)
		}
		*dst = claim(n)
		return nil
	}}
}

// maxMTU is the longest IP packet that a TAP frame of 65535 bytes carries with
// its Ethernet header, as the contract bounds it.
const maxMTU = 65521

// minMTU is what RFC 791 requires of every IPv4 link, and the least that the kernel accepts
// for a TAP.
const minMTU = 68

// mtuValue reads an MTU, 1 to 65521 bytes: by contract, values below 68 are refused later.
func mtuValue(dst *int) value {
	return value{initial: strconv.Itoa(*dst), set: func(s string) error {
		n, err := parseInt(s)
		if err != nil || n <= 0 || n > maxMTU {
			return fmt.Errorf("MTU must be a positive integer (< %d)", maxMTU+1)
		}
		*dst = n
		return nil
	}}
}

// queuesValue reads how many queues the TAP is to have.
func queuesValue(dst *int) value {
	return value{initial: "1", set: func(s string) error {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > tap.MaxQueues {
			return fmt.Errorf("--queues must be a number from 1 to %d", tap.MaxQueues)
		}
		*dst = n
		return nil
	}}
}

// numberValue reads a number from 0 to most.
func numberValue(name string, dst *int, most int) value {
	return value{initial: strconv.Itoa(*dst), set: func(s string) error {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 || n > most {
			return fmt.Errorf("--%s must be a number from 0 to %d", name, most)
		}
		*dst = n
		return nil
	}}
}

// sizeValue reads a size of at least least, in bytes or with the suffix k, M or G (powers of
// 1024).
func sizeValue(name string, dst *int64, least int64) value {
	return value{initial: sizeText(*dst), set: func(s string) error {
		number, shift := s, 0
		if i := strings.IndexAny("kKmMgG", s[max(0, len(s)-1):]); s != "" && i >= 0 {
			number, shift = s[:len(s)-1], 10*(i/2+1)
		}
		n, err := strconv.ParseInt(number, 10, 64)
		if err != nil || n < 0 || n > math.MaxInt64>>shift {
			return fmt.Errorf("--%s must be a number of bytes, or one with k, M or G", name)
		}
		if n<<shift < least {
			return fmt.Errorf("--%s must be %s or more", name, sizeText(least))
		}
		*dst = n << shift
		return nil
	}}
}

// sizeText writes a size as sizeValue reads it.
func sizeText(n int64) string {
	suffix := ""
	for _, s := range [...]string{"k", "M", "G"} {
		if n == 0 || n%1024 != 0 {
			break
		}
		n, suffix = n/1024, s
	}
	return strconv.FormatInt(n, 10) + suffix
}

// stringValue takes any string.
func stringValue(dst *string) value {
	return value{initial: *dst, set: func(s string) error { *dst = s; return nil }}
}

// fileValue takes the path of a file.
func fileValue(name string, dst *string) value {
	return value{initial: *dst, set: func(s string) error {
		if s == "" {
			return fmt.Errorf("--%s: the path is empty", name)
		}
		*dst = s
		return nil
	}}
}

// usernsPathValue takes a path that exists now.
func usernsPathValue(dst *string) value {
	return value{set: func(s string) error {
		if _, err := os.Stat(s); err != nil {
			return fmt.Errorf("userns path doesn't exist: %s", s)
		}
		*dst = s
		return nil
	}}
}

// choiceValue takes one of the given words.
func choiceValue(name string, dst *string, choices ...string) value {
	return value{initial: *dst, set: func(s string) error {
		for _, c := range choices {
			if s == c {
				*dst = s
				return nil
			}
		}
		return fmt.Errorf("--%s must be one of %s", name, strings.Join(choices, ", "))
	}}
}

// sandboxValue takes auto or off.
func sandboxValue(unconfined *bool) value {
	return value{initial: "auto", set: func(s string) error {
		if s != "auto" && s != "off" {
			return errors.New("--sandbox must be one of auto, off")
		}
		*unconfined = s == "off"
		return nil
	}}
}

// levelValue takes the name of a log level.
func levelValue(dst *slog.Level) value {
	return value{initial: strings.ToLower(dst.String()), set: func(s string) error {
		switch strings.ToLower(s) {
		case "debug", "info", "warn", "error":
			return dst.UnmarshalText([]byte(s))
		}
		return errors.New("--log-level must be one of debug, info, warn, error")
	}}
}

// parseMAC reads the argument of --macaddress: six bytes in hex, one or two
// digits each, separated by colons; what follows the digits of a byte is
// ignored, as sscanf(3) would. An address that no interface can have
// (multicast, all zero) is refused here rather than by the kernel later.
func parseMAC(s string) (net.HardwareAddr, error) {
	bad := fmt.Errorf("macaddress has to be a valid MAC address (hex string, 6 bytes, each byte separated by a ':'): %q", s)
	parts := strings.Split(s, ":")
	if len(parts) != 6 {
		return nil, bad
	}
	mac := make(net.HardwareAddr, 6)
	var bits byte
	for i, part := range parts {
		digits := part[:len(part)-len(strings.TrimLeft(part, "0123456789abcdefABCDEF"))]
		b, err := strconv.ParseUint(digits, 16, 8)
		if err != nil {
			return nil, bad
		}
		mac[i] = byte(b)
		bits |= mac[i]
	}
	if mac[0]&1 != 0 || bits == 0 {
		return nil, fmt.Errorf("macaddress has to be a unicast address other than zero: %q", s)
	}
	return mac, nil
}

// publishValue gathers the rules of a repeatable option.
func publishValue(dst *[]portfwd.Rule) value {
	return value{set: func(s string) error {
		r, err := portfwd.Parse(s)
		if err == nil {
			*dst = append(*dst, r)
		}
		return err
	}}
}

// exposeValue gathers the ports of a repeatable option, each guest port once.
func exposeValue(dst *[]portfwd.Exposed) value {
	return value{set: func(s string) error {
		e, err := portfwd.ParseExposed(s)
		if err != nil {
			return err
		}
		for _, other := range *dst {
			if other.GuestPort == e.GuestPort {
				return fmt.Errorf("expose port %v: guest port %d leads to port %d already: choose another, as in %d:GUESTPORT",
					e, e.GuestPort, other.HostPort, e.HostPort)
			}
		}
		*dst = append(*dst, e)
		return nil
	}}
}

// modeValue takes the name of a path for published ports.
func modeValue(dst *portfwd.Mode) value {
	return value{initial: "auto", set: func(s string) error {
		modes := map[string]portfwd.Mode{"auto": portfwd.Auto, "stack": portfwd.StackOnly, "direct": portfwd.DirectOnly}
		m, ok := modes[s]
		if !ok {
			return errors.New("--publish-mode must be one of auto, stack, direct")
		}
		*dst = m
		return nil
	}}
}

// maxSocketPath is what fits into struct sockaddr_un with its final zero.
const maxSocketPath = 107

// Kinds of sockets to listen on, as messages name them.
const (
	apiSocket  = "API"
	httpSocket = "HTTP"
)

// socketValue reads the path of a socket to listen on.
func socketValue(kind string, dst *string) value {
	return value{set: func(s string) error {
		if len(s) > maxSocketPath {
			return fmt.Errorf("the specified %s socket path is too long (>= %d)", kind, maxSocketPath+1)
		}
		if s == "" {
			return fmt.Errorf("the specified %s socket path is empty", kind)
		}
		// The contract takes any file name for its own socket.
		if kind == httpSocket && looksLikeAddress(s) {
			return fmt.Errorf("--http-socket takes the path of a Unix socket, and %s is an address: give a path, such as ./http.sock", s)
		}
		*dst = s
		return nil
	}}
}
