package policy

// Pending is a decision that is not there yet. It belongs to the shard's thread.
type Pending struct {
	then []func(Decision)
}

// Then has f called with the decision, once.
func (p *Pending) Then(f func(Decision)) { p.then = append(p.then, f) }

// Resolve tells everybody who waits. d does not make them wait again.
func (p *Pending) Resolve(d Decision) {
	then := p.then
	p.then = nil
	for _, f := range then {
		f(d)
	}
}

const (
	// backlogMax packets wait for decisions at most; further ones are lost, as
	// those are for which a kernel looks up a neighbour (arp(7), unres_qlen).
	backlogMax = 128
	// backlogBytes is the largest packet that waits.
	backlogBytes = 2048
)

// Backlog bounds the packets that wait for decisions, each copied by whoever has
// it wait. Its zero value is ready to use.
type Backlog struct{ waiting int }

// Hold has then called with the decision, and reports whether it will be: false
// means that the packet, of so many bytes, is lost.
func (b *Backlog) Hold(p *Pending, size int, then func(Decision)) bool {
	if b.waiting >= backlogMax || size > backlogBytes {
		return false
	}
	b.waiting++
	p.Then(func(d Decision) {
		b.waiting--
		then(d)
	})
	return true
}
