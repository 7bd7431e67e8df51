package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hostport-cni/hostport/internal/install"
	"github.com/hostport-cni/hostport/internal/netconf"
	"github.com/hostport-cni/hostport/internal/node"
	"github.com/hostport-cni/hostport/internal/podports"
)

// Options of an Agent.
type Options struct {
	// Install says what to install where. The agent sets Wait and DryRun.
	Install install.Options
	// NoInstall leaves the configuration and the binaries alone.
	NoInstall bool
	// DataDir is the state directory, "" for that of the plugin's entry.
	DataDir string
	// Backend is the backend that has to be usable, "" for the one that the
	// plugin's entry names or that is chosen for it.
	Backend string
	// CacheDir is libcni's cache, "" for the default.
	CacheDir string
	// LockTimeout bounds the wait for calls of the plugin.
	LockTimeout time.Duration
	// DeadOwnerTimeout is how long an owner has to be dead before it is removed; 0
	// means never.
	DeadOwnerTimeout time.Duration
	// LegacyInterval is how often the tables of iptables-legacy are checked.
	LegacyInterval time.Duration
	// MetricsAddress is where metrics and health are served; "" disables both.
	MetricsAddress string
	// ConnectionMetrics counts connections of each mapping.
	ConnectionMetrics bool
	// Events receives what an operator should see in Kubernetes; nil for none.
	Events Events
	// Pods provides the host ports of pods for the plugin's requests; nil if the
	// agent does not answer them.
	Pods podports.Source
	// Build is the version of the program.
	Build string
	Log   *slog.Logger
}

// Events writes events to Kubernetes. Implementations do not block.
type Events interface {
	// Node reports something that happened to the node.
	Node(reason, message string, warning bool)
	// Pod reports something that happened to a pod.
	Pod(namespace, name, uid, reason, message string)
}

// noEvents is for a node without Kubernetes.
type noEvents struct{}

func (noEvents) Node(string, string, bool)                  {}
func (noEvents) Pod(string, string, string, string, string) {}

// Agent maintains the host ports of a node.
type Agent struct {
	o       Options
	log     *slog.Logger
	metrics *metrics
	place   place
	healer  *healer
	ready   ready
}

// place is the state directory, and the backend for new pods. It follows the
// network's configuration.
type place struct {
	value atomic.Pointer[placeValue]
}

type placeValue struct{ dataDir, backend string }

// New returns an agent.
func New(o Options) *Agent {
	if o.Events == nil {
		o.Events = noEvents{}
	}
	a := &Agent{o: o, log: o.Log, ready: ready{status: "the backend has not been asked yet"}}
	a.metrics = newMetrics(a)
	a.healer = newHealer(a)
	a.locate()
	return a
}

// locate reads the state directory and the backend from the plugin's entries.
func (a *Agent) locate() {
	next := placeValue{a.o.DataDir, a.o.Backend}
	// A file that cannot be read may be another plugin's.
	entries, _ := install.Entries(a.o.Install.ConfDir)
	for _, e := range entries {
		if next.dataDir == "" {
			next.dataDir = e.DataDir
		} else if a.o.DataDir == "" && next.dataDir != e.DataDir {
			a.log.Warn("the plugin's entries have several state directories: choose one with --data-dir",
				"used", next.dataDir, "other", e.DataDir)
		}
		if next.backend == "" {
			next.backend = e.Backend
		}
	}
	if next.dataDir == "" {
		next.dataDir = netconf.DefaultDataDir
	}
	if was := a.place.value.Load(); was == nil || *was != next {
		a.place.value.Store(&next)
	}
}

// node returns the node as the agent sees it: as a guest of the plugin's state.
func (a *Agent) node() *node.Node {
	return &node.Node{
		Dir: a.place.value.Load().dataDir, CacheDir: a.o.CacheDir, Timeout: a.o.LockTimeout, Log: a.log, Guest: true,
	}
}

// owner returns the node for actions right after the agent has installed a
// plugin of its own version.
func (a *Agent) owner() *node.Node {
	n := a.node()
	n.Guest = a.o.NoInstall
	return n
}

// stopTime is how long Run waits for actions in progress. The next call of the
// plugin recovers what is unfinished after that.
const stopTime = 2 * time.Second

// Run maintains the node until ctx is done. It fails if it cannot start.
func (a *Agent) Run(ctx context.Context) error {
	commits, err := listen()
	if err != nil {
		return fmt.Errorf("listen to nf_tables: %w", err)
	}
	a.log.Info("started", "version", a.o.Build, "dataDir", a.place.value.Load().dataDir, "install", !a.o.NoInstall,
		"confDir", a.o.Install.ConfDir, "binDir", a.o.Install.BinDir, "metrics", a.o.MetricsAddress)
	var wg sync.WaitGroup
	for _, part := range []func(context.Context){
		func(ctx context.Context) { a.healer.receive(ctx, commits) },
		a.healer.run,
		a.watchLegacy,
		a.keepEntry,
		a.watchOwners,
		a.watchRefusals,
		a.watchStatus,
		a.serve,
		a.servePods,
	} {
		wg.Go(func() { part(ctx) })
	}
	<-ctx.Done()
	a.log.Info("ending", "reason", context.Cause(ctx))
	err = commits.Close()
	stopped := make(chan struct{})
	go func() { wg.Wait(); close(stopped) }()
	select {
	case <-stopped:
	case <-time.After(stopTime):
		a.log.Warn("ended in the middle of a change: the plugin's next call finishes it")
	}
	return err
}

// pause waits, and reports false if ctx is done first.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// ended reports whether an error only means that the agent stops.
func ended(ctx context.Context, err error) bool {
	return ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.Cause(ctx)))
}
