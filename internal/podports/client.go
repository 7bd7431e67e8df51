package podports

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"time"
)

// Ask asks the agent for the host ports of a pod and returns them in the form
// of runtimeConfig.portMappings: a list, or nil. Any error means that the ports
// are currently unknown. It takes no longer than Timeout.
func Ask(ctx context.Context, socket string, r Request) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	conn, err := dial(socket)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	var got answer
	if err = conn.SetDeadline(deadline); err == nil {
		err = send(conn, r)
	}
	if err == nil {
		err = receive(conn, maxAnswer, &got)
	}
	switch {
	case err != nil && !time.Now().Before(deadline):
		return nil, fmt.Errorf("the agent did not answer within %v", Timeout)
	case err != nil:
		return nil, fmt.Errorf("ask the agent at %s: %w", socket, err)
	case got.Error != "":
		return nil, fmt.Errorf("the agent says: %s", got.Error)
	default:
		return got.Mappings, nil
	}
}

// Ping returns an error if no agent would answer.
func Ping(socket string) error {
	conn, err := dial(socket)
	if err != nil {
		return err
	}
	return conn.Close()
}

// dial connects without waiting: the kernel refuses at once if no process
// listens, or the queue is full. A net.Dialer would link the resolver into the
// plugin.
func dial(socket string) (*net.UnixConn, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("the agent is not there: %w", err)
	}
	if err := trusted(conn); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("%s: %w", socket, err)
	}
	return conn, nil
}
