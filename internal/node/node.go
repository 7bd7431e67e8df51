package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/iptables"
	"github.com/hostport-cni/hostport/internal/nftables"
	"github.com/hostport-cni/hostport/internal/state"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Node changes the node in whose network namespace the process runs.
type Node struct {
	// Dir is the state directory.
	Dir string
	// Timeout bounds the wait for the lock, and each run of a backend's tool.
	Timeout time.Duration
	// Log receives what an operator should know and the caller does not need.
	Log *slog.Logger
	// Runtime is set if the container runtime started the process: a sandbox that it
	// does not find then does not exist. A process started by an operator must first
	// be found to share the runtime's view of the node.
	Runtime bool
	// Guest is set by any program but the plugin, whose version may differ: a state
	// that the plugin has yet to convert is left as it is.
	Guest bool
	// ReadOnly is set by a guest that only reads: it must not call methods that change
	// something. Records of another version are read as they are, see Snapshot.Other.
	ReadOnly bool
	// CacheDir is libcni's cache directory; "" is portmap.DefaultCacheDir.
	CacheDir string
	// AdoptInto is the backend for attachments adopted from portmap, as the network
	// configuration names it; "" lets the node choose.
	AdoptInto string
}

// Choose returns the name of the backend to use: the configured one, or for ""
// iptables if its tools are installed, else nftables, which needs none. With
// kube-proxy in nftables mode it is nftables too, because iptables rules cannot
// be ordered after kube-proxy's there.
func (n *Node) Choose(configured string) string {
	switch {
	case configured != "":
		return configured
	case iptables.Available() != nil || nftables.KubeProxy():
		return backend.Nftables
	default:
		return backend.Iptables
	}
}

// AdviseOnIptables warns if kube-proxy is in nftables mode. It is called if the
// configuration names iptables.
func (n *Node) AdviseOnIptables() {
	if nftables.KubeProxy() {
		n.Log.Warn("kube-proxy is in nftables mode: use the nftables backend, or a host port may win over a Service of the same number", "backend", backend.Iptables)
	}
}

// Backend returns the backend with this name.
func (n *Node) Backend(name string) (backend.Backend, error) {
	switch name {
	case backend.Iptables:
		return &iptables.Backend{Wait: n.Timeout, Log: n.Log}, nil
	case backend.Nftables:
		return &nftables.Backend{Log: n.Log}, nil
	default:
		return nil, fmt.Errorf("unknown backend %q", name)
	}
}

// failures are errors keyed by backend name.
type failures map[string]error

func (f failures) join() error { return errors.Join(slices.Collect(maps.Values(f))...) }

// families returns the families that a backend's failure may concern.
func (f failures) families(name string) []hostport.Family {
	return slices.DeleteFunc(hostport.Families(), func(family hostport.Family) bool { return !backend.Concerns(f[name], family) })
}

// eachBackend calls fn for every backend, and returns the errors.
func (n *Node) eachBackend(doing string, fn func(name string, b backend.Backend) error) failures {
	failed := make(failures)
	for _, name := range backend.Names() {
		b, err := n.Backend(name)
		if err == nil {
			err = fn(name, b)
		}
		if err != nil {
			failed[name] = fmt.Errorf("%s of backend %s: %w", doing, name, err)
		}
	}
	return failed
}

// Connections returns how many connections the kernel has sent to each mapping
// since its rules were written. On error it still returns what could be read. It
// takes no lock.
func (n *Node) Connections(ctx context.Context) (backend.Connections, error) {
	all := make(backend.Connections)
	failed := n.eachBackend("read the counters", func(_ string, b backend.Backend) error {
		found, err := b.Connections(ctx)
		for side, number := range found {
			all[side] += number
		}
		if errors.Is(err, backend.ErrMissing) {
			return nil
		}
		return err
	})
	return all, failed.join()
}

// Busy reports whether an error means that other processes were still changing
// the node at the timeout.
func Busy(err error) bool {
	return errors.Is(err, state.ErrLocked) || errors.Is(err, backend.ErrBusy)
}

// Other reports whether an error means that a guest found a state that the plugin
// has yet to convert or replace.
func Other(err error) bool {
	return errors.As(err, new(*state.OtherError)) || errors.Is(err, state.ErrDamaged)
}
