package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/iptables"
	"github.com/hostport-cni/hostport/internal/nftables"
	"github.com/hostport-cni/hostport/internal/sandbox"
	"github.com/hostport-cni/hostport/internal/state"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Node changes the node in whose network namespace the process runs.
type Node struct {
	// Dir is the state directory.
	Dir string
	// Timeout bounds the wait for the lock, and each run of a backend's tool.
	Timeout time.Duration
	// Log gets what an operator should know and the caller need not.
	Log *slog.Logger
	// Runtime says that the container runtime started the process, so that what
	// it cannot find does not exist. A process that an operator started must
	// first be seen to share the runtime's view of the node.
	Runtime bool
	// Guest is set by a program beside the plugin, of whatever version that is: a
	// state that the plugin has yet to convert is left as it is.
	Guest bool
	// CacheDir is libcni's cache directory; "" is portmap.DefaultCacheDir.
	CacheDir string
	// AdoptInto is the backend for attachments of portmap's, as the network's
	// configuration names it; "" lets the node choose.
	AdoptInto string
	// BootID reads the identity of the running kernel; nil reads the kernel's
	// own.
	BootID func() (string, error)
}

// Choose returns the name of the backend for what the configuration says: ""
// is iptables where its tools are installed, else nftables, which needs none.
// Beside kube-proxy in nftables mode it is nftables too, because rules of
// iptables cannot be told to come after kube-proxy's there.
func (n *Node) Choose(ctx context.Context, configured string) string {
	if configured != "" {
		return configured
	}
	if iptables.Available() != nil || n.besideKubeProxy(ctx) {
		return backend.Nftables
	}
	return backend.Iptables
}

// Backend returns the backend of a name.
func (n *Node) Backend(name string) (backend.Backend, error) {
	b := n.backends()[name]
	if b == nil {
		return nil, fmt.Errorf("unknown backend %q", name)
	}
	return b, nil
}

func (n *Node) backends() map[string]backend.Backend {
	return map[string]backend.Backend{
		backend.Iptables: iptables.New(iptables.Options{Wait: n.Timeout, Log: n.Log}),
		backend.Nftables: nftables.New(nftables.Options{Log: n.Log}),
	}
}

// kubeProxyAdvice says what to do where a Service's NodePort and a host port
// may be the same number, and it is not certain which one wins.
const kubeProxyAdvice = "kube-proxy is in nftables mode: use the nftables backend, " +
	"or a host port may win over a Service of the same number"

// warnBesideKubeProxy warns about a backend that cannot give way to Services.
func (n *Node) warnBesideKubeProxy(ctx context.Context, name string) {
	if name == backend.Iptables && n.besideKubeProxy(ctx) {
		n.Log.Warn(kubeProxyAdvice, "backend", name)
	}
}

func (n *Node) besideKubeProxy(ctx context.Context) bool {
	found, err := nftables.New(nftables.Options{Log: n.Log}).KubeProxy(ctx)
	if err != nil {
		n.Log.Debug("kube-proxy's nftables mode could not be looked for", "reason", err)
	}
	return found
}

// Busy reports whether an error means that others were changing the node for
// as long as was waited for them.
func Busy(err error) bool {
	return errors.Is(err, state.ErrLocked) || errors.Is(err, backend.ErrBusy)
}

// session is the opened state of the node.
type session struct {
	*Node
	*state.Store
	boot string // the hash of the boot ID
	id   string // identifies the state file
	sees bool   // what is not found here does not exist
}

// open takes the lock and opens the state, and changes nothing else.
func (n *Node) open(ctx context.Context) (*session, error) {
	boot, err := n.bootID()
	if err != nil {
		return nil, fmt.Errorf("identify this boot: %w", err)
	}
	st, err := state.Open(ctx, state.Options{
		Dir: n.Dir, Timeout: n.Timeout, BootID: boot, Layout: backend.Layout, Backends: backend.Names(), Guest: n.Guest,
	})
	if err != nil {
		return nil, err
	}
	if aside := st.Aside(); aside != "" {
		n.Log.Warn("state file could not be read: moved aside, rebuilding it from the kernel", "aside", aside)
	}
	s := &session{Node: n, Store: st, boot: hostport.BootHash(boot)}
	if err := s.look(); err != nil {
		return nil, errors.Join(err, st.Close())
	}
	return s, nil
}

// look finds out whether the process sees the sandboxes that the runtime sees.
func (s *session) look() error {
	own, err := sandbox.OwnView()
	if err != nil {
		return err
	}
	var recorded sandbox.View
	err = s.View(func(tx *state.Tx) error {
		recorded, s.id = sandbox.View(tx.View()), tx.ID()
		return nil
	})
	if err != nil || !s.Runtime {
		s.sees = own.Sees(recorded)
		return err
	}
	s.sees = true
	if own == recorded {
		return nil
	}
	return s.Update(func(tx *state.Tx) error { return tx.SetView(state.View(own)) })
}

// change runs fn on the state after anything that an earlier call left
// unfinished was recovered.
func (n *Node) change(ctx context.Context, fn func(*session) error) error {
	return n.with(ctx, func(s *session) error {
		if err := s.recover(ctx); err != nil {
			return err
		}
		return fn(s)
	})
}

// with runs fn on the state as it is recorded. If that turns out to be damaged
// only while it is read, it is replaced and fn is run once more.
func (n *Node) with(ctx context.Context, fn func(*session) error) error {
	s, err := n.open(ctx)
	if err != nil {
		return err
	}
	err = fn(s)
	if errors.Is(err, state.ErrDamaged) && !n.Guest {
		n.Log.Warn("state file is damaged and is rebuilt from the kernel", "reason", err)
		if err = s.Rebuild(); err == nil {
			err = s.look()
		}
		if err == nil {
			err = fn(s)
		}
	}
	return errors.Join(err, s.Close())
}

// view returns what fn reads in a transaction of its own.
func view[T any](s *state.Store, fn func(*state.Tx) (T, error)) (v T, err error) {
	err = s.View(func(tx *state.Tx) error {
		v, err = fn(tx)
		return err
	})
	return v, err
}

func (s *session) records() ([]*hostport.Attachment, error) {
	return view(s.Store, (*state.Tx).Records)
}

func (s *session) pending() (*state.Pending, error) { return view(s.Store, (*state.Tx).Pending) }

func (s *session) fingerprint(name string) (hostport.Fingerprint, error) {
	return view(s.Store, func(tx *state.Tx) (hostport.Fingerprint, error) { return tx.Fingerprint(name) })
}

// Other reports whether an error means that a guest met a state that the plugin
// has yet to convert, or to replace.
func Other(err error) bool {
	return errors.Is(err, state.ErrOther) || errors.Is(err, state.ErrDamaged)
}

// errUnseen says why a process does not call an owner dead.
var errUnseen = errors.New("this process may not see the sandboxes of the node's pods: " +
	"run it on the node itself, or with `nsenter --target 1 --mount --pid -- COMMAND` in a container that shares the node's PID namespace")

// life looks whether the sandbox of an attachment exists. Nobody is declared
// dead by a process that may not see them.
func (s *session) life(a *hostport.Attachment) (sandbox.Life, error) {
	_, life, err := sandbox.Look(a.Sandbox)
	if life == sandbox.Dead && !s.sees {
		return sandbox.Unknown, errUnseen
	}
	return life, err
}

func (n *Node) bootID() (string, error) {
	if n.BootID != nil {
		return n.BootID()
	}
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}
