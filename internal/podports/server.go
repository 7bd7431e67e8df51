package podports

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

const (
	// lookupTime is how long a source may take, so that its reason arrives
	// before the plugin gives up.
	lookupTime = Timeout - 500*time.Millisecond
	// maxConnections is how many connections are served at once; others wait in
	// the socket's queue.
	maxConnections = 64
	// restTime is the pause after a connection could not be accepted.
	restTime = 50 * time.Millisecond
)

// Source provides the host ports of the node's pods.
type Source interface {
	// Mappings returns the host ports of a pod, none for a pod in the node's own
	// network namespace. It may wait until ctx is done for a pod that it does not
	// know yet; its error is passed on to the plugin's caller.
	Mappings(ctx context.Context, r Request) ([]Mapping, error)
}

// Serve answers on the socket of a state directory until ctx is done. It fails
// if another process serves the socket, and replaces a stale one.
func Serve(ctx context.Context, dataDir string, source Source, log *slog.Logger) error {
	l, err := listen(dataDir)
	if err != nil {
		return err
	}
	defer l.Close() // it also removes the file
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	var all sync.WaitGroup
	defer all.Wait()
	slots := make(chan struct{}, maxConnections)
	for {
		slots <- struct{}{}
		conn, err := l.AcceptUnix()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept: %w", err)
		case err != nil: // for example, out of descriptors
			log.Warn("a question of the plugin could not be accepted", "reason", err)
			<-slots
			select {
			case <-ctx.Done():
			case <-time.After(restTime):
			}
			continue
		}
		all.Go(func() {
			defer func() { <-slots }()
			defer conn.Close()
			if err := serve(ctx, conn, source); err != nil {
				log.Warn("a question of the plugin could not be answered", "reason", err)
			}
		})
	}
}

// listen creates the directory, closed to other users, and the socket in it.
func listen(dataDir string) (*net.UnixListener, error) {
	if err := os.MkdirAll(dataDir, 0o700); err != nil {
		return nil, fmt.Errorf("create directory of the agent's socket: %w", err)
	}
	info, err := os.Stat(dataDir)
	if err != nil {
		return nil, err
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; int(owner) != os.Geteuid() || info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("directory %s belongs to user %d with mode %v: want the agent's own and 0700", dataDir, owner, info.Mode().Perm())
	}
	path := filepath.Join(dataDir, socketName)
	if err := Ping(path); err == nil {
		return nil, fmt.Errorf("another agent serves %s", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove the socket of an earlier agent: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for the plugin: %w", err)
	}
	return l, nil
}

func serve(ctx context.Context, conn *net.UnixConn, source Source) error {
	var r Request
	if err := errors.Join(conn.SetDeadline(time.Now().Add(Timeout)), trusted(conn)); err != nil {
		return err
	}
	switch err := receive(conn, maxRequest, &r); {
	case errors.Is(err, io.EOF): // a Ping
		return nil
	case err != nil:
		return fmt.Errorf("read the question: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	mappings, err := source.Mappings(ctx, r)
	if err != nil {
		return send(conn, answer{Error: err.Error()})
	}
	if len(mappings) == 0 {
		return send(conn, answer{})
	}
	list, err := json.Marshal(mappings)
	if err != nil {
		return err
	}
	return send(conn, answer{Mappings: list})
}
