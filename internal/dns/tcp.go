package dns

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

var errOtherQuestion = errors.New("answer to another question")

// sendTCP has a goroutine ask the nameserver over a connection of its own, and post
// the outcome to the shard. The goroutine ends with the attempt's cancel, or at the
// exchange's deadline.
func (r *Resolver) sendTCP(a *attempt) {
	ctx, cancel := context.WithTimeout(r.ctx, a.x.deadline-r.shard.Now())
	a.cancel = cancel
	r.running.Go(func() {
		defer cancel()
		m, err := r.exchangeTCP(ctx, a.srv.addr, a.x.query)
		r.shard.Post(&outcome{a, m, err})
	})
}

// outcome is the result of an attempt over TCP, on its way to the shard.
type outcome struct {
	a   *attempt
	m   []byte
	err error
}

// Run implements shard.Task.
func (o *outcome) Run() {
	a := o.a
	switch {
	case o.err == nil:
		a.x.answered(a, o.m)
	case a.x.done && !a.probe: // it was cancelled
	default:
		a.x.r.demote(a.srv, tcp, o.err.Error())
		a.x.failed(a)
	}
}

// exchangeTCP connects to a nameserver from the configured source, sends the
// query and reads the answer. It runs on a goroutine of its own.
func (r *Resolver) exchangeTCP(ctx context.Context, addr netip.AddrPort, query []byte) ([]byte, error) {
	addr, err := numbered(addr)
	if err != nil {
		return nil, err
	}
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		var errno unix.Errno
		err := c.Control(func(fd uintptr) { errno = r.cfg.Source.Bind(int(fd), addr.Addr()) })
		if errno != 0 {
			return fmt.Errorf("bind: %w", errno)
		}
		return err
	}}
	conn, err := d.DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	return converse(conn, query)
}

// converse sends the query and reads the answer.
func converse(conn io.ReadWriter, query []byte) ([]byte, error) {
	if _, err := conn.Write(frame(query)); err != nil {
		return nil, err
	}
	m, err := readMessage(bufio.NewReader(conn))
	if err != nil {
		return nil, err
	}
	if !answers(m, query) || !bytes.Equal(m[:2], query[:2]) {
		return nil, errOtherQuestion
	}
	return m, nil
}

// numbered replaces the name of a zone by its index. Package net would look the name
// up by a netlink socket, which the program's sandbox refuses.
func numbered(addr netip.AddrPort) (netip.AddrPort, error) {
	if addr.Addr().Zone() == "" {
		return addr, nil
	}
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return addr, fmt.Errorf("find zone of %v: %w", addr, err)
	}
	defer unix.Close(fd)
	index, err := interfaceIndex(fd, addr.Addr().Zone())
	if err != nil {
		return addr, fmt.Errorf("find zone of %v: %w", addr, err)
	}
	return netip.AddrPortFrom(addr.Addr().WithZone(strconv.FormatUint(uint64(index), 10)), addr.Port()), nil
}

// frame returns a message with its length before it (RFC 1035, section 4.2.2), to
// be written at once, as RFC 7766, section 8 asks.
func frame(m []byte) []byte {
	return append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(m)), uint16(len(m))), m...)
}

// readMessage reads one message with its length before it. It allocates only for
// bytes that have arrived.
func readMessage(in io.Reader) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(in, length[:]); err != nil {
		return nil, err
	}
	var m bytes.Buffer
	if _, err := io.CopyN(&m, in, int64(binary.BigEndian.Uint16(length[:]))); err != nil {
		return nil, err
	}
	return m.Bytes(), nil
}
