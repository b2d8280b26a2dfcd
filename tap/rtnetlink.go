package tap

import (
	"encoding/binary"
	"errors"
	"net"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// rtnetlinkConn is an rtnetlink(7) socket that a child has opened in the guest's
// network namespace, of which it speaks wherever it is used.
type rtnetlinkConn struct {
	fd  int
	buf [8 << 10]byte // the kernel's messages are no longer unless asked for
}

// openRtnetlink is how a child opens it.
func openRtnetlink() request {
	return openSocket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
}

func newRtnetlinkConn(r result) (*rtnetlinkConn, error) {
	if r.err != nil {
		return nil, fail("open netlink socket", r.err, "")
	}
	return &rtnetlinkConn{fd: r.fd}, nil
}

func (c *rtnetlinkConn) close() { unix.Close(c.fd) }

// change asks for something to be done.
func (c *rtnetlinkConn) change(typ, flags int, parts ...nl.NetlinkRequestData) error {
	_, err := c.ask(typ, flags|unix.NLM_F_ACK, parts...)
	return err
}

// ask sends a request and returns the messages that answer it. It does not wait:
// the kernel has answered when sendto returns. What others send to the socket is
// not listened to.
func (c *rtnetlinkConn) ask(typ, flags int, parts ...nl.NetlinkRequestData) (answers [][]byte, err error) {
	req := nl.NewNetlinkRequest(typ, flags)
	for _, p := range parts {
		req.AddData(p)
	}
	if err := unix.Sendto(c.fd, req.Serialize(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	for {
		size, from, err := unix.Recvfrom(c.fd, c.buf[:], unix.MSG_DONTWAIT)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		if sa, ok := from.(*unix.SockaddrNetlink); !ok || sa.Pid != 0 {
			continue
		}
		msgs, err := syscall.ParseNetlinkMessage(c.buf[:size])
		if err != nil {
			return nil, err
		}
		for _, m := range msgs {
			switch {
			case m.Header.Seq != req.Seq:
			case m.Header.Type == unix.NLMSG_DONE:
				return answers, nil
			case m.Header.Type != unix.NLMSG_ERROR:
				answers = append(answers, append([]byte(nil), m.Data...))
			case len(m.Data) < 4:
				return nil, unix.EBADMSG
			default: // an acknowledgement is error 0
				if errno := -int32(binary.NativeEndian.Uint32(m.Data)); errno != 0 {
					return nil, unix.Errno(errno)
				}
				return answers, nil
			}
		}
	}
}

// find returns the named interface, nil when there is none.
func (c *rtnetlinkConn) find(name string) (netlink.Link, error) {
	if name == "" {
		return nil, nil
	}
	answers, err := c.ask(unix.RTM_GETLINK, unix.NLM_F_ACK,
		nl.NewIfInfomsg(unix.AF_UNSPEC), nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	if err == unix.ENODEV {
		return nil, nil
	}
	var link netlink.Link
	if err == nil && len(answers) == 0 {
		err = errors.New("the kernel gave no answer")
	}
	if err == nil {
		link, err = netlink.LinkDeserialize(nil, answers[0])
	}
	if err != nil {
		return nil, fail("look up interface "+name, err, "")
	}
	return link, nil
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
	return c.change(unix.RTM_NEWLINK, 0, parts...)
}

// family is the address family of an address in its shortest form.
func family(ip net.IP) int {
	if len(ip) == net.IPv4len {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
