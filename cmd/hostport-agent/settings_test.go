package main

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/internal/host"
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
	s, err := parse([]string{"--config", "snat=false", "--backend", "nftables", "--data-dir", "/run/other", "--replace-portmap", "--pod-ports"}, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.options(host.Home{Root: "/", Programs: dir}, slog.Default()); err == nil || !strings.Contains(err.Error(), "not beside the agent") {
		t.Errorf("without the plugin: %v", err)
	}
	plugin := filepath.Join(dir, "hostport")
	if err := os.WriteFile(plugin, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	o, err := s.options(host.Home{Root: "/", Programs: dir}, slog.Default())
	if err != nil {
		t.Fatal(err)
	}
	want := install.Options{
		BinDir: "/opt/cni/bin", ConfDir: "/etc/cni/net.d", Mode: install.Conflist, ReplacePortmap: true, Binaries: []string{plugin},
		Settings: []install.Setting{{Key: "snat", Value: "false"}, {Key: "dataDir", Value: `"/run/other"`}, {Key: "backend", Value: `"nftables"`}, {Key: "podPorts", Value: `"agent"`}},
	}
	if diff := cmp.Diff(want, o.Install); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if o.MetricsAddress != "127.0.0.1:9477" || o.DataDir != "/run/other" || o.Backend != "nftables" {
		t.Errorf("%+v", o)
	}
}

// TestPodPorts wants the entry to tell the plugin to ask the agent only if the
// agent answers.
func TestPodPorts(t *testing.T) {
	for args, want := range map[string][]install.Setting{
		"--pod-ports":               {{Key: "podPorts", Value: `"agent"`}},
		"":                          {{Key: "podPorts"}},
		"--config podPorts=runtime": {{Key: "podPorts", Value: `"runtime"`}},
		"--config snat=false":       {{Key: "snat", Value: "false"}, {Key: "podPorts"}},
	} {
		s, err := parse(strings.Fields(args), os.Stderr)
		if err != nil {
			t.Errorf("%q: %v", args, err)
			continue
		}
		if diff := cmp.Diff(want, s.Install.Settings); diff != "" {
			t.Errorf("%q (-want +got):\n%s", args, diff)
		}
	}
}

// TestUnit reads the command line of the systemd unit, which has to work in
// every installation directory.
func TestUnit(t *testing.T) {
	_, line, found := strings.Cut(read(t, "conf/systemd/hostport-agent.service"), "\nExecStart=")
	line, _, _ = strings.Cut(line, "\n")
	program, args, _ := strings.Cut(line, " ")
	s, err := parse(strings.Fields(args), os.Stderr)
	if !found || err != nil || !s.NoInstall {
		t.Errorf("%q: %v, no install: %v", line, err, s.NoInstall)
	}
	// systemd-path search-binaries-default: where systemd looks for a name without
	// a slash.
	searched := []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"}
	for file, pattern := range map[string]string{
		"Makefile":         `(?m)^\tinstall .* \$\(DESTDIR\)(/.*)/hostport-agent$`,
		".goreleaser.yaml": `(?m)^    bindir: (/.*)$`,
	} {
		found := regexp.MustCompile(pattern).FindAllStringSubmatch(read(t, file), -1)
		if len(found) != 1 {
			t.Errorf("%s installs the agent in %q", file, found)
			continue
		}
		dir := found[0][1]
		if program != dir+"/hostport-agent" && (program != "hostport-agent" || !slices.Contains(searched, dir)) {
			t.Errorf("%s installs the agent in %s: the unit does not find %s there", file, dir, program)
		}
	}
}

// read returns the text of a file of the project.
func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile("../../" + file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestDocumented wants every flag in docs/agent.md.
func TestDocumented(t *testing.T) {
	text := read(t, "docs/agent.md")
	var help bytes.Buffer
	if _, err := parse([]string{"--help"}, &help); err == nil {
		t.Fatal("no help")
	}
	flags := regexp.MustCompile(`(?m)^  -([a-z-]+)`).FindAllStringSubmatch(help.String(), -1)
	if len(flags) < 20 {
		t.Fatalf("%d flags:\n%s", len(flags), help.String())
	}
	for _, f := range flags {
		if !strings.Contains(text, "`--"+f[1]) {
			t.Errorf("docs/agent.md does not tell of --%s", f[1])
		}
	}
}
