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

// netns is a route netlink socket (rtnetlink(7)) that a child has opened in the
// guest's network namespace, which is the one that it speaks of from everywhere.
type netns struct {
	fd  int
	buf [8 << 10]byte // the kernel's messages are no longer unless asked for
}

// openNetlink is how a child opens it.
func openNetlink() request {
	return openSocket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
}

func newNetns(r result) (*netns, error) {
	if r.err != nil {
		return nil, fail("open netlink socket", r.err, "")
	}
	return &netns{fd: r.fd}, nil
}

func (n *netns) close() { unix.Close(n.fd) }

// change asks for something to be done.
func (n *netns) change(typ, flags int, parts ...nl.NetlinkRequestData) error {
	_, err := n.ask(typ, flags|unix.NLM_F_ACK, parts...)
	return err
}

// ask sends a request and returns the messages that answer it. It does not
// wait: the kernel has answered when the request is sent, and what the guest
// sends to the socket is not listened to.
func (n *netns) ask(typ, flags int, parts ...nl.NetlinkRequestData) (answers [][]byte, err error) {
	req := nl.NewNetlinkRequest(typ, flags)
	for _, p := range parts {
		req.AddData(p)
	}
	if err := unix.Sendto(n.fd, req.Serialize(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	for {
		size, from, err := unix.Recvfrom(n.fd, n.buf[:], unix.MSG_DONTWAIT)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		if sa, ok := from.(*unix.SockaddrNetlink); !ok || sa.Pid != 0 {
			continue
		}
		msgs, err := syscall.ParseNetlinkMessage(n.buf[:size])
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
func (n *netns) find(name string) (netlink.Link, error) {
	if name == "" {
		return nil, nil
	}
	answers, err := n.ask(unix.RTM_GETLINK, unix.NLM_F_ACK,
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
func (n *netns) setLink(index int, attr ...*nl.RtAttr) error {
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	if len(attr) == 0 {
		msg.Flags, msg.Change = unix.IFF_UP, unix.IFF_UP
	}
	parts := []nl.NetlinkRequestData{msg}
	for _, a := range attr {
		parts = append(parts, a)
	}
	return n.change(unix.RTM_NEWLINK, 0, parts...)
}

// family is the address family of an address in its shortest form.
func family(ip net.IP) int {
	if len(ip) == net.IPv4len {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
