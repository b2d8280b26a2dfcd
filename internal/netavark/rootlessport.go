package netavark

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// RootlessPort is the name of the program by which rootless podman publishes ports.
const RootlessPort = "rootlessport"

// portRequest is what podman asks of that program, as JSON on stdin (podman,
// pkg/rootlessport).
type portRequest struct {
	Mappings    []portMapping
	ContainerID string
	TmpDir      string
	// ReadyFD takes "1" when the ports are open. Without it, podman quotes stdout.
	ReadyFD int
	// ExitFD is closed at its other end when the container's monitor is gone.
	ExitFD int
}

// PublishRootless does the work of podman's rootlessport for members of our networks:
// their networks publish the ports. It stays while the container runs, because podman
// tells it when the container's networks have changed. For other containers it executes
// podman's own program, and does not return. It has printed an error that it returns.
func (p *Plugin) PublishRootless(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
	err := p.publishRootless(ctx, stdin)
	if err != nil {
		fmt.Fprintln(stdout, err)
	}
	return err
}

func (p *Plugin) publishRootless(ctx context.Context, stdin io.Reader) error {
	input, err := io.ReadAll(io.LimitReader(stdin, maxInput))
	if err != nil {
		return fmt.Errorf("read stdin: %w", err)
	}
	var r portRequest
	if err := json.Unmarshal(input, &r); err != nil {
		return fmt.Errorf("read podman's request: %w", err)
	}
	if len(p.places(ctx, r.ContainerID)) == 0 {
		return executeNext(input)
	}
	l, err := r.listen()
	if err != nil {
		return fmt.Errorf("listen for podman: %w", err)
	}
	defer l.Close()
	if err := p.settle(ctx, &r); err != nil {
		return err
	}
	ready := os.NewFile(uintptr(r.ReadyFD), "ready")
	_, err = ready.WriteString("1")
	ready.Close()
	if err != nil {
		return fmt.Errorf("tell podman: %w", err)
	}
	go p.answerChanges(ctx, l, &r)
	exit := os.NewFile(uintptr(r.ExitFD), "exit")
	defer exit.Close()
	_, err = exit.Read(make([]byte, 1)) // nobody writes
	if err == io.EOF {
		err = nil
	}
	return err
}

// settle has only the network of the container's first place publish its ports.
func (p *Plugin) settle(ctx context.Context, r *portRequest) error {
	places := p.places(ctx, r.ContainerID)
	if len(places) == 0 {
		return nil // it is about to end, or has left all our networks
	}
	rules, err := rulesOf(r.Mappings, places[0].member.IPv6.IsValid())
	if err != nil {
		return err
	}
	for _, at := range places[1:] {
		if err := p.setPorts(ctx, at, nil); err != nil {
			return err
		}
	}
	return p.setPorts(ctx, places[0], rules)
}

// listen listens on the socket by which podman says that the container's networks have
// changed: TmpDir/rp/ID, as in pkg/rootlessport.
func (r *portRequest) listen() (*net.UnixListener, error) {
	dir := filepath.Join(r.TmpDir, "rp")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, r.ContainerID)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
}

// answerChanges settles the ports anew at each of podman's messages, until l is closed. Their
// content, the address that podman's own program would connect to, does not matter.
func (p *Plugin) answerChanges(ctx context.Context, l net.Listener, r *portRequest) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		c.Read(make([]byte, 256)) // closing a connection with unread data would reset it
		answer := "OK"
		if err := p.settle(ctx, r); err != nil {
			answer = err.Error()
		}
		io.WriteString(c, answer)
		c.Close()
	}
}

// helperDirs is where podman looks for its programs, in its order (containers/common,
// pkg/config).
var helperDirs = [...]string{"/usr/local/libexec/podman", "/usr/local/lib/podman", "/usr/libexec/podman", "/usr/lib/podman"}

// executeNext becomes podman's own rootlessport, with the same input.
func executeNext(input []byte) error {
	own, err := os.Stat("/proc/self/exe")
	if err != nil {
		return err
	}
	for _, dir := range helperDirs {
		path := filepath.Join(dir, RootlessPort)
		if found, err := os.Stat(path); err != nil || os.SameFile(own, found) {
			continue
		}
		if err := provide(input); err != nil {
			return err
		}
		return fmt.Errorf("execute %s: %w", path, unix.Exec(path, []string{RootlessPort}, os.Environ()))
	}
	return errors.New("podman's own rootlessport is in none of " + strings.Join(helperDirs[:], ", "))
}

// provide replaces stdin by input.
func provide(input []byte) error {
	fd, err := unix.MemfdCreate("stdin", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("pass stdin on: %w", err)
	}
	f := os.NewFile(uintptr(fd), "stdin")
	defer f.Close()
	if _, err = f.Write(input); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err == nil {
		err = unix.Dup3(fd, 0, 0)
	}
	if err != nil {
		return fmt.Errorf("pass stdin on: %w", err)
	}
	return nil
}
