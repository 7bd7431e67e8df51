//go:build explain

package integration

import (
	"encoding/json"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hostport-cni/hostport/test/world"
)

// TestTrace watches a real packet, and wants every rule of ours that it met
// under its own name, and nothing to be left behind.
func TestTrace(t *testing.T) {
	for _, b := range []world.Backend{world.IptablesNFT, world.NFTables} {
		for _, f := range world.Families {
			t.Run(string(b)+"/"+string(f), func(t *testing.T) {
				t.Parallel()
				e := newEnv(t, world.Options{Backend: b}, f)
				e.web()
				done := make(chan world.Output)
				client := netip.AddrFrom16(f.Client().As16()) // of IPv4, as sockets of IPv6 show it
				go func() {
					done <- e.w.Ctl("trace", "8080", "-n", "1", "-o", "json", "--from", client.String(), "--timeout", "60s")
				}()
				var out world.Output
				for traced := false; !traced; {
					select {
					case out = <-done:
						traced = true
					case <-time.After(200 * time.Millisecond):
						e.reaches(e.w.Client, "tcp", e.node(8080), "web")
					}
				}
				var p struct {
					To, End string
					Rules   []struct{ Component, Rule, Verdict string }
				}
				if err := json.Unmarshal(out.Stdout, &p); err != nil || out.ExitCode != 0 {
					t.Fatalf("trace: exit status %d, %v\n%s%s", out.ExitCode, err, out.Stdout, out.Stderr)
				}
				if want := "left netfilter towards cni0"; p.End != want || p.To != e.node(8080).String() {
					t.Errorf("to %s, end %q; want %s and %q", p.To, p.End, e.node(8080), want)
				}
				found := false
				for _, r := range p.Rules {
					found = found || r.Component == "hostport" && strings.Contains(strings.ToLower(r.Rule), "dnat")
				}
				if !found {
					t.Errorf("our DNAT rule is not in the trace:\n%s", out.Stdout)
				}
				e.noTrace()
				// A trace that is killed leaves nothing either.
				_, err := e.w.Node.TryCommand("", "timeout", "-s", "KILL", "2", filepath.Join(e.w.PluginDir, "hostportctl"),
					"--data-dir", e.w.DataDir, "trace", "8080")
				if err == nil {
					t.Error("the trace was not killed")
				}
				e.noTrace()
			})
		}
	}
}

// noTrace wants no table of a trace.
func (e *env) noTrace() {
	e.Helper()
	if rules := e.w.ListNFT(); strings.Contains(rules, "hostport-trace") {
		e.Errorf("the trace left its table:\n%s", rules)
	}
}
