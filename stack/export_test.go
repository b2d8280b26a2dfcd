package stack

// Endpoints is the number of TCP endpoints that gVisor has registered.
func (s *Stack) Endpoints() int { return len(s.gv.RegisteredEndpoints()) }
