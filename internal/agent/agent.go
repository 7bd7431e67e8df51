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
	// Install says what to install where. Wait and DryRun are the agent's.
	Install install.Options
	// NoInstall leaves the configuration and the binaries alone.
	NoInstall bool
	// DataDir is the state directory, "" for that of the plugin's entry.
	DataDir string
	// Backend is the backend that has to be usable, "" for the one that the
	// plugin's entry names or that is chosen for it.
	Backend string
	// CacheDir is libcni's, "" for the usual one.
	CacheDir string
	// LockTimeout bounds the wait for calls of the plugin.
	LockTimeout time.Duration
	// DeadOwnerTimeout is for how long an owner has to be dead before it is
	// removed; 0 is for ever.
	DeadOwnerTimeout time.Duration
	// LegacyInterval is how often the tables of iptables-legacy are looked at.
	LegacyInterval time.Duration
	// MetricsAddress is where metrics and health are served; "" is nowhere.
	MetricsAddress string
	// ConnectionMetrics counts connections of each mapping.
	ConnectionMetrics bool
	// Events are told what a person should see in Kubernetes; nil for nobody.
	Events Events
	// Pods knows the host ports of pods, for the plugin that asks; nil if it is
	// not to be answered.
	Pods podports.Source
	// Build is the version of the program.
	Build string
	Log   *slog.Logger
}

// Events tells Kubernetes. Implementations do not block.
type Events interface {
	// Node tells of something that happened to the node.
	Node(reason, message string, warning bool)
	// Pod tells of something that happened to a pod.
	Pod(namespace, name, uid, reason, message string)
}

// noEvents is for a node without Kubernetes.
type noEvents struct{}

func (noEvents) Node(string, string, bool)                  {}
func (noEvents) Pod(string, string, string, string, string) {}

// Agent is one that runs on a node.
type Agent struct {
	o       Options
	log     *slog.Logger
	metrics *metrics
	place   place
	healer  *healer
	ready   ready
}

// place is where the state is, and which backend a new pod gets. It follows the
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

// locate finds the state directory and the backend of the plugin's entries.
func (a *Agent) locate() {
	next := placeValue{a.o.DataDir, a.o.Backend}
	// What cannot be read may be another plugin's.
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

// node returns the node as the agent sees it: a guest of the plugin's.
func (a *Agent) node() *node.Node {
	return &node.Node{
		Dir: a.place.value.Load().dataDir, CacheDir: a.o.CacheDir, Timeout: a.o.LockTimeout, Log: a.log, Guest: true,
	}
}

// owner returns the node for what the agent does right after it has installed a
// plugin of its own version.
func (a *Agent) owner() *node.Node {
	n := a.node()
	n.Guest = a.o.NoInstall
	return n
}

// stopTime is how long Run waits for what it is in the middle of. Whatever is
// not finished then, the next call of the plugin's recovers.
const stopTime = 2 * time.Second

// Run looks after the node until ctx is done. It fails if it cannot begin.
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

// ended reports whether an error is only that the agent ends.
func ended(ctx context.Context, err error) bool {
	return ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.Cause(ctx)))
}
