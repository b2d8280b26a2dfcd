package names

import "container/list"

// maxFormer bounds the former names remembered: names of 253 bytes take 1 MiB, and their
// bookkeeping as much again.
const maxFormer = 4096

// former remembers the full names that members gave up, even if others have them
// now. Beyond maxFormer the one given up longest ago is forgotten. The zero value is
// empty.
type former struct {
	byName map[string]*list.Element
	order  list.List // of names, the oldest first
}

func (f *former) add(name string) {
	if e, ok := f.byName[name]; ok {
		f.order.MoveToBack(e)
		return
	}
	if f.byName == nil {
		f.byName = make(map[string]*list.Element)
	}
	f.byName[name] = f.order.PushBack(name)
	if f.order.Len() > maxFormer {
		delete(f.byName, f.order.Remove(f.order.Front()).(string))
	}
}

func (f *former) has(name []byte) bool {
	_, ok := f.byName[string(name)]
	return ok
}
