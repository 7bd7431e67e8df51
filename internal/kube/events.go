package kube

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
)

// Events writes events in the background: similar ones are counted together, and
// too many are dropped.
type Events struct {
	recorder record.EventRecorder
	node     string
}

// Events returns a writer of events about a node, and about pods on it. It ends
// with ctx.
func (c *Client) Events(ctx context.Context, node string) (*Events, error) {
	client, err := c.rest(corev1.SchemeGroupVersion)
	if err != nil {
		return nil, err
	}
	b := record.NewBroadcaster(record.WithContext(ctx))
	b.StartRecordingToSink(&sink{ctx, client})
	return &Events{b.NewRecorder(c.scheme, corev1.EventSource{Component: "hostport-agent", Host: node}), node}, nil
}

// Node writes an event about the node.
func (e *Events) Node(reason, message string, warning bool) {
	kind := corev1.EventTypeNormal
	if warning {
		kind = corev1.EventTypeWarning
	}
	// As the kubelet does: `kubectl describe node` finds events by this UID.
	e.recorder.Event(&corev1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: e.node, UID: types.UID(e.node)}, kind, reason, message)
}

// Pod writes a warning about a pod.
func (e *Events) Pod(namespace, name, uid, reason, message string) {
	e.recorder.Event(&corev1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: namespace, Name: name, UID: types.UID(uid)},
		corev1.EventTypeWarning, reason, message)
}

// sink writes events to the API server.
type sink struct {
	ctx    context.Context
	client *rest.RESTClient
}

// writeTime is how long a request may take.
const writeTime = 10 * time.Second

func (s *sink) do(r *rest.Request) (*corev1.Event, error) {
	out := new(corev1.Event)
	return out, r.Resource("events").Timeout(writeTime).Do(s.ctx).Into(out)
}

// Create implements record.EventSink.
func (s *sink) Create(e *corev1.Event) (*corev1.Event, error) {
	return s.do(s.client.Post().Namespace(e.Namespace).Body(e))
}

// Update implements record.EventSink.
func (s *sink) Update(e *corev1.Event) (*corev1.Event, error) {
	return s.do(s.client.Put().Namespace(e.Namespace).Name(e.Name).Body(e))
}

// Patch implements record.EventSink.
func (s *sink) Patch(e *corev1.Event, data []byte) (*corev1.Event, error) {
	return s.do(s.client.Patch(types.StrategicMergePatchType).Namespace(e.Namespace).Name(e.Name).Body(data))
}
