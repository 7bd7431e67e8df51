package agent

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/node"
)

// ready is the state that readiness depends on.
type ready struct {
	mu      sync.Mutex
	started bool   // adopted and resynced
	entry   string // why the plugin is not in the network's configuration
	status  string // why the backend cannot be used
}

// starting reports whether the agent has yet to adopt and resync.
func (r *ready) starting() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.started
}

// reasons returns why the node does not serve new pods, nil if it does.
func (r *ready) reasons() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.list()
}

// list is reasons for a caller that holds the mutex.
func (r *ready) list() (out []string) {
	if !r.started {
		out = append(out, "starting")
	}
	for _, s := range []string{r.entry, r.status} {
		if s != "" {
			out = append(out, s)
		}
	}
	return out
}

// update applies fn, and returns the reasons before and after.
func (r *ready) update(fn func(*ready)) (before, after []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before = r.list()
	fn(r)
	return before, r.list()
}

// setReady changes something that readiness depends on, and logs each
// transition and each new reason: the kubelet does not show the probe's
// response.
func (a *Agent) setReady(fn func(*ready)) {
	before, after := a.ready.update(fn)
	isNew := func(reason string) bool { return !slices.Contains(before, reason) }
	switch {
	case len(after) == 0 && len(before) > 0:
		a.log.Info("ready")
	case slices.ContainsFunc(after, isNew):
		a.log.Warn("not ready", "reasons", after)
	}
}

const (
	// goodInterval and badInterval are how often the status of a working, or
	// failing, backend is checked: for iptables this starts processes.
	goodInterval = 2 * time.Minute
	badInterval  = 5 * time.Second
)

// watchStatus checks the status of the backend for new pods, and of those that
// serve pods.
func (a *Agent) watchStatus(ctx context.Context) {
	advised := false
	for {
		n := a.node()
		if advised {
			n.Log = slog.New(slog.DiscardHandler) // advice is the same each time
		}
		advised = true
		configured := a.place.value.Load().backend
		n.Advise(configured)
		chosen := node.Choose(configured)
		used := map[string]bool{chosen: true}
		for _, o := range a.metrics.snapshot().Attachments {
			used[o.Backend] = true
		}
		interval := goodInterval
		for _, name := range backend.Names() {
			if !used[name] {
				a.metrics.forgetBackend(name)
				continue
			}
			err := n.Status(ctx, name)
			if ended(ctx, err) {
				return
			}
			a.metrics.setUsable(name, err == nil)
			if err != nil {
				interval = badInterval
			}
			if name == chosen {
				a.setReady(func(r *ready) {
					r.status = ""
					if err != nil {
						r.status = "backend " + name + ": " + err.Error()
					}
				})
			}
		}
		if !pause(ctx, interval) {
			return
		}
	}
}
