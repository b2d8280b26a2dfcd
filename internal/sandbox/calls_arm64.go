package sandbox

// legacy are calls that newer architectures do not have.
var legacy []uintptr
