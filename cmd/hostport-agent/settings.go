package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hostport-cni/hostport/internal/agent"
	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/host"
	"github.com/hostport-cni/hostport/internal/install"
	"github.com/hostport-cni/hostport/internal/netconf"
)

// settings holds the flags.
type settings struct {
	agent.Options
	config         values
	hostRoot       string
	cleanup        bool
	cleanupTimeout time.Duration
	daemonSet      string
	kubeEvents     bool
	podPorts       bool
	kubeconfig     string
	nodeName       string
	level          slog.Level
	version        bool
}

// values is a flag that may be repeated.
type values []string

func (v *values) String() string { return strings.Join(*v, " ") }

// Set implements flag.Value.
func (v *values) Set(s string) error { *v = append(*v, s); return nil }

func parse(args []string, stderr io.Writer) (*settings, error) {
	s := new(settings)
	f := flag.NewFlagSet("hostport-agent", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&s.DataDir, "data-dir", "", "state `directory` (default: dataDir of the plugin's entry; with it, it is written into the entry)")
	f.StringVar(&s.Install.ConfDir, "conf-dir", install.DefaultConfDir, "`directory` of the runtime's network configurations")
	f.StringVar(&s.Install.BinDir, "bin-dir", install.DefaultBinDir, "`directory` of the runtime's CNI plugins")
	f.StringVar(&s.Install.Network, "network", "", "`name` of the network (default: the one that the runtime takes)")
	f.StringVar(&s.Backend, "backend", "", strings.Join(backend.Names(), " or ")+", written into the plugin's entry (default: the plugin chooses)")
	f.StringVar((*string)(&s.Install.Mode), "mode", string(install.Conflist), "where the entry goes: conflist, or dropin, a file that libcni 1.3 reads beside it")
	f.BoolVar(&s.Install.ReplacePortmap, "replace-portmap", false, "take the place of portmap, and adopt the pods that it serves")
	f.Var(&s.config, "config", "a key of the plugin's entry, as `KEY=VALUE`; may be repeated")
	f.BoolVar(&s.NoInstall, "no-install", false, "leave the configuration and the programs alone: watch and mend only")
	f.StringVar(&s.CacheDir, "cache-dir", "", "libcni's cache `directory`, for the pods that portmap served (default /var/lib/cni)")
	f.DurationVar(&s.LockTimeout, "lock-timeout", netconf.DefaultLockTimeout, "how long to wait for a plugin that is at work")
	f.StringVar(&s.MetricsAddress, "metrics-address", "127.0.0.1:9477", "`address` of /metrics, /healthz and /readyz; empty for none")
	f.BoolVar(&s.ConnectionMetrics, "connection-metrics", false, "count the connections of each mapping")
	f.DurationVar(&s.DeadOwnerTimeout, "dead-owner-timeout", 5*time.Minute, "how long an owner's sandbox has to be gone before its ports are removed; 0 for never")
	f.DurationVar(&s.LegacyInterval, "legacy-interval", 3*time.Second, "how often to look at the tables of iptables-legacy, which tell of no change")
	f.StringVar(&s.hostRoot, "host-root", "", "in a container: /proc/1/root, to work in the mount namespace of that `process`")
	f.BoolVar(&s.cleanup, "cleanup", false, "take the plugin out when told to end with SIGTERM")
	f.DurationVar(&s.cleanupTimeout, "cleanup-timeout", 0, "with --cleanup: how long to wait for pods that hold ports, before their rules, state and programs are left")
	f.StringVar(&s.daemonSet, "daemonset", "", "with --cleanup: only if this DaemonSet, `NAMESPACE/NAME`, is deleted, and not when its pods are replaced")
	f.BoolVar(&s.kubeEvents, "kube-events", false, "write Kubernetes events about the node and its pods")
	f.BoolVar(&s.podPorts, "pod-ports", false, "tell the plugin the host ports of pods, for runtimes that do not (CRI-O); podPorts is written into the plugin's entry")
	f.StringVar(&s.kubeconfig, "kubeconfig", "", "`file` for access to Kubernetes (default: the pod's service account)")
	f.StringVar(&s.nodeName, "node-name", "", "`name` of the node in Kubernetes (default: the host name)")
	f.TextVar(&s.level, "log-level", slog.LevelInfo, "debug, info, warn or error")
	f.BoolVar(&s.version, "version", false, "print the version")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	return s, s.check(f)
}

// check rejects invalid combinations of flags.
func (s *settings) check(f *flag.FlagSet) error {
	switch {
	case f.NArg() > 0:
		return fmt.Errorf("unexpected argument %q", f.Arg(0))
	case s.LegacyInterval <= 0:
		return errors.New("--legacy-interval has to be more than 0")
	case s.DeadOwnerTimeout < 0:
		return errors.New("--dead-owner-timeout is negative")
	case s.Backend != "" && !slices.Contains(backend.Names(), s.Backend):
		return fmt.Errorf("--backend %q: want %s", s.Backend, strings.Join(backend.Names(), " or "))
	case s.Install.Mode != install.Conflist && s.Install.Mode != install.Dropin:
		return fmt.Errorf("--mode %q: want %s or %s", s.Install.Mode, install.Conflist, install.Dropin)
	case s.cleanup && s.NoInstall:
		return errors.New("--cleanup and --no-install exclude each other")
	case s.DataDir != "" && !filepath.IsAbs(s.DataDir):
		return errors.New("--data-dir is not an absolute path")
	}
	for _, text := range s.config {
		setting, err := install.ParseSetting(text)
		if err != nil {
			return fmt.Errorf("--config %w", err)
		}
		s.Install.Settings = append(s.Install.Settings, setting)
	}
	for _, x := range []install.Setting{{Key: "dataDir", Value: s.DataDir}, {Key: "backend", Value: s.Backend}} {
		if x.Value != "" {
			x.Value = fmt.Sprintf("%q", x.Value)
			s.Install.Settings = append(s.Install.Settings, x)
		}
	}
	s.Install.Settings = append(s.Install.Settings, s.whoKnows()...)
	return nil
}

// whoKnows returns the entry's podPorts setting. Without --pod-ports the agent
// does not answer the plugin: a setting written by an earlier agent has to be
// removed, or no pod could start.
func (s *settings) whoKnows() []install.Setting {
	const key = "podPorts"
	switch {
	case s.podPorts:
		return []install.Setting{{Key: key, Value: `"agent"`}}
	case slices.ContainsFunc(s.Install.Settings, func(x install.Setting) bool { return strings.EqualFold(x.Key, key) }):
		return nil // --config sets it
	default:
		return []install.Setting{{Key: key}}
	}
}

// options returns the agent's options. The programs to install are in the
// directory of this program.
func (s *settings) options(h host.Home, log *slog.Logger) (agent.Options, error) {
	o := s.Options
	o.Log, o.Build = log, build
	if o.NoInstall {
		return o, nil
	}
	dir := h.Path(h.Programs)
	for _, name := range []string{"hostport", "hostportctl"} {
		path := filepath.Join(dir, name)
		switch _, err := os.Stat(path); {
		case err == nil:
			o.Install.Binaries = append(o.Install.Binaries, path)
		case !errors.Is(err, fs.ErrNotExist):
			return o, err
		}
	}
	if len(o.Install.Binaries) == 0 {
		return o, fmt.Errorf("%s: the plugin is not beside the agent", dir)
	}
	return o, nil
}
