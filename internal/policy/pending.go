package policy

import "container/list"

// Pending is a decision that is not there yet. It belongs to the shard's thread.
// Its zero value is ready to use.
type Pending struct {
	waiting list.List // of func(Decision)
}

// Then has f called with the decision, once, unless forget is called first. A caller
// that stops waiting must call forget: what it registered stays until the decision
// otherwise.
func (p *Pending) Then(f func(Decision)) (forget func()) {
	e := p.waiting.PushBack(f)
	return func() { p.waiting.Remove(e) }
}

// Resolve gives the decision to everybody who waits for it, in the order of Then. Its
// action is not Wait.
func (p *Pending) Resolve(d Decision) {
	for e := p.waiting.Front(); e != nil; e = p.waiting.Front() {
		p.waiting.Remove(e).(func(Decision))(d)
	}
}

const (
	// backlogMax packets wait for decisions at most; further ones are lost, as
	// the kernel does while it resolves a neighbour (arp(7), unres_qlen).
	backlogMax = 128
	// backlogBytes is the largest packet that waits.
	backlogBytes = 2048
)

// Backlog bounds the packets that wait for decisions. It holds none of them: the
// caller copies a packet before it waits. Its zero value is ready to use.
type Backlog struct{ waiting int }

// Room reports whether a packet of so many bytes may wait.
func (b *Backlog) Room(size int) bool { return b.waiting < backlogMax && size <= backlogBytes }

// Hold has then called with the decision on a packet of size bytes, and reports
// whether there was room: if not, the packet is lost.
func (b *Backlog) Hold(p *Pending, size int, then func(Decision)) bool {
	if !b.Room(size) {
		return false
	}
	b.waiting++
	p.Then(func(d Decision) {
		b.waiting--
		then(d)
	})
	return true
}
