package kube

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// server starts an API server that does as much as the package needs.
func server(t *testing.T, answer http.HandlerFunc) *Client {
	t.Helper()
	s := httptest.NewTLSServer(answer)
	t.Cleanup(s.Close)
	ca := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
	config := filepath.Join(t.TempDir(), "kubeconfig")
	text := `{"apiVersion":"v1","kind":"Config","current-context":"c","clusters":[{"name":"k","cluster":{"server":"` + s.URL + `","certificate-authority-data":"` + ca + `"}}],` +
		`"contexts":[{"name":"c","context":{"cluster":"k","user":"u"}}],"users":[{"name":"u","user":{"token":"t0ken"}}]}`
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := New(Options{Kubeconfig: config, Build: "v1.2.3", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code})
	}
}

func daemonSet(meta string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/apis/apps/v1/namespaces/kube-system/daemonsets/hostport" || r.Header.Get("Authorization") != "Bearer t0ken" {
			http.Error(w, r.URL.Path, http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"kind":"DaemonSet","apiVersion":"apps/v1","metadata":{"name":"hostport"`+meta+`}}`)
	}
}

// TestLeaving distinguishes an upgrade from the end of a release.
func TestLeaving(t *testing.T) {
	for _, tc := range []struct {
		name    string
		answer  http.HandlerFunc
		leaving bool
		failed  bool
	}{
		{"there", daemonSet(""), false, false},
		{"being deleted", daemonSet(`,"deletionTimestamp":"2026-01-01T00:00:00Z"`), true, false},
		{"gone", status(http.StatusNotFound), true, false},
		{"without an account", status(http.StatusUnauthorized), true, false},
		{"without permission", status(http.StatusForbidden), true, false},
		{"a server that is ill", status(http.StatusInternalServerError), false, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := server(t, tc.answer).Leaving(t.Context(), "kube-system/hostport")
			if got != tc.leaving || (err != nil) != tc.failed {
				t.Errorf("leaving %v, error %v", got, err)
			}
		})
	}
	if _, err := server(t, daemonSet("")).Leaving(t.Context(), "hostport"); err == nil {
		t.Error("a name without a namespace is taken")
	}
}

// TestEvents writes events about a node and a pod.
func TestEvents(t *testing.T) {
	written := make(chan corev1.Event, 10)
	c := server(t, func(w http.ResponseWriter, r *http.Request) {
		var e corev1.Event
		if err := json.NewDecoder(r.Body).Decode(&e); err != nil || r.Method != http.MethodPost {
			http.Error(w, "no event", http.StatusBadRequest)
			return
		}
		if !strings.HasSuffix(r.URL.Path, "/namespaces/"+e.Namespace+"/events") {
			t.Errorf("an event of namespace %s is sent to %s", e.Namespace, r.URL.Path)
		}
		written <- e
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(e)
	})
	events, err := c.Events(t.Context(), "node-1")
	if err != nil {
		t.Fatal(err)
	}
	events.Node("HostPortRulesRepaired", "by nft", true)
	events.Pod("shop", "web-1", "uid-1", "HostPortConflict", "port 80 is held")
	want := map[string]string{"Node": "default/node-1/HostPortRulesRepaired/by nft", "Pod": "shop/web-1/HostPortConflict/port 80 is held"}
	for range 2 {
		select {
		case e := <-written:
			got := strings.Join([]string{e.Namespace, e.InvolvedObject.Name, e.Reason, e.Message}, "/")
			if got != want[e.InvolvedObject.Kind] || e.Type != corev1.EventTypeWarning || e.Source.Host != "node-1" {
				t.Errorf("event %s of %+v", got, e.InvolvedObject)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("no event was written")
		}
	}
}

// TestNoKubernetes wants no client without Kubernetes, and an error that says
// what is missing.
func TestNoKubernetes(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := New(Options{Log: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), "KUBERNETES_SERVICE_HOST") {
		t.Errorf("error %v", err)
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "192.0.2.1")
	t.Setenv("KUBERNETES_SERVICE_PORT", "443")
	root := t.TempDir()
	if _, err := New(Options{Root: root, Log: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), root) {
		t.Errorf("error %v", err)
	}
}
