package main

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/internal/install"
)

func TestRefused(t *testing.T) {
	for _, tc := range []struct {
		args string
		want string
	}{
		{"--no-such-flag", "no-such-flag"},
		{"now", "unexpected argument"},
		{"--mode neither", "want conflist or dropin"},
		{"--backend ipvs", "want iptables or nftables"},
		{"--config x", "want KEY=VALUE"},
		{"--config type=portmap", "not to be chosen"},
		{"--data-dir run/hostport", "not an absolute path"},
		{"--legacy-interval 0s", "more than 0"},
		{"--dead-owner-timeout -1s", "negative"},
		{"--cleanup --no-install", "exclude each other"},
		{"--host-root /host", "want /proc/PID/root"},
	} {
		t.Run(tc.args, func(t *testing.T) {
			var stderr bytes.Buffer
			if status := run(append([]string{"hostport-agent"}, strings.Fields(tc.args)...), &stderr, &stderr); status == 0 || !strings.Contains(stderr.String(), tc.want) {
				t.Errorf("exit status %d, want %q:\n%s", status, tc.want, stderr.String())
			}
		})
	}
}

func TestVersion(t *testing.T) {
	var stdout bytes.Buffer
	if status := run([]string{"hostport-agent", "--version"}, &stdout, &stdout); status != 0 || !strings.HasPrefix(stdout.String(), "hostport-agent development (go") {
		t.Errorf("exit status %d: %s", status, stdout.String())
	}
}

func TestOptions(t *testing.T) {
	dir := t.TempDir()
	s, err := parse([]string{"--config", "snat=false", "--backend", "nftables", "--data-dir", "/run/other", "--replace-portmap"}, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.options(home{"/", dir}, slog.Default()); err == nil || !strings.Contains(err.Error(), "not beside the agent") {
		t.Errorf("without the plugin: %v", err)
	}
	plugin := filepath.Join(dir, "hostport")
	if err := os.WriteFile(plugin, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	o, err := s.options(home{"/", dir}, slog.Default())
	if err != nil {
		t.Fatal(err)
	}
	want := install.Options{
		BinDir: "/opt/cni/bin", ConfDir: "/etc/cni/net.d", Mode: install.Conflist, ReplacePortmap: true, Binaries: []string{plugin},
		Settings: []install.Setting{{Key: "snat", Value: "false"}, {Key: "dataDir", Value: `"/run/other"`}, {Key: "backend", Value: `"nftables"`}},
	}
	if diff := cmp.Diff(want, o.Install); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if o.MetricsAddress != "127.0.0.1:9477" || o.DataDir != "/run/other" || o.Backend != "nftables" {
		t.Errorf("%+v", o)
	}
}
