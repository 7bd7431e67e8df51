package kubernetes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
)

const (
	prometheusAddress = "127.0.0.1:9090"
	prometheusFolder  = "/var/lib/prometheus"

	// hurry is how many times faster than in the chart an alert fires: what has to
	// last for minutes there, lasts for seconds here. Nothing else is changed, and
	// its windows are as they are.
	hurry = 100
)

// prometheusText scrapes and evaluates once a second, where the chart's monitor
// has half a minute.
const prometheusText = `global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [rules.json]
scrape_configs:
- job_name: hostport
  static_configs: [{targets: ["127.0.0.1:9477"]}]
`

// startPrometheus starts Prometheus with the rules of the chart, on the node.
func (c *cluster) startPrometheus(t *testing.T) {
	t.Helper()
	if err := os.MkdirAll(c.node.file(prometheusFolder), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"prometheus.yaml": prometheusText, "rules.json": c.hurriedRules(t)} {
		if err := os.WriteFile(c.node.file(prometheusFolder+"/"+name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.node.daemon("prometheus", "--config.file="+prometheusFolder+"/prometheus.yaml",
		"--storage.tsdb.path="+prometheusFolder+"/data", "--web.listen-address="+prometheusAddress); err != nil {
		t.Fatal(err)
	}
}

// hurriedRules are the alerts of the chart as it renders them.
func (c *cluster) hurriedRules(t *testing.T) string {
	t.Helper()
	text, err := c.helm("template", "hostport", chartFolder, "--kube-version", "1.34.0",
		"--set", "metrics.prometheusRule.enabled=true", "--show-only", "templates/prometheusrule.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var rule unstructured.Unstructured
	if err := yaml.Unmarshal([]byte(text), &rule.Object); err != nil {
		t.Fatal(err)
	}
	groups, _, err := unstructured.NestedSlice(rule.Object, "spec", "groups")
	if err != nil || len(groups) == 0 {
		t.Fatalf("no rules, %v:\n%s", err, text)
	}
	for _, group := range groups {
		for _, r := range group.(map[string]any)["rules"].([]any) {
			alert := r.(map[string]any)
			if alert["for"] == nil {
				continue
			}
			d, err := time.ParseDuration(alert["for"].(string))
			if err != nil {
				t.Fatal(err)
			}
			alert["for"] = fmt.Sprintf("%dms", (d / hurry).Milliseconds())
		}
	}
	out, err := json.Marshal(map[string]any{"groups": groups})
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// TestOperatorAlerts wants a scene for each alert of the chart.
func TestOperatorAlerts(t *testing.T) {
	text, err := os.ReadFile(chartSource + "/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var rules struct {
		Groups []struct {
			Rules []struct{ Alert string }
		}
	}
	if err := yaml.Unmarshal(text, &rules); err != nil {
		t.Fatal(err)
	}
	var want, got []string
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			want = append(want, r.Alert)
		}
	}
	for _, s := range operatorScenes {
		if s.alert != "" {
			got = append(got, s.alert)
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(want, got) {
		t.Errorf("the chart has the alerts %v, and there are scenes for %v", want, got)
	}
}

// alert is one that Prometheus has.
type alert struct {
	Labels map[string]string
	State  string
}

// alerts are those that fire, by name.
func (c *cluster) alerts(ctx context.Context) (map[string][]alert, error) {
	text, err := c.fetch(ctx, "http://"+prometheusAddress+"/api/v1/alerts")
	if err != nil {
		return nil, err
	}
	var answer struct{ Data struct{ Alerts []alert } }
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		return nil, err
	}
	out := map[string][]alert{}
	for _, a := range answer.Data.Alerts {
		if a.State == "firing" {
			out[a.Labels["alertname"]] = append(out[a.Labels["alertname"]], a)
		}
	}
	return out, nil
}

// fires waits until an alert fires that has the labels.
func (c *cluster) fires(t *testing.T, name string, labels map[string]string) {
	t.Helper()
	c.await(t, name+" to fire", func(ctx context.Context) error {
		firing, err := c.alerts(ctx)
		if err != nil {
			return err
		}
		for _, a := range firing[name] {
			if contains(a.Labels, labels) {
				return nil
			}
		}
		return fmt.Errorf("firing: %v", firing)
	})
}

// fired wants Prometheus to have seen an alert fire since a moment.
func (c *cluster) fired(t *testing.T, name string, since time.Time) {
	t.Helper()
	query := fmt.Sprintf("max_over_time(ALERTS{alertname=%q,alertstate=%q}[%dms])", name, "firing", time.Since(since).Milliseconds())
	text, err := c.fetch(t.Context(), "http://"+prometheusAddress+"/api/v1/query?query="+url.QueryEscape(query))
	if err != nil {
		t.Fatal(err)
	}
	var answer struct{ Data struct{ Result []any } }
	if err := json.Unmarshal([]byte(text), &answer); err != nil || len(answer.Data.Result) == 0 {
		t.Errorf("%s did not fire in the scene that it is for: %v\n%s", name, err, text)
	}
}

// ends waits until an alert does not fire any more.
func (c *cluster) ends(t *testing.T, name string) {
	t.Helper()
	c.await(t, name+" to end", func(ctx context.Context) error {
		firing, err := c.alerts(ctx)
		if err == nil && len(firing[name]) > 0 {
			err = fmt.Errorf("it fires: %v", firing[name])
		}
		return err
	})
}

// silent wants an alert not to fire before what it is for.
func (c *cluster) silent(t *testing.T, name string) {
	t.Helper()
	firing, err := c.alerts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(firing[name]) > 0 {
		t.Errorf("%s fires already: %v", name, firing[name])
	}
}

// scraped waits until Prometheus has the agent's metrics, and wants no alert.
func (c *cluster) scraped(t *testing.T) {
	t.Helper()
	c.await(t, "Prometheus to have scraped the agent", func(ctx context.Context) error {
		text, err := c.fetch(ctx, "http://"+prometheusAddress+"/api/v1/query?query=hostport_installed==1")
		if err == nil && !strings.Contains(text, `"instance":"127.0.0.1:9477"`) {
			err = errors.New(text)
		}
		return err
	})
	firing, err := c.alerts(t.Context())
	if err != nil || len(firing) > 0 {
		t.Errorf("alerts on a node where nothing is wrong: %v, %v", firing, err)
	}
}

func contains(all, some map[string]string) bool {
	for k, v := range some {
		if all[k] != v {
			return false
		}
	}
	return true
}
