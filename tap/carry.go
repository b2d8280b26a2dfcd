package tap

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Priorities of the rules of connections that leave the device. They come before all other
// rules, since they are exceptions to those that lead to the device.
const (
	carryPriority = 1
	holdPriority  = 2
	// ruleOrigin tells these rules from those of others, as the "proto" of ip-rule(8). The
	// kernel knows it since Linux 4.17, and gives the values from 4 on no meaning.
	ruleOrigin = 0xe9
)

// farewell is how long Close waits for the answer to each of the last orders.
const farewell = 50 * time.Millisecond

// Repair calls take with a TCP socket of a family in repair mode, which may be bound to
// any address: see Socket. Without transparent sockets take gets -1.
func (a *Agent) Repair(family int, take func(fd int) (kept bool)) {
	s := a.stockOf(byte(family) | orderRepair)
	if !s.transparent {
		take(-1)
		return
	}
	a.take(s, take)
}

// Hold has the guest's kernel keep what it would send on one connection: it finds no
// route. done gets the outcome, here as below, on the shard's thread. EPIPE means that the
// agent is gone, so that nothing can be undone; ENOTCONN that it was gone before a rule was
// added.
func (a *Agent) Hold(guest, outside netip.AddrPort, done func(unix.Errno)) {
	a.rule(unix.RTM_NEWRULE, ruleMessage(guest, outside, holdPriority, unix.FR_ACT_UNREACHABLE), -1, done)
}

// LetGo ends Hold.
func (a *Agent) LetGo(guest, outside netip.AddrPort, done func(unix.Errno)) {
	a.rule(unix.RTM_DELRULE, ruleMessage(guest, outside, holdPriority, unix.FR_ACT_UNREACHABLE), -1, done)
}

// Carry routes what the guest sends on a connection to the namespace itself, where fd, a
// socket from Repair, is the other end, takes fd out of repair mode, and sends a byte by it: see
// repair.Restore. With -1 it renews a rule that the guest may have removed; EEXIST: it has not.
func (a *Agent) Carry(guest, outside netip.AddrPort, fd int, done func(unix.Errno)) {
	a.rule(unix.RTM_NEWRULE, ruleMessage(guest, outside, carryPriority, unix.FR_ACT_TO_TBL), fd, done)
}

// Drop ends Carry, once its socket has been closed or needs no more segments. A socket fd that
// has not been used, unless it is -1, goes back into repair mode: it says nothing when it is
// closed.
func (a *Agent) Drop(guest, outside netip.AddrPort, fd int, done func(unix.Errno)) {
	a.rule(unix.RTM_DELRULE, ruleMessage(guest, outside, carryPriority, unix.FR_ACT_TO_TBL), fd, done)
}

// DropHolds removes what a predecessor has held back and not released, because it was killed.
func (a *Agent) DropHolds() {
	for _, family := range [...]int{unix.AF_INET, unix.AF_INET6} {
		a.dropHolds(family, maxLeftRules)
	}
}

// dropHolds removes one after the other, at most so many.
func (a *Agent) dropHolds(family, most int) {
	a.rule(unix.RTM_DELRULE, leftRule(family, holdPriority), -1, func(errno unix.Errno) {
		if errno == 0 && most > 0 {
			a.dropHolds(family, most-1)
		}
	})
}

// leftRule is any rule of a priority that was ours.
func leftRule(family int, priority uint32) []nl.NetlinkRequestData {
	rule := nl.NewRtMsg()
	rule.Family, rule.Table, rule.Type = uint8(family), unix.RT_TABLE_UNSPEC, unix.FR_ACT_UNSPEC
	return []nl.NetlinkRequestData{
		rule, nl.NewRtAttr(nl.FRA_PRIORITY, nl.Uint32Attr(priority)), nl.NewRtAttr(unix.FRA_PROTOCOL, []byte{ruleOrigin}),
	}
}

// unsent is an order that there was no room for.
type unsent struct {
	order []byte
	done  func(unix.Errno)
}

// rule orders a change of rules. An agent that has been stopped takes a limited number of
// orders. Beyond that no rule is added, and those that remove one wait, since nobody else
// would; there are no more of them than rules.
func (a *Agent) rule(typ uint16, parts []nl.NetlinkRequestData, fd int, done func(unix.Errno)) {
	switch {
	case a.sock >= 0:
	case typ == unix.RTM_NEWRULE:
		done(unix.ENOTCONN)
		return
	default:
		done(unix.EPIPE)
		return
	}
	flags := unix.NLM_F_ACK
	if typ == unix.RTM_NEWRULE {
		flags |= unix.NLM_F_CREATE | unix.NLM_F_EXCL
	}
	req := nl.NewNetlinkRequest(int(typ), flags)
	for _, p := range parts {
		req.AddData(p)
	}
	order := append([]byte{orderRule, 0, a.tag[0], a.tag[1]}, req.Serialize()...)
	var rights []byte
	if fd >= 0 {
		rights = unix.UnixRights(fd)
	}
	switch {
	case len(a.unsent) == 0 && a.send(order, rights, done):
	case typ == unix.RTM_DELRULE && fd < 0:
		a.unsent = append(a.unsent, unsent{order, done})
	default:
		done(unix.EAGAIN)
	}
}

// send sends an order about a rule, and reports whether there was room for it. An agent that is
// gone is reported by an event.
func (a *Agent) send(order, rights []byte, done func(unix.Errno)) bool {
	if unix.Sendmsg(a.sock, order, rights, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT) != nil {
		return false
	}
	a.changes = append(a.changes, done)
	return true
}

// sendRest sends the orders that there was no room for, as far as there is now.
func (a *Agent) sendRest() {
	for len(a.unsent) > 0 && a.send(a.unsent[0].order, nil, a.unsent[0].done) {
		a.unsent[0] = unsent{}
		a.unsent = a.unsent[1:]
	}
}

// changed passes on the agent's answer to the oldest order about a rule.
func (a *Agent) changed(msg []byte) {
	if len(a.changes) == 0 {
		return
	}
	done := a.changes[0]
	a.changes[0] = nil // it holds its connection
	a.changes = a.changes[1:]
	done(unix.Errno(binary.LittleEndian.Uint16(msg[4:])))
}

// finishChanges waits briefly until the changes under way have been made. Other answers of
// the agent are discarded.
func (a *Agent) finishChanges() {
	for len(a.changes) > 0 {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(a.sock), Events: unix.POLLIN}}, int(farewell.Milliseconds()))
		if err == unix.EINTR {
			continue
		}
		if n <= 0 {
			return
		}
		msg, fds, err := receiveMessage(a.sock, reportLen, maxSockets, unix.MSG_DONTWAIT)
		closeAll(fds)
		if err != nil || len(msg) != reportLen {
			return
		}
		if [2]byte(msg[2:4]) == a.tag && msg[1] == orderRule {
			a.changes = a.changes[1:]
			a.sendRest()
		}
	}
}

// abandonChanges reports to all callbacks that the agent is gone.
func (a *Agent) abandonChanges() {
	waiting, rest := a.changes, a.unsent
	a.changes, a.unsent = nil, nil
	for _, done := range waiting {
		done(unix.EPIPE)
	}
	for _, u := range rest {
		u.done(unix.EPIPE)
	}
}

// ruleMessage is a rule for what the guest sends on one connection.
func ruleMessage(guest, outside netip.AddrPort, priority uint32, action uint8) []nl.NetlinkRequestData {
	src, dst := guest.Addr().AsSlice(), outside.Addr().AsSlice()
	rule := nl.NewRtMsg()
	rule.Family, rule.Table, rule.Type = uint8(family(src)), unix.RT_TABLE_UNSPEC, action
	rule.Src_len, rule.Dst_len = uint8(guest.Addr().BitLen()), uint8(outside.Addr().BitLen())
	parts := []nl.NetlinkRequestData{rule, nl.NewRtAttr(nl.FRA_SRC, src), nl.NewRtAttr(nl.FRA_DST, dst),
		nl.NewRtAttr(nl.FRA_PRIORITY, nl.Uint32Attr(priority)), nl.NewRtAttr(nl.FRA_IP_PROTO, []byte{unix.IPPROTO_TCP}), nl.NewRtAttr(unix.FRA_PROTOCOL, []byte{ruleOrigin}),
		nl.NewRtAttr(nl.FRA_SPORT_RANGE, portRange(guest.Port())), nl.NewRtAttr(nl.FRA_DPORT_RANGE, portRange(outside.Port()))}
	if action == unix.FR_ACT_TO_TBL {
		parts = append(parts, nl.NewRtAttr(nl.FRA_TABLE, nl.Uint32Attr(directTable)))
	}
	return parts
}

// portRange is struct fib_rule_port_range of one port.
func portRange(port uint16) []byte {
	return binary.NativeEndian.AppendUint16(binary.NativeEndian.AppendUint16(nil, port), port)
}
