// Package node is the only place where records and rules change. It combines the records
// (internal/state), the backends that write the rules, connection tracking, the sysctl that
// lets 127.0.0.1 reach pods, and the liveness of sandboxes. docs/design.md has the steps of
// a change in "An ADD", and those of a resync in "One way to recover".
package node

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
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
	Dir     string        // the state directory
	Timeout time.Duration // bounds the wait for the lock, and each run of a backend's tool
	Log     *slog.Logger  // receives what an operator should know and the caller does not need
	// Runtime is set if the container runtime started the process: a sandbox that it
	// does not find then does not exist. A process started by an operator must first
	// be found to share the runtime's view of the node.
	Runtime bool
	// Guest and ReadOnly are those of state.Options. With ReadOnly, methods that change
	// something must not be called.
	Guest, ReadOnly bool
	// CacheDir is libcni's cache directory, "" for the one of most runtimes.
	CacheDir string
	// AdoptInto is the backend for attachments adopted from portmap, as the network
	// configuration names it; "" lets the node choose.
	AdoptInto string
}

// Choose returns the name of the backend to use: the configured one, or for ""
// iptables if its tools are installed, else nftables, which needs none. With
// kube-proxy in nftables mode it is nftables too, because iptables rules cannot
// be ordered after kube-proxy's there.
func Choose(configured string) string {
	switch {
	case configured != "":
		return configured
	case iptables.Available() != nil || nftables.KubeProxy():
		return backend.Nftables
	default:
		return backend.Iptables
	}
}

// Advise warns if the configuration names iptables, and kube-proxy is in nftables mode.
func (n *Node) Advise(configured string) {
	if configured == backend.Iptables && nftables.KubeProxy() {
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

// Validate refuses options that the backend with this name does not support.
func (n *Node) Validate(name string, o hostport.Options) error {
	b, err := n.Backend(name)
	if err != nil {
		return err
	}
	return b.Validate(o)
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
		b, _ := n.Backend(name) // which knows every name of the list
		if err := fn(name, b); err != nil {
			failed[name] = fmt.Errorf("%s of backend %s: %w", doing, name, err)
		}
	}
	return failed
}

// Connections returns how many connections the kernel has sent to each mapping since its
// rules were written, on error as far as they could be read. It takes no lock.
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

// Concerned returns the name of the backend whose rules a change of nf_tables may have
// touched, "" for neither. family is NFPROTO_*; chain is "" if none was changed. ofAdd
// reports whether a change that creates this chain, and removes nothing, is an ADD's.
func Concerned(family uint8, table, chain string) (name string, ofAdd bool) {
	switch {
	case nftables.Concerned(family, table):
		return backend.Nftables, false
	case iptables.Concerned(family, table, chain):
		return backend.Iptables, iptables.OfAdd(table, chain)
	default:
		return "", false
	}
}

// LegacyDigest hashes the tables of iptables-legacy that may hold our rules,
// without counters. It starts no process, takes no lock, loads no table, and
// returns 0 if no table is loaded. Only digests of the same seed can be compared.
func LegacyDigest(seed maphash.Seed) (uint64, error) { return iptables.LegacyDigest(seed) }

// Written returns when a record was last written, the zero Time on a node without state.
// It takes no lock.
func (n *Node) Written() time.Time { return state.Written(n.Dir) }

// Count counts a call by the runtime as VERB/RESULT, a refusal as conflict/KIND, or a
// takeover, for monitoring. A failure to count is only logged.
func (n *Node) Count(name string, took time.Duration) {
	if err := state.AddCount(n.Dir, name, took); err != nil {
		n.Log.Debug("not counted", "name", name, "reason", err)
	}
}

// Counts returns the counts by name. It takes no lock.
func (n *Node) Counts() (map[string]state.Count, error) { return state.Counts(n.Dir) }

// Refusals returns the last refusals, oldest first. It takes no lock.
func (n *Node) Refusals() ([]state.Refusal, error) { return state.Refusals(n.Dir) }
