// Package kubeapi is an API server for tests that supports a watch of one
// node's pods.
package kubeapi

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
)

// Node is the only node that has pods on the server.
const Node = "node-1"

// API is an API server with the pods of Node.
type API struct {
	server  *httptest.Server
	socket  string
	stopped context.Context
	stop    context.CancelFunc
	mu      sync.Mutex
	pods    []*corev1.Pod
	watches []chan event
}

type event struct {
	Type   string      `json:"type"`
	Object *corev1.Pod `json:"object"`
}

// New starts a server that ends with the test, or by Stop.
func New(t testing.TB) *API {
	t.Helper()
	a := &API{socket: filepath.Join(t.TempDir(), "api")}
	a.stopped, a.stop = context.WithCancel(context.Background())
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/pods", a.list)
	a.server = httptest.NewUnstartedServer(mux)
	// The tests' namespaces have no loopback.
	listener, err := net.Listen("unix", a.socket)
	if err != nil {
		t.Fatal(err)
	}
	a.server.Listener.Close()
	a.server.Listener = listener
	a.server.Start()
	t.Cleanup(a.Stop)
	return a
}

// ServeOn also serves on another address, for clients that do not support
// sockets.
func (a *API) ServeOn(t testing.TB, l net.Listener) {
	s := &http.Server{Handler: a.server.Config.Handler, ReadHeaderTimeout: time.Minute}
	go func() { _ = s.Serve(l) }() // it ends with Close
	t.Cleanup(func() { s.Close() })
}

// Stop stops the server and closes its connections. A client may reconnect
// meanwhile: Close would wait for its watch.
func (a *API) Stop() {
	a.stop()
	a.server.CloseClientConnections()
	a.server.Close()
}

// Client returns a client for the API group v1.
func (a *API) Client(t testing.TB) *rest.RESTClient {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	client, err := rest.RESTClientFor(&rest.Config{
		Host: "http://api", APIPath: "/api",
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", a.socket)
		},
		ContentConfig: rest.ContentConfig{GroupVersion: &corev1.SchemeGroupVersion, NegotiatedSerializer: serializer.NewCodecFactory(scheme).WithoutConversion()},
	})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func (a *API) list(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if q.Get("fieldSelector") != "spec.nodeName="+Node {
		http.Error(w, "pods of other nodes are nobody's business", http.StatusForbidden)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	write := json.NewEncoder(w).Encode
	a.mu.Lock()
	if q.Get("watch") != "true" {
		defer a.mu.Unlock()
		list := corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}, ListMeta: metav1.ListMeta{ResourceVersion: "1"}}
		for _, p := range a.pods {
			list.Items = append(list.Items, *p)
		}
		_ = write(list) // a client that has gone will retry
		return
	}
	events := make(chan event, 100)
	if q.Get("sendInitialEvents") == "true" {
		for _, p := range a.pods {
			events <- event{"ADDED", p}
		}
		events <- event{"BOOKMARK", &corev1.Pod{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
			ObjectMeta: metav1.ObjectMeta{ResourceVersion: "1", Annotations: map[string]string{metav1.InitialEventsAnnotationKey: "true"}},
		}}
	}
	a.watches = append(a.watches, events)
	a.mu.Unlock()
	for {
		select {
		case e := <-events:
			_ = write(e)
			w.(http.Flusher).Flush()
		case <-r.Context().Done():
			return
		case <-a.stopped.Done():
			return
		}
	}
}

// Add adds a pod.
func (a *API) Add(p *corev1.Pod) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
	p.ResourceVersion = "2"
	a.pods = append(a.pods, p)
	for _, w := range a.watches {
		w <- event{"ADDED", p}
	}
}

// Pod returns a pod in the namespace default, with one container.
func Pod(name, uid string, ports ...corev1.ContainerPort) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(uid)},
		Spec:       corev1.PodSpec{NodeName: Node, Containers: []corev1.Container{{Name: "c", Ports: ports}}},
	}
}
