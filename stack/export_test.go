package stack

// Endpoints is the number of TCP endpoints that gVisor knows of, but for those
// that Conns counts alone.
func (s *Stack) Endpoints() int {
	return len(s.gv.RegisteredEndpoints()) + len(s.gv.CleanupEndpoints())
}
