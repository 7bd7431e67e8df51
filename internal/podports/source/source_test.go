package source_test

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/hostport-cni/hostport/internal/podports"
	"github.com/hostport-cni/hostport/internal/podports/source"
	"github.com/hostport-cni/hostport/test/kubeapi"
)

// open returns a source of an API server's pods.
func open(t *testing.T, a *kubeapi.API) *source.Source {
	t.Helper()
	s := source.New(a.Client(t), kubeapi.Node, slog.New(slog.DiscardHandler))
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { s.Run(ctx) })
	t.Cleanup(func() {
		stop()
		running.Wait()
	})
	return s
}

func request(name, uid string) podports.Request {
	return podports.Request{Namespace: "default", Name: name, UID: uid}
}

// ask calls the source as the server does, with a timeout.
func ask(t *testing.T, s *source.Source, r podports.Request, within time.Duration) ([]podports.Mapping, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	return s.Mappings(ctx, r)
}

const (
	soon   = 100 * time.Millisecond // for pods that are known, or never will be
	enough = 30 * time.Second
)

func TestMappings(t *testing.T) {
	a := kubeapi.New(t)
	a.Add(kubeapi.Pod("web", "u1",
		corev1.ContainerPort{HostPort: 81, ContainerPort: 80, Protocol: corev1.ProtocolTCP},
		corev1.ContainerPort{ContainerPort: 8080, Protocol: corev1.ProtocolTCP},
		corev1.ContainerPort{HostPort: 53, ContainerPort: 53, Protocol: corev1.ProtocolUDP, HostIP: "192.0.2.1"}))
	two := kubeapi.Pod("two", "u2", corev1.ContainerPort{HostPort: 1, ContainerPort: 1, Protocol: corev1.ProtocolTCP})
	two.Spec.Containers = append(two.Spec.Containers, corev1.Container{Ports: []corev1.ContainerPort{{HostPort: 2, ContainerPort: 2, Protocol: corev1.ProtocolSCTP}}})
	a.Add(two)
	a.Add(kubeapi.Pod("none", "u3", corev1.ContainerPort{ContainerPort: 80, Protocol: corev1.ProtocolTCP}))
	host := kubeapi.Pod("host", "u4", corev1.ContainerPort{HostPort: 9697, ContainerPort: 9697, Protocol: corev1.ProtocolTCP})
	host.Spec.HostNetwork = true
	a.Add(host)
	static := kubeapi.Pod("static-node-1", "mirror", corev1.ContainerPort{HostPort: 3, ContainerPort: 3, Protocol: corev1.ProtocolTCP})
	static.Annotations = map[string]string{"kubernetes.io/config.hash": "hash", "kubernetes.io/config.source": "file"}
	a.Add(static)
	s := open(t, a)

	tcp := func(port int32) podports.Mapping {
		return podports.Mapping{HostPort: port, ContainerPort: port, Protocol: "TCP"}
	}
	for _, tc := range []struct {
		r    podports.Request
		want []podports.Mapping
	}{
		{request("web", "u1"), []podports.Mapping{{HostPort: 81, ContainerPort: 80, Protocol: "TCP"}, {HostPort: 53, ContainerPort: 53, Protocol: "UDP", HostIP: "192.0.2.1"}}},
		{request("web", ""), []podports.Mapping{{HostPort: 81, ContainerPort: 80, Protocol: "TCP"}, {HostPort: 53, ContainerPort: 53, Protocol: "UDP", HostIP: "192.0.2.1"}}},
		{request("two", "u2"), []podports.Mapping{tcp(1), {HostPort: 2, ContainerPort: 2, Protocol: "SCTP"}}},
		{request("none", "u3"), nil},
		{request("host", "u4"), nil},
		// The kubelet's UID of a static pod, and the API server's of its mirror.
		{request("static-node-1", "hash"), []podports.Mapping{tcp(3)}},
		{request("static-node-1", "mirror"), []podports.Mapping{tcp(3)}},
	} {
		got, err := ask(t, s, tc.r, enough)
		if err != nil {
			t.Errorf("%+v: %v", tc.r, err)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", tc.r, diff)
		}
	}
	for r, want := range map[podports.Request]string{
		request("web", "u0"):   "pod default/web with UID u0 is not known, only one with UID u1",
		request("other", "u9"): "knows no pod default/other on node node-1",
	} {
		if got, err := ask(t, s, r, soon); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, %v; want %q", r, got, err, want)
		}
	}
}

// TestWait makes the kubelet faster than the watch.
func TestWait(t *testing.T) {
	a := kubeapi.New(t)
	a.Add(kubeapi.Pod("web", "u1"))
	s := open(t, a)
	if _, err := ask(t, s, request("web", "u1"), enough); err != nil {
		t.Fatal(err)
	}
	got := make(chan []podports.Mapping, 1)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), enough)
		defer cancel()
		m, err := s.Mappings(ctx, request("late", "u2"))
		if err != nil {
			t.Error(err)
		}
		got <- m
	}()
	time.Sleep(soon) // the pod is not there yet: the request waits
	a.Add(kubeapi.Pod("late", "u2", corev1.ContainerPort{HostPort: 81, ContainerPort: 80, Protocol: corev1.ProtocolTCP}))
	if diff := cmp.Diff([]podports.Mapping{{HostPort: 81, ContainerPort: 80, Protocol: "TCP"}}, <-got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestAway asks while the API server is unreachable, from the start and later.
func TestAway(t *testing.T) {
	a := kubeapi.New(t)
	a.Add(kubeapi.Pod("web", "u1", corev1.ContainerPort{HostPort: 81, ContainerPort: 80, Protocol: corev1.ProtocolTCP}))
	s := open(t, a)
	if _, err := ask(t, s, request("web", "u1"), enough); err != nil {
		t.Fatal(err)
	}
	a.Stop()
	if got, err := ask(t, s, request("web", "u1"), soon); err != nil || len(got) != 1 {
		t.Errorf("a pod that was known: %v, %v", got, err)
	}
	if _, err := ask(t, s, request("new", "u2"), soon); err == nil || !strings.Contains(err.Error(), "knows no pod default/new") {
		t.Errorf("a pod that was not: %v", err)
	}
	if _, err := ask(t, open(t, a), request("web", "u1"), soon); err == nil || !strings.Contains(err.Error(), "has not yet said") {
		t.Errorf("a source that never heard of any: %v", err)
	}
}
