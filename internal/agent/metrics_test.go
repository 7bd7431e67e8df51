package agent

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/hostport-cni/hostport/internal/node"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// newTestAgent returns an agent that never runs, with records.
func newTestAgent(t *testing.T) *Agent {
	t.Helper()
	a := New(Options{
		DataDir: filepath.Join(t.TempDir(), "none"), Build: "v1.2.3", Log: slog.New(slog.DiscardHandler), ConnectionMetrics: true,
	})
	a.metrics.setSnapshot(&node.Snapshot{Attachments: []*hostport.Attachment{
		{
			Key: hostport.Key{ContainerID: "c1", IfName: "eth0"}, Pod: hostport.Pod{Namespace: "shop", Name: "web-1"}, Backend: "iptables",
			Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/24"), netip.MustParsePrefix("fd00::2/64")},
			Mappings: []hostport.Mapping{
				{HostPort: 80, ContainerPort: 8080, Protocol: hostport.TCP},
				{HostPort: 80, ContainerPort: 8080, Protocol: hostport.TCP},
				{HostPort: 53, ContainerPort: 53, Protocol: hostport.UDP, HostIP: netip.MustParseAddr("192.0.2.1")},
			},
		},
		{
			Key: hostport.Key{ContainerID: "c2", IfName: "eth0"}, Backend: "nftables",
			Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.3/24")},
			Mappings:  []hostport.Mapping{{HostPort: 81, ContainerPort: 81, Protocol: hostport.TCP}},
		},
	}})
	return a
}

// TestMetricsLint does what `promtool check metrics` does, with every series
// present.
func TestMetricsLint(t *testing.T) {
	a := newTestAgent(t)
	a.metrics.setDead(1)
	a.metrics.setCompared(map[string][]node.Difference{"iptables": {{Text: "differs"}}})
	a.metrics.setUsable("iptables", true)
	a.metrics.setBackingOff(process{name: "nft"})
	problems, err := testutil.GatherAndLint(a.metrics.registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// fixed collects the records as they are.
type fixed struct{ *Agent }

func (f *fixed) Describe(ch chan<- *prometheus.Desc) {
	ch <- describe().mappings
	ch <- describe().info
}

func (f *fixed) Collect(ch chan<- prometheus.Metric) { describe().mappingsOf(f.metrics.snapshot(), ch) }

func TestMetrics(t *testing.T) {
	a := newTestAgent(t)
	want := `
# HELP hostport_mapping_info Each mapping, and the pod that owns it.
# TYPE hostport_mapping_info gauge
hostport_mapping_info{container_port="53",host_ip="192.0.2.1",host_port="53",namespace="shop",pod="web-1",protocol="udp"} 1
hostport_mapping_info{container_port="81",host_ip="",host_port="81",namespace="",pod="",protocol="tcp"} 1
hostport_mapping_info{container_port="8080",host_ip="",host_port="80",namespace="shop",pod="web-1",protocol="tcp"} 1
# HELP hostport_mappings Mappings of host ports.
# TYPE hostport_mappings gauge
hostport_mappings{backend="iptables",family="ipv4",protocol="tcp"} 1
hostport_mappings{backend="iptables",family="ipv4",protocol="udp"} 1
hostport_mappings{backend="iptables",family="ipv6",protocol="tcp"} 1
hostport_mappings{backend="nftables",family="ipv4",protocol="tcp"} 1
`
	if err := testutil.CollectAndCompare(&fixed{a}, strings.NewReader(want), "hostport_mapping_info", "hostport_mappings"); err != nil {
		t.Error(err)
	}
}

// TestCompared wants no value where the state is unknown: an old value would
// look like a current one.
func TestCompared(t *testing.T) {
	m := newTestAgent(t).metrics
	in := func(differences ...node.Difference) []node.Difference { return differences }
	for _, step := range []struct {
		name string
		do   func()
		want map[string]float64
	}{
		{"before a comparison", func() {}, map[string]float64{}},
		{"compared", func() {
			m.setUsable("iptables", true)
			m.setCompared(map[string][]node.Difference{"iptables": in(node.Difference{Text: "differs"}), "nftables": in()})
		}, map[string]float64{"out_of_sync iptables": 1, "out_of_sync nftables": 0, "backend_up iptables": 1}},
		{"one backend cannot be read", func() {
			m.setCompared(map[string][]node.Difference{"nftables": in()})
		}, map[string]float64{"out_of_sync nftables": 0, "backend_up iptables": 0}},
		{"its STATUS is good", func() {
			m.setUsable("iptables", true)
		}, map[string]float64{"out_of_sync nftables": 0, "backend_up iptables": 0}},
		{"read again", func() {
			m.setCompared(map[string][]node.Difference{"iptables": in(), "nftables": in()})
		}, map[string]float64{"out_of_sync iptables": 0, "out_of_sync nftables": 0, "backend_up iptables": 1}},
		{"the records are another version's", m.forgetCompared, map[string]float64{"backend_up iptables": 1}},
		{"nothing can be read", func() { m.setCompared(nil) }, map[string]float64{"backend_up iptables": 0}},
		{"not in use", func() { m.forgetBackend("iptables") }, map[string]float64{}},
	} {
		step.do()
		got := map[string]float64{}
		families, err := m.registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			name := strings.TrimPrefix(f.GetName(), "hostport_")
			if name != "out_of_sync" && name != "backend_up" {
				continue
			}
			for _, series := range f.GetMetric() {
				got[name+" "+series.GetLabel()[0].GetValue()] = series.GetGauge().GetValue()
			}
		}
		if diff := cmp.Diff(step.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step.name, diff)
		}
	}
}

// TestHealth queries an agent that has not started yet, and one that has.
func TestHealth(t *testing.T) {
	a := newTestAgent(t)
	ask := func(reasons []string) (int, string) {
		w := httptest.NewRecorder()
		answer(w, reasons)
		b, err := io.ReadAll(w.Result().Body)
		if err != nil {
			t.Fatal(err)
		}
		return w.Code, string(b)
	}
	if code, text := ask(a.ready.reasons()); code != http.StatusServiceUnavailable || !strings.HasPrefix(text, "starting\n") {
		t.Errorf("%d %q", code, text)
	}
	a.setReady(func(r *ready) { r.status = "backend iptables: not installed" })
	if code, text := ask(a.ready.reasons()); code != http.StatusServiceUnavailable || text != "starting\nbackend iptables: not installed\n" {
		t.Errorf("%d %q", code, text)
	}
	a.setReady(func(r *ready) { r.started, r.status = true, "" })
	if code, text := ask(a.ready.reasons()); code != http.StatusOK || text != "ok\n" {
		t.Errorf("%d %q", code, text)
	}
	if got := a.healer.stuck(); len(got) > 0 {
		t.Errorf("stuck: %v", got)
	}
	a.healer.busy.Store(time.Now().Add(-2 * stuckTime).Unix())
	if got := a.healer.stuck(); len(got) == 0 {
		t.Error("not stuck")
	}
}

// TestReasons wants each new reason in the log, even if the agent was never
// ready.
func TestReasons(t *testing.T) {
	a := newTestAgent(t)
	var out bytes.Buffer
	a.log = slog.New(slog.NewTextHandler(&out, nil))
	told := func(entry string) bool {
		out.Reset()
		a.setReady(func(r *ready) { r.entry = entry })
		return strings.Contains(out.String(), "not ready") && strings.Contains(out.String(), entry)
	}
	if !told("no configuration") || told("no configuration") || !told("another one") || told("") {
		t.Error("a reason is told once, when it is new")
	}
	out.Reset()
	a.setReady(func(r *ready) { r.started, r.status = true, "" })
	if !strings.Contains(out.String(), "msg=ready") {
		t.Errorf("ready: %q", out.String())
	}
}

// TestEnded wants Run to fail if it cannot listen, and to end with its context.
func TestEnded(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	if ended(ctx, context.Canceled) {
		t.Error("ended before it was told to")
	}
	cancel()
	if !ended(ctx, context.Canceled) {
		t.Error("an error of the end is none")
	}
}
