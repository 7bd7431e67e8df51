// Package source gets the host ports of a node's pods from the Kubernetes API.
//
// It watches the pods that are bound to the node, and keeps for each what a
// runtime would be sent: answers to the plugin are as recent as the latest
// event, and are still given while the API server is unreachable.
package source

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/hostport-cni/hostport/internal/podports"
)

// configHash is the annotation of a mirror pod, which the kubelet creates for a
// static pod, with the static pod's UID: the one that runtimes receive.
const configHash = "kubernetes.io/config.hash"

// Source is a podports.Source.
type Source struct {
	node  string
	log   *slog.Logger
	store cache.Store
	watch cache.Controller

	mu      sync.Mutex
	changed chan struct{} // closed with the next change
}

// New returns a source of the pods on a node. The client is for the API group
// v1. The source knows no pods before Run.
func New(client cache.Getter, node string, log *slog.Logger) *Source {
	s := &Source{node: node, log: log, changed: make(chan struct{})}
	s.store, s.watch = cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: cache.NewListWatchFromClient(client, "pods", metav1.NamespaceAll, fields.OneTermEqualSelector("spec.nodeName", node)),
		ObjectType:    &corev1.Pod{},
		Transform:     essence,
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { s.wake() },
			UpdateFunc: func(any, any) { s.wake() },
		},
	})
	return s
}

// essence drops the unused parts of a pod: status, environments, volumes.
func essence(object any) (any, error) {
	pod, ok := object.(*corev1.Pod)
	if !ok {
		return object, nil
	}
	kept := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
	}}
	if hash := pod.Annotations[configHash]; hash != "" {
		kept.Annotations = map[string]string{configHash: hash}
	}
	kept.Spec.HostNetwork = pod.Spec.HostNetwork
	for _, c := range pod.Spec.Containers {
		kept.Spec.Containers = append(kept.Spec.Containers, corev1.Container{Ports: c.Ports})
	}
	return kept, nil
}

// Run watches until ctx is done. It retries while the API server is
// unreachable.
func (s *Source) Run(ctx context.Context) {
	s.watch.RunWithContext(klog.NewContext(ctx, logr.FromSlogHandler(s.log.Handler())))
}

// Synced reports whether all pods of the node are known.
func (s *Source) Synced() bool { return s.watch.HasSynced() }

func (s *Source) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Source) next() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// Mappings returns the host ports of a pod as the kubelet sends them to a
// runtime: those of its containers, and none if it is in the node's network
// namespace. The kubelet may know a pod before this watch does, so Mappings
// waits for an unknown pod until ctx is done.
func (s *Source) Mappings(ctx context.Context, r podports.Request) ([]podports.Mapping, error) {
	for {
		changed := s.next()
		pod, err := s.find(r)
		if err == nil {
			return mappings(pod), nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, err
		}
	}
}

func (s *Source) find(r podports.Request) (*corev1.Pod, error) {
	object, found, err := s.store.GetByKey(r.String())
	switch {
	case err != nil:
		return nil, err
	case !found && !s.Synced():
		return nil, fmt.Errorf("the API server has not yet said which pods node %s has", s.node)
	case !found:
		return nil, fmt.Errorf("the API server knows no pod %s on node %s", r, s.node)
	}
	pod := object.(*corev1.Pod)
	if r.UID != "" && pod.UID != types.UID(r.UID) && pod.Annotations[configHash] != r.UID {
		return nil, fmt.Errorf("pod %s with UID %s is not known, only one with UID %s", r, r.UID, pod.UID)
	}
	return pod, nil
}

func mappings(pod *corev1.Pod) []podports.Mapping {
	if pod.Spec.HostNetwork {
		return nil
	}
	var out []podports.Mapping
	for _, c := range pod.Spec.Containers {
		for _, p := range c.Ports {
			if p.HostPort > 0 {
				out = append(out, podports.Mapping{HostPort: p.HostPort, ContainerPort: p.ContainerPort, Protocol: string(p.Protocol), HostIP: p.HostIP})
			}
		}
	}
	return out
}
