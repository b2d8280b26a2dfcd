package network

import (
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
)

// envFake says how the fake worker behaves.
const envFake = "EPIPHYTE_TEST_FAKE_WORKER"

func TestMain(m *testing.M) {
	if IsWorker() {
		os.Exit(fakeWorker(os.Getenv(envFake)))
	}
	if path := os.Getenv(envImpostor); path != "" {
		os.Exit(impostor(path))
	}
	os.Exit(m.Run())
}

// Requests that the fake worker knows besides those of clients.
const (
	opDie      operation = "die"
	opEmptyNow operation = "empty now"
)

// fakeWorker is a worker without a network: it takes what the keeper and clients send, and
// keeps members. To a member from before it writes that it is one again, by the descriptor
// that stands for its TAP.
func fakeWorker(how string) int {
	control, err := connOf(controlFD)
	if err != nil {
		return 2
	}
	if how == "exits" {
		return 0
	}
	i := Info{Worker: os.Getpid(), Keeper: os.Getppid(), Members: []Member{}}
	for serving := false; !serving; {
		var o order
		fds, err := receive(control, &o)
		if err != nil {
			return 2
		}
		switch o.Op {
		case opStart:
			i.Definition = *o.Definition
		case opKeep:
			i.Members = append(i.Members, *o.Member)
			fmt.Fprintf(os.NewFile(uintptr(fds[0]), "tap"), "%s again\n", o.Member.Name)
		case opServe:
			serving = true
		}
	}
	if how == "fails" {
		send(control, order{Op: opFailed, Text: "no network today"})
		return 1
	}
	file := os.NewFile(listenerFD, "listener")
	l, err := net.FileListener(file)
	if err != nil {
		return 2
	}
	if send(control, order{Op: opReady}) != nil {
		return 2
	}
	for {
		c, err := l.(*net.UnixListener).AcceptUnix()
		if err != nil {
			return 2
		}
		if code, end := fakeServe(c, control, &i); end {
			return code
		}
	}
}

// fakeServe answers one client until it has gone.
func fakeServe(c, control *net.UnixConn, i *Info) (code int, end bool) {
	defer c.Close()
	for {
		var r request
		fds, err := receive(c, &r)
		if err != nil {
			return 0, false
		}
		answer := reply{Info: i, Members: i.Members}
		switch r.Op {
		case opJoin:
			i.Members = append(i.Members, *r.Member)
			answer.Member = r.Member
			err = send(control, order{Op: opKeep, Member: r.Member, Roles: r.Roles}, fds...)
		case opLeave:
			i.Members = nil
			err = send(control, order{Op: opDrop, ID: r.Who})
		case opUpgrade:
			err = send(control, order{Op: opUpgrade, Text: r.Program})
		case opStop:
			err = send(control, order{Op: opStop})
		case opEmptyNow:
			send(control, order{Op: opEmpty})
			return 0, true
		case opDie:
			return 3, true
		}
		closeAll(fds)
		if err = errors.Join(err, send(c, answer)); err != nil {
			return 2, true
		}
	}
}
