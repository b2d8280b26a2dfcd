package tap

import (
	"errors"
	"net"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"epiphyte/internal/rtnetlink"
)

// rtnetlinkConn is a socket that a child has opened in the guest's network namespace.
type rtnetlinkConn struct{ rtnetlink.Conn }

// openRtnetlink is how a child opens it.
func openRtnetlink() request {
	return openSocket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
}

func newRtnetlinkConn(r result) (*rtnetlinkConn, error) {
	if r.err != nil {
		return nil, fail("open netlink socket", r.err, "")
	}
	return &rtnetlinkConn{rtnetlink.Conn{FD: r.fd}}, nil
}

// find returns the named interface, nil when there is none.
func (c *rtnetlinkConn) find(name string) (netlink.Link, error) {
	answer, err := c.lookUp(name)
	if err != nil || answer == nil {
		return nil, err
	}
	link, err := netlink.LinkDeserialize(nil, answer)
	if err != nil {
		return nil, fail("look up interface "+name, err, "")
	}
	return link, nil
}

// index returns the named interface's index, 0 when there is none.
func (c *rtnetlinkConn) index(name string) (int, error) {
	answer, err := c.lookUp(name)
	if err != nil || answer == nil {
		return 0, err
	}
	return int(nl.DeserializeIfInfomsg(answer).Index), nil
}

// lookUp asks for the named interface; nil when there is none.
func (c *rtnetlinkConn) lookUp(name string) (answer []byte, err error) {
	if name == "" {
		return nil, nil
	}
	answers, err := c.Ask(unix.RTM_GETLINK, unix.NLM_F_ACK,
		nl.NewIfInfomsg(unix.AF_UNSPEC), nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	if err == unix.ENODEV {
		return nil, nil
	}
	if err == nil && (len(answers) == 0 || len(answers[0]) < unix.SizeofIfInfomsg) {
		err = errors.New("the kernel gave no answer")
	}
	if err != nil {
		return nil, fail("look up interface "+name, err, "")
	}
	return answers[0], nil
}

// setLink changes an attribute of an interface, or with none brings it up.
func (c *rtnetlinkConn) setLink(index int, attr ...*nl.RtAttr) error {
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	if len(attr) == 0 {
		msg.Flags, msg.Change = unix.IFF_UP, unix.IFF_UP
	}
	parts := []nl.NetlinkRequestData{msg}
	for _, a := range attr {
		parts = append(parts, a)
	}
	return c.Change(unix.RTM_NEWLINK, 0, parts...)
}

// family is the address family of an address in its shortest form.
func family(ip net.IP) int {
	if len(ip) == net.IPv4len {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
