package main

import (
	"context"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/hostport-cni/hostport/internal/host"
	"github.com/hostport-cni/hostport/internal/kube"
	"github.com/hostport-cni/hostport/internal/podports/source"
)

// kubernetes holds the agent's connections to Kubernetes.
type kubernetes struct {
	client    *kube.Client
	events    *kube.Events   // nil if disabled
	pods      *source.Source // nil if the agent does not answer the plugin
	daemonSet string
	seen      atomic.Bool // whether the DaemonSet was read once
}

const (
	// askTime is how long the API server may take to answer.
	askTime = 10 * time.Second
	// askAgain is the pause before a retry: on a node that boots, the API server
	// may not be reachable yet.
	askAgain = 5 * time.Second
)

// kubernetes connects to the API if a flag requires it. An unreachable API is
// no error: the agent maintains the node without it.
func (s *settings) kubernetes(ctx context.Context, h host.Home, log *slog.Logger) (*kubernetes, error) {
	k := &kubernetes{daemonSet: s.daemonSet}
	if !s.kubeEvents && !s.podPorts && s.daemonSet == "" {
		return k, nil
	}
	client, err := kube.New(kube.Options{Kubeconfig: s.kubeconfig, Root: h.Root, Build: build, Log: log})
	if err != nil {
		return nil, err
	}
	k.client = client
	name := s.nodeName
	if name == "" {
		if name, err = os.Hostname(); err != nil {
			return nil, err
		}
	}
	if s.kubeEvents {
		if k.events, err = client.Events(ctx, name); err != nil {
			return nil, err
		}
	}
	if s.podPorts {
		core, err := client.Core()
		if err != nil {
			return nil, err
		}
		k.pods = source.New(core, name, log)
		go k.pods.Run(ctx)
	}
	if s.cleanup && s.daemonSet != "" {
		go k.see(ctx, askAgain, log)
	}
	return k, nil
}

// see reads the DaemonSet until it succeeds once. Without permission, or with a
// wrong name, the agent would otherwise treat every restart as an
// uninstallation.
func (k *kubernetes) see(ctx context.Context, again time.Duration, log *slog.Logger) {
	for told := false; ; told = true {
		ask, cancel := context.WithTimeout(ctx, askTime)
		leaving, err := k.client.Leaving(ask, k.daemonSet)
		cancel()
		if err == nil && !leaving {
			k.seen.Store(true)
			log.Info("the plugin goes when the DaemonSet is deleted", "daemonSet", k.daemonSet)
			return
		}
		if !told && ctx.Err() == nil {
			log.Warn("the DaemonSet cannot be read: until it can, the plugin stays when the agent ends", "daemonSet", k.daemonSet, "reason", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(again):
		}
	}
}

// leaving reports whether the agent is being uninstalled: its DaemonSet is
// being deleted, or it has none.
func (k *kubernetes) leaving(log *slog.Logger) bool {
	if k.daemonSet == "" {
		return true
	}
	if !k.seen.Load() {
		log.Warn("the DaemonSet was never read: the plugin stays", "daemonSet", k.daemonSet)
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	leaving, err := k.client.Leaving(ctx, k.daemonSet)
	if err != nil {
		log.Warn("whether the agent ends for good is not known: the plugin stays", "reason", err)
	} else if !leaving {
		log.Info("the agent is replaced: the plugin stays")
	}
	return leaving && err == nil
}
