package cli

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// invalid returns the Exit for a value that can be read but cannot work: one line that says
// why and what to do.
func invalid(format string, args ...any) *Exit {
	return &Exit{Code: 1, Stderr: fmt.Sprintf(format, args...)}
}

// check refuses what both commands would otherwise ignore or change silently.
func (o *Options) check() *Exit {
	if o.APISocket != "" && samePath(o.APISocket, o.HTTPSocket) {
		return invalid("--api-socket and --http-socket are both %s: each needs a path of its own", o.HTTPSocket)
	}
	if o.ResolvConf == "" {
		return invalid("--resolv-conf is empty: name a file, such as /etc/resolv.conf")
	}
	switch info, err := os.Stat(o.ResolvConf); {
	case err == nil && info.IsDir():
		return invalid("--resolv-conf: %s is a directory: name a file, such as %s", o.ResolvConf, resolvConf)
	case err != nil && o.ResolvConf != resolvConf: // the default may be created later
		return invalid("--resolv-conf: %s: %s: name a file that exists, such as %s", o.ResolvConf, errnoText(err), resolvConf)
	}
	return o.checkMTU()
}

// check refuses values of options that only the attach command has.
func (a *Attach) check() *Exit {
	if a.MAC != nil && [6]byte(a.MAC) == a.Plan.MAC {
		return invalid("--macaddress: %v is the gateway's own address: choose another, or leave the option out", a.MAC)
	}
	if a.Target.FD == 0 && a.Bess == "" {
		if a.Name == "" {
			return invalid("TAPNAME is empty: name the interface, such as tap0")
		}
		if a.Configure && strings.Contains(a.Name, "%") {
			return invalid("TAPNAME %s: with --configure the kernel must not choose the name: name the interface, such as tap0", a.Name)
		}
	}
	if exit := a.ReadyFD.checkWritable("ready-fd"); exit != nil {
		return exit
	}
	return a.Options.check()
}

// checkWritable refuses a descriptor that cannot be written to: its reader would wait
// forever.
func (f FD) checkWritable(name string) *Exit {
	if !f.given {
		return nil
	}
	flags, err := unix.FcntlInt(uintptr(f.num), unix.F_GETFL, 0)
	if err != nil || !f.open {
		return invalid("%s %d is not open: open it for the program, as a shell does by %d>FILE", name, f.num, f.num)
	}
	if flags&unix.O_ACCMODE == unix.O_RDONLY || flags&unix.O_PATH != 0 {
		return invalid("%s %d is not open for writing: give the writing end of a pipe", name, f.num)
	}
	return nil
}

func samePath(a, b string) bool {
	absA, errA := filepath.Abs(a)
	absB, errB := filepath.Abs(b)
	return b != "" && (a == b || errA == nil && errB == nil && absA == absB)
}

// looksLikeAddress reports whether a path is more likely a host and port, or a URL.
func looksLikeAddress(s string) bool {
	if strings.Contains(s, "://") {
		return true
	}
	_, port, err := net.SplitHostPort(s)
	if err != nil || strings.Contains(s, "/") {
		return false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return err == nil
}
