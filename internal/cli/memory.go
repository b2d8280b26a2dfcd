package cli

import (
	"math"
	"runtime/debug"

	"epiphyte/stack"
)

// softMemory is the collector's memory limit in bytes: the TCP buffers of a guest, and what
// the program needs besides. Above it the collector runs as often as it must to stay there;
// below it, it lets memory grow to twice what is in use.
const softMemory = stack.DefaultBufferBytes + 128<<20

// limitMemory sets the collector's limit, unless GOMEMLIMIT has set one.
func limitMemory() {
	if debug.SetMemoryLimit(-1) == math.MaxInt64 {
		debug.SetMemoryLimit(softMemory)
	}
}
