package stack

// Endpoints is the number of TCP endpoints that gVisor knows of.
func (s *Stack) Endpoints() int {
	return len(s.gv.RegisteredEndpoints()) + len(s.gv.CleanupEndpoints())
}
