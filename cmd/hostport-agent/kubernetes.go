package main

import (
	"context"
	"log/slog"
	"os"
	"time"

	"github.com/hostport-cni/hostport/internal/host"
	"github.com/hostport-cni/hostport/internal/kube"
	"github.com/hostport-cni/hostport/internal/podports/source"
)

// kubernetes is what the agent has to do with Kubernetes.
type kubernetes struct {
	client    *kube.Client
	events    *kube.Events   // nil if they are not wanted
	pods      *source.Source // nil if the plugin is not answered
	daemonSet string
}

// askTime is how long the API server may take to answer.
const askTime = 10 * time.Second

// kubernetes connects to the API if a flag asks for it. That the API does not
// answer is no error: the node is looked after without.
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
		// An agent that may not ask from the start would take every restart for
		// the end.
		ask, cancel := context.WithTimeout(ctx, askTime)
		defer cancel()
		if leaving, err := client.Leaving(ask, s.daemonSet); err != nil || leaving {
			log.Warn("the DaemonSet cannot be read: the plugin will stay when the agent ends", "daemonSet", s.daemonSet, "reason", err)
			s.cleanup = false
		}
	}
	return k, nil
}

// leaving reports whether the agent ends for good: the DaemonSet goes, or there
// is none.
func (k *kubernetes) leaving(log *slog.Logger) bool {
	if k.daemonSet == "" {
		return true
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
