package podports

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"
)

// Ask asks the agent for the host ports of a pod and returns them as they would
// stand in runtimeConfig.portMappings: a list, or nothing. Any error means that
// the ports are not known now. It takes no longer than Timeout.
func Ask(ctx context.Context, socket string, r Request) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	conn, err := dial(ctx, socket)
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

// Ping reports why nobody would answer.
func Ping(ctx context.Context, socket string) error {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	conn, err := dial(ctx, socket)
	if err != nil {
		return err
	}
	return conn.Close()
}

func dial(ctx context.Context, socket string) (*net.UnixConn, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("the agent is not there: %w", err)
	}
	unix, ok := conn.(*net.UnixConn)
	if !ok {
		err = errors.New("not a Unix socket")
	} else {
		err = trusted(unix)
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("%s: %w", socket, err)
	}
	return unix, nil
}
