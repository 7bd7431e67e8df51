package podports

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Timeout bounds a request with its answer.
const Timeout = 2 * time.Second

const (
	socketName = "agent.sock"

	// maxRequest and maxAnswer bound messages. A name has at most 253 characters,
	// a mapping about 100, and the API server accepts pods of a megabyte.
	maxRequest = 4 << 10
	maxAnswer  = 1 << 20
)

// Socket returns the path of the agent's socket in a state directory.
func Socket(dataDir string) string { return filepath.Join(dataDir, socketName) }

// Request names a pod.
type Request struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// UID is the API server's, or the kubelet's for a static pod. "" matches any
	// pod of that name.
	UID string `json:"uid,omitempty"`
}

// String returns "namespace/name".
func (r Request) String() string { return r.Namespace + "/" + r.Name }

// Mapping is a host port of a pod, written as CNI's portMappings are.
type Mapping struct {
	HostPort      int32  `json:"hostPort"`
	ContainerPort int32  `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP,omitempty"`
}

// answer holds mappings, or the reason why there are none.
type answer struct {
	Mappings json.RawMessage `json:"portMappings,omitempty"`
	Error    string          `json:"error,omitempty"`
}

var errTooLong = errors.New("message is too long")

// receive reads one message.
func receive(r io.Reader, limit int64, to any) error {
	bounded := &io.LimitedReader{R: r, N: limit}
	err := json.NewDecoder(bounded).Decode(to)
	if err != nil && bounded.N == 0 {
		return errTooLong
	}
	return err
}

// send writes one message.
func send(w io.Writer, message any) error {
	b, err := json.Marshal(message)
	if err != nil {
		return err
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

// trusted returns an error for a peer that is neither root nor this process's
// own user.
func trusted(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var peer *syscall.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) {
		peer, failed = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); err != nil {
		return err
	}
	if failed != nil {
		return fmt.Errorf("ask who the peer is: %w", failed)
	}
	if peer.Uid != 0 && int(peer.Uid) != os.Geteuid() {
		return fmt.Errorf("the peer is user %d (process %d), which is not trusted", peer.Uid, peer.Pid)
	}
	return nil
}
