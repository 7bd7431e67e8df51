package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/hostport-cni/hostport/internal/iptables"
	"github.com/hostport-cni/hostport/internal/nftables"
	"github.com/hostport-cni/hostport/internal/state"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// The backends by name, as records and the configuration have them.
const (
	Iptables = "iptables"
	Nftables = "nftables"
)

// Node changes the node in whose network namespace the process runs.
type Node struct {
	// Dir is the state directory.
	Dir string
	// Timeout bounds the wait for the lock, and each run of a backend's tool.
	Timeout time.Duration
	// Log gets what an operator should know and the caller need not.
	Log *slog.Logger
	// BootID reads the identity of the running kernel; nil reads the kernel's
	// own.
	BootID func() (string, error)
}

// Choose is the name of the backend for what the configuration says: "" is
// iptables where its tools are there, else nftables, which needs none. Beside
// kube-proxy in nftables mode it is nftables too, because rules of iptables
// cannot be told to come after kube-proxy's there.
func (n *Node) Choose(ctx context.Context, configured string) string {
	if configured != "" {
		return configured
	}
	if iptables.Available() != nil || n.besideKubeProxy(ctx) {
		return Nftables
	}
	return Iptables
}

// Backend returns the backend of a name, for questions about the node.
func (n *Node) Backend(name string) (Backend, error) { return n.newBackend(name, nil) }

// newBackend returns one that keeps what it needs to know in m.
func (n *Node) newBackend(name string, m hostport.Memory) (Backend, error) {
	switch name {
	case Iptables:
		return iptables.New(n.Timeout, m), nil
	case Nftables:
		return nftables.New(nftables.WithMemory(m)), nil
	default:
		return nil, fmt.Errorf("unknown backend %q", name)
	}
}

// kubeProxyAdvice is what to do where a Service's NodePort and a host port may
// be the same number, and it is not certain who wins.
const kubeProxyAdvice = "kube-proxy is in nftables mode: use the nftables backend, " +
	"or a host port may win over a Service of the same number"

// warnBesideKubeProxy warns about a backend that cannot give way to Services.
func (n *Node) warnBesideKubeProxy(ctx context.Context, backend string) {
	if backend == Iptables && n.besideKubeProxy(ctx) {
		n.Log.Warn(kubeProxyAdvice, "backend", backend)
	}
}

func (n *Node) besideKubeProxy(ctx context.Context) bool {
	found, err := nftables.New().KubeProxy(ctx)
	if err != nil {
		n.Log.Debug("kube-proxy's nftables mode could not be looked for", "reason", err)
	}
	return found
}

// session is the opened state with the backends that were needed so far.
type session struct {
	*Node
	*state.Store
	backends map[string]Backend
	// words are what they remembered in this session.
	words map[string]string
}

// open takes the lock and makes state and kernel agree if an earlier process
// died in the middle of a change or the state was lost. preferred names the
// backend to ask when there is no state yet.
func (n *Node) open(ctx context.Context, preferred string) (*session, error) {
	boot, err := n.bootID()
	if err != nil {
		return nil, fmt.Errorf("identify this boot: %w", err)
	}
	st, err := state.Open(ctx, state.Options{Dir: n.Dir, Timeout: n.Timeout, BootID: boot})
	if err != nil {
		return nil, err
	}
	s := &session{Node: n, Store: st, backends: map[string]Backend{}, words: map[string]string{}}
	err = s.settle(ctx, preferred)
	if errors.Is(err, state.ErrDamaged) {
		err = s.replace(ctx, preferred, err)
	}
	if err != nil {
		return nil, errors.Join(err, st.Close())
	}
	return s, nil
}

// replace starts a new state file in the place of one that turned out to be
// damaged, and reads the records back from the kernel.
func (s *session) replace(ctx context.Context, preferred string, reason error) error {
	s.Log.Warn("state file is damaged and is rebuilt from the kernel", "reason", reason)
	if err := s.Rebuild(); err != nil {
		return err
	}
	return s.settle(ctx, preferred)
}

// with runs fn on the opened state. When the state turns out to be damaged
// only while it is read, it is replaced and fn runs once more.
func (n *Node) with(ctx context.Context, preferred string, fn func(*session) error) error {
	s, err := n.open(ctx, preferred)
	if err != nil {
		return err
	}
	err = fn(s)
	if errors.Is(err, state.ErrDamaged) {
		if err = s.replace(ctx, preferred, err); err == nil {
			err = fn(s)
		}
	}
	return errors.Join(err, s.Close())
}

func (s *session) backend(name string) (Backend, error) {
	if b, ok := s.backends[name]; ok {
		return b, nil
	}
	b, err := s.newBackend(name, memory{s, name})
	if err == nil {
		s.backends[name] = b
	}
	return b, err
}

// get returns the record of an attachment, or nil.
func (s *session) get(k hostport.Key) (r *state.Record, err error) {
	err = s.View(func(tx *state.Tx) error {
		r, err = tx.Get(k)
		return err
	})
	return r, err
}

// Busy reports whether an error means that others were changing the node for as
// long as was waited for them.
func Busy(err error) bool {
	return errors.Is(err, state.ErrLocked) || errors.Is(err, iptables.ErrLocked)
}

func (n *Node) bootID() (string, error) {
	if n.BootID != nil {
		return n.BootID()
	}
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}
