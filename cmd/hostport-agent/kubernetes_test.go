package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hostport-cni/hostport/internal/host"
	"github.com/hostport-cni/hostport/internal/kube"
)

// api is an API server with one DaemonSet; it responds with a fixed status.
type api struct {
	*httptest.Server
	status atomic.Int64
	asked  chan struct{}
}

func newAPI(t *testing.T, status int) *api {
	t.Helper()
	a := &api{asked: make(chan struct{}, 100)}
	a.status.Store(int64(status))
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		a.asked <- struct{}{}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(int(a.status.Load()))
		fmt.Fprint(w, `{"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"namespace": "kube-system", "name": "hostport"}}`)
	}))
	t.Cleanup(a.Close)
	return a
}

func (a *api) kubeconfig(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf("{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c}}], "+
		"clusters: [{name: c, cluster: {server: %q}}]}", a.URL)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestLeaving stops an agent whose API server was unreachable at first, as on a
// node that boots: it has to detect an uninstallation all the same.
func TestLeaving(t *testing.T) {
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	for _, tt := range []struct {
		name             string
		first, then, end int
		want             bool
	}{
		{"uninstalled", 200, 200, 404, true},
		{"uninstalled with its account", 200, 200, 403, true},
		{"replaced", 200, 200, 200, false},
		{"booted, uninstalled", 500, 200, 404, true},
		{"booted, replaced", 500, 200, 200, false},
		{"never allowed", 403, 403, 403, false},
		{"no answer at the end", 200, 200, 500, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := newAPI(t, tt.first)
			client, err := kube.New(kube.Options{Kubeconfig: a.kubeconfig(t), Log: log})
			if err != nil {
				t.Fatal(err)
			}
			k := &kubernetes{client: client, daemonSet: "kube-system/hostport"}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			done := make(chan struct{})
			go func() { defer close(done); k.see(ctx, time.Millisecond, log) }()
			<-a.asked
			a.status.Store(int64(tt.then))
			if tt.then == http.StatusOK {
				<-done
			} else {
				<-a.asked
			}
			a.status.Store(int64(tt.end))
			if got := k.leaving(log); got != tt.want {
				t.Errorf("leaving: %v", got)
			}
		})
	}
}

// TestSilentAPI starts an agent whose API server does not respond: it must not
// wait.
func TestSilentAPI(t *testing.T) {
	end := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-end }))
	defer server.Close()
	defer close(end)
	a := &api{Server: server}
	s := &settings{kubeconfig: a.kubeconfig(t), cleanup: true, daemonSet: "kube-system/hostport"}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	start := time.Now()
	if _, err := s.kubernetes(ctx, host.Home{Root: "/"}, slog.New(slog.NewTextHandler(io.Discard, nil))); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("the agent waited %v for the API server", took)
	}
}
