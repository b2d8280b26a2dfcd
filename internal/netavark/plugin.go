package netavark

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"epiphyte/internal/netdef"
	"epiphyte/internal/network"
	"epiphyte/tap"
)

// Commands of a plugin, its first argument.
const (
	Info     = "info"
	Create   = "create"
	Setup    = "setup"
	Teardown = "teardown"
)

// IsCommand reports whether a first argument is a command of netavark's.
func IsCommand(s string) bool {
	return s == Info || s == Create || s == Setup || s == Teardown
}

// apiVersion of netavark's plugin API.
const apiVersion = "1.0.0"

// maxInput bounds what is read of podman's JSON, in bytes.
const maxInput = 16 << 20

// Plugin answers netavark.
type Plugin struct {
	Paths   netdef.Paths
	Version string // of the program
	// Rootless says that podman runs as a plain user: create can start networks, but setup
	// cannot.
	Rootless bool
	// Join opens a device for a container, makes it a member through the client, and
	// configures it. It returns the member as granted.
	Join func(ctx context.Context, c *network.Client, device tap.Config, wish network.Member) (network.Member, *network.Info, error)
	// CheckPolicy returns an error for a file that is no policy for members.
	CheckPolicy func(path string) error
	// Logger of warnings; podman shows them when asked to (--log-level).
	Logger *slog.Logger
}

// RunsRootless reports whether podman, which has called us, runs as a plain user. podman sets
// this variable before it joins its user namespace, to know it itself (containers/storage,
// pkg/unshare).
func RunsRootless() bool { return os.Getenv("_CONTAINERS_USERNS_CONFIGURED") != "" }

// Run executes one command, and answers on stdout, also with the error that it returns.
func (p *Plugin) Run(ctx context.Context, args []string, stdin io.Reader, stdout io.Writer) error {
	answer, err := p.answer(ctx, args, stdin)
	if err != nil {
		Fail(stdout, err)
		return err
	}
	_, err = stdout.Write(answer)
	return err
}

// Fail tells netavark an error, in one line. The exit status must not be 0 then.
func Fail(stdout io.Writer, err error) {
	text := strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; ")
	json.NewEncoder(stdout).Encode(map[string]string{"error": text})
}

// patience bounds one command. A network is started and joined within milliseconds, unless
// the machine is busy.
const patience = 30 * time.Second

var errPatience = fmt.Errorf("the network has not answered within %v: epiphyte network inspect, and its log, tell more", patience)

// answer is what is written to stdout.
func (p *Plugin) answer(ctx context.Context, args []string, stdin io.Reader) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errPatience)
	defer cancel()
	command, operands := args[0], args[1:]
	if command == Info {
		return json.Marshal(map[string]string{"version": p.Version, "api_version": apiVersion})
	}
	input, err := io.ReadAll(io.LimitReader(stdin, maxInput))
	if err != nil {
		return nil, fmt.Errorf("%s: read stdin: %w", command, err)
	}
	if command == Create {
		return p.create(ctx, input)
	}
	if len(operands) != 1 {
		return nil, fmt.Errorf("%s: the path of a network namespace is wanted", command)
	}
	var r request
	if err := json.Unmarshal(input, &r); err != nil {
		return nil, fmt.Errorf("%s: read podman's description of the container: %w", command, err)
	}
	if command == Teardown {
		return nil, p.teardown(ctx, &r)
	}
	s, err := p.setup(ctx, operands[0], &r)
	if err != nil {
		return nil, err
	}
	return json.Marshal(s)
}
