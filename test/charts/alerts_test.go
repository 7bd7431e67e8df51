package charts

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

const (
	alerts     = chart + "/alerts.yaml"
	alertTests = "testdata/alerts_test.yaml"
	operations = root + "/docs/operations.md"
)

// TestAlerts has promtool check the rules, and run their tests.
func TestAlerts(t *testing.T) {
	if out, err := run(t, promtool, "check", "rules", "--lint-fatal", alerts); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := run(t, promtool, "test", "rules", alertTests); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestMetrics wants each metric of the rules to be one that the agent has.
func TestMetrics(t *testing.T) {
	var source strings.Builder
	files, err := filepath.Glob(root + "/internal/agent/*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("no agent: %v", err)
	}
	for _, file := range files {
		source.WriteString(read(t, file))
	}
	names := regexp.MustCompile(`\bhostport_[a-z_]+`).FindAllString(read(t, alerts), -1)
	if len(names) == 0 {
		t.Fatal("the rules name no metric")
	}
	for _, name := range names {
		if !strings.Contains(source.String(), `"`+name+`"`) {
			t.Errorf("the agent has no metric %s", name)
		}
	}
}

// TestRunbooks wants a test that sees each alert fire, and a runbook for it.
func TestRunbooks(t *testing.T) {
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert       string
				Annotations map[string]string
			}
		}
	}
	var tests struct {
		Tests []struct {
			Alerts []struct {
				Name string `json:"alertname"`
				Want []any  `json:"exp_alerts"`
			} `json:"alert_rule_test"`
		}
	}
	for file, into := range map[string]any{alerts: &rules, alertTests: &tests} {
		if err := yaml.Unmarshal([]byte(read(t, file)), into); err != nil {
			t.Fatal(err)
		}
	}
	fires := map[string]bool{}
	for _, test := range tests.Tests {
		for _, a := range test.Alerts {
			fires[a.Name] = fires[a.Name] || len(a.Want) > 0
		}
	}
	runbooks := read(t, operations)
	for _, r := range rules.Groups[0].Rules {
		if !fires[r.Alert] {
			t.Errorf("%s: no test in which it fires", r.Alert)
		}
		if !strings.Contains(runbooks, "\n### "+r.Alert+"\n") {
			t.Errorf("%s: no section in docs/operations.md", r.Alert)
		}
		if want := "docs/operations.md#" + strings.ToLower(r.Alert); r.Annotations["runbook_url"] != want {
			t.Errorf("%s: runbook %q, want %q", r.Alert, r.Annotations["runbook_url"], want)
		}
	}
}
