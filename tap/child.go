package tap

import (
	"encoding/json"
	"os"

	"golang.org/x/sys/unix"
)

// childName is argv[0] of the re-executed role.
const childName = "epiphyte-tap"

// maxMessage bounds a message between parent and child, in bytes.
const maxMessage = 4096

// childEnv is the whole environment of the child, which lives for milliseconds:
// one processor, no garbage collection, and no second of waiting at the exit,
// as programs built with the race detector do.
func childEnv() []string {
	return []string{"GOMAXPROCS=1", "GOGC=off", "GORACE=atexit_sleep_ms=0"}
}

// request is what the child is asked to do.
type request struct {
	Name      string   `json:"name"`
	Configure *Network `json:"configure,omitempty"`
	NoOffload bool     `json:"noOffload,omitempty"`
	Policy    *policy  `json:"policy,omitempty"` // instead of a device
	Listen    []string `json:"listen,omitempty"` // likewise: address and port of each
}

// capability is the one that the request takes.
func (r *request) capability() uintptr {
	if r.Listen != nil {
		return unix.CAP_NET_BIND_SERVICE
	}
	return unix.CAP_NET_ADMIN
}

// reply is what the child found, or why it failed. The descriptor travels
// beside it.
type reply struct {
	Name     string `json:"name"`
	VNetHdr  bool   `json:"vnetHdr"`
	Offload  bool   `json:"offload"`
	USO      bool   `json:"uso"`
	Existing bool   `json:"existing"`          // made by somebody else, and outlives us
	Marked4  bool   `json:"marked4,omitempty"` // the policy holds for IPv4
	Marked6  bool   `json:"marked6,omitempty"` // the policy holds for IPv6
	Fault    *fault `json:"fault,omitempty"`
}

// IsChild reports whether this process was started as the child of Open. main
// must ask first, before it looks at flags or builds anything.
func IsChild() bool {
	return len(os.Args) > 0 && os.Args[0] == childName
}

// ChildMain is the child's main function: it takes one request from its parent,
// answers it, and returns the exit status.
func ChildMain() int {
	unix.CloseOnExec(childSocket)
	buf := make([]byte, maxMessage)
	n, err := unix.Read(childSocket, buf)
	if err != nil {
		return 2
	}
	var req request
	if err := json.Unmarshal(buf[:n], &req); err != nil {
		return answer(&reply{Fault: fail("decode request", err, "")}, nil)
	}
	rep, fds, err := perform(req)
	if err != nil {
		return answer(&reply{Fault: asFault("make TAP", err)}, nil)
	}
	return answer(rep, fds)
}

// perform does what is asked for. The descriptors are left open: the process
// ends soon.
func perform(req request) (*reply, []int, error) {
	if req.Listen != nil {
		fds, err := listenAll(req.Listen)
		return &reply{}, fds, err
	}
	nl, err := newNetlink()
	if err != nil {
		return nil, nil, err
	}
	if req.Policy != nil {
		return nl.routeMarked(*req.Policy), nil, nil
	}
	rep, fd, err := nl.device(req.Name, !req.NoOffload)
	if err != nil {
		return nil, nil, err
	}
	if req.Configure != nil {
		if err := nl.configure(rep.Name, *req.Configure); err != nil {
			return nil, nil, err
		}
	}
	return rep, []int{fd}, nil
}

func answer(rep *reply, fds []int) int {
	msg, err := json.Marshal(rep)
	if err != nil || len(msg) > maxMessage {
		return 2
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if err := unix.Sendmsg(childSocket, msg, rights, nil, unix.MSG_NOSIGNAL); err != nil {
		return 2
	}
	if rep.Fault != nil {
		return 1
	}
	return 0
}
