//go:build !amd64 && !arm64

package seccomp

const (
	auditArch = 0 // not supported
	foreign   = 0
)
