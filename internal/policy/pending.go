package policy

import "container/list"

// Pending is a decision that is not there yet. It belongs to the shard's thread.
// Its zero value is ready to use.
type Pending struct {
	waiting list.List // of func(Decision)
}

// Then has f called with the decision, once, unless forget is called before. Who
// does not wait to the end calls forget, or the Pending grows with each that gave
// up.
func (p *Pending) Then(f func(Decision)) (forget func()) {
	e := p.waiting.PushBack(f)
	return func() { p.waiting.Remove(e) }
}

// Resolve tells everybody who waits, in the order of Then. d does not make them
// wait again.
func (p *Pending) Resolve(d Decision) {
	for e := p.waiting.Front(); e != nil; e = p.waiting.Front() {
		p.waiting.Remove(e).(func(Decision))(d)
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

// Room reports whether a packet of so many bytes may wait.
func (b *Backlog) Room(size int) bool { return b.waiting < backlogMax && size <= backlogBytes }

// Hold has then called with the decision, and reports whether it will be: false
// means that the packet, of so many bytes, is lost.
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
