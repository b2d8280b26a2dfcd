package sockdiag

// Ports is a set of port numbers.
type Ports [1 << 16 / 64]uint64

// Add adds a port.
func (p *Ports) Add(port uint16) { p[port/64] |= 1 << (port % 64) }

// Remove removes a port.
func (p *Ports) Remove(port uint16) { p[port/64] &^= 1 << (port % 64) }

// Has reports whether a port is in the set.
func (p *Ports) Has(port uint16) bool { return p[port/64]&(1<<(port%64)) != 0 }

// Union adds the ports of another set.
func (p *Ports) Union(o *Ports) {
	for i := range p {
		p[i] |= o[i]
	}
}

// Subtract removes the ports of another set.
func (p *Ports) Subtract(o *Ports) {
	for i := range p {
		p[i] &^= o[i]
	}
}
