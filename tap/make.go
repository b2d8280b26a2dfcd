package tap

import (
	"errors"
	"os"

	"github.com/songgao/water"
)

// Make makes a persistent TAP in the network namespace of the calling process,
// for another process to attach to with Open. It is of the kernel's multi-queue
// kind if several queues are wanted.
//
// Errors are as those of Open.
func Make(name string, queues int) error {
	cfg := water.Config{DeviceType: water.TAP}
	cfg.Name, cfg.Persist, cfg.MultiQueue = name, true, queues > 1
	dev, err := water.New(cfg)
	if _, ok := errors.AsType[*os.SyscallError](err); ok {
		return fail("make TAP "+name, err, hintAttach(name, err))
	}
	if err != nil {
		return fail("open "+tunPath, err, hintTunDevice(err))
	}
	return dev.Close()
}
