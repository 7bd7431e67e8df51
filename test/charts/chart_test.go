package charts

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "rewrite conf/kubernetes from the chart")

// platforms are the profiles, with what the nodes of each need.
var platforms = map[string]struct {
	bin, conf, selinux string
	more               []string
}{
	"gke":  {"/home/kubernetes/bin", "/etc/cni/net.d", "spc_t", nil},
	"k3s":  {"/var/lib/rancher/k3s/data/cni", "/var/lib/rancher/k3s/agent/etc/cni/net.d", "spc_t", nil},
	"rke2": {"/opt/cni/bin", "/etc/cni/net.d", "spc_t", nil},
	"microk8s": {
		"/var/snap/microk8s/current/opt/cni/bin", "/var/snap/microk8s/current/args/cni-network", "spc_t", nil,
	},
	"openshift": {"/var/lib/cni/bin", "/etc/kubernetes/cni/net.d", "spc_t", nil},
	"talos":     {"/opt/cni/bin", "/etc/cni/net.d", "spc_t", []string{`--config=backend="nftables"`}},
	"kind":      {"/opt/cni/bin", "/etc/cni/net.d", "spc_t", []string{"--replace-portmap"}},
}

// TestProfiles lints and renders the chart for each platform.
func TestProfiles(t *testing.T) {
	files, err := filepath.Glob(chart + "/profiles/*.yaml")
	if err != nil || len(files) != len(platforms) {
		t.Fatalf("%d profiles, want %d: %v", len(files), len(platforms), err)
	}
	for name, want := range platforms {
		t.Run(name, func(t *testing.T) {
			profile := chart + "/profiles/" + name + ".yaml"
			lint(t, "--values", profile)
			d := daemonSet(t, objects(t, template(t, "--values", profile)))
			c := d.Spec.Template.Spec.Containers[0]
			for _, arg := range append(want.more, "--bin-dir="+want.bin, "--conf-dir="+want.conf) {
				if !slices.Contains(c.Args, arg) {
					t.Errorf("no %s in %v", arg, c.Args)
				}
			}
			if got := c.SecurityContext.SELinuxOptions.Type; got != want.selinux {
				t.Errorf("SELinux type %q", got)
			}
			checkFlags(t, c.Args)
		})
	}
}

// TestDefault compares the chart without values with conf/kubernetes.
func TestDefault(t *testing.T) {
	lint(t)
	text := template(t)
	all := objects(t, text)
	checkFlags(t, daemonSet(t, all).Spec.Template.Spec.Containers[0].Args)
	if len(daemonSet(t, all).Spec.Template.Spec.Volumes) > 0 {
		t.Error("a directory of the node is mounted: it may be read-only somewhere")
	}
	for _, name := range []string{"serviceaccount.yaml", "rbac.yaml", "daemonset.yaml"} {
		want := generated(t, name)
		if *update {
			if err := os.WriteFile(manifests+"/"+name, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(want, read(t, manifests+"/"+name)); diff != "" {
			t.Errorf("%s is not the chart's: make manifests (-chart +file):\n%s", name, diff)
		}
	}
	built, err := run(t, kustomize, "build", manifests)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(all, objects(t, built)); diff != "" {
		t.Errorf("kustomize makes other objects (-chart +kustomize):\n%s", diff)
	}
}

// generated is the text of one template, as conf/kubernetes has it.
func generated(t *testing.T, name string) string {
	t.Helper()
	var out strings.Builder
	out.WriteString("# Made from conf/helm/hostport by make manifests: change that.\n")
	for line := range strings.Lines(template(t, "--show-only", "templates/"+name)) {
		if line != "---\n" && !strings.HasPrefix(line, "# Source: ") || line == "---\n" && strings.Count(out.String(), "\n") > 1 {
			out.WriteString(line)
		}
	}
	return out.String()
}

// TestValues renders the chart with values, and wants what they are for.
func TestValues(t *testing.T) {
	for _, tt := range []struct {
		name     string
		args     []string
		has, not []string
	}{
		{"defaults", nil, []string{"--metrics-address=127.0.0.1:9477", "host: \"127.0.0.1\"", "--kube-events", "--daemonset=kube-system/hostport", "image: registry.example/hostport:v0.1.0\n"}, []string{"HOST_IP", "PodMonitor", "PrometheusRule", "--replace-portmap", "--connection-metrics", "scc"}},
		{"digest", []string{"--set", "image.digest=sha256:" + strings.Repeat("0", 64)}, []string{"hostport@sha256:000"}, nil},
		{"tag", []string{"--set", "image.tag=v9"}, []string{"image: registry.example/hostport:v9\n"}, nil},
		{"monitor", []string{"--set", "metrics.podMonitor.enabled=true,metrics.podMonitor.labels.release=prometheus"}, []string{"--metrics-address=$(HOST_IP):9477", "kind: PodMonitor", "release: prometheus"}, []string{"127.0.0.1"}},
		{"rules", []string{"--set", "metrics.prometheusRule.enabled=true,metrics.prometheusRule.runbooks=https://runbooks.example/hostport"}, []string{"kind: PrometheusRule", "runbook_url: https://runbooks.example/hostport#hostportconflict", "{{ $labels.instance }}"}, []string{"docs/operations.md"}},
		{"plugin", []string{"--set-json", `pluginConfig={"masqAll":true,"markMasqBit":12,"conditionsV4":["!","-d","10.96.0.0/12"]}`}, []string{`--config=masqAll=true`, `--config=markMasqBit=12`, `--config=conditionsV4=[\"!\",\"-d\",\"10.96.0.0/12\"]`}, nil},
		{"quiet", []string{"--set", "events=false,cleanup.enabled=false"}, []string{"automountServiceAccountToken: false"}, []string{"automountServiceAccountToken: true", "kind: ClusterRole\n", "--kube-events", "- --cleanup"}},
		{"openshift", []string{"--set", "openshift=true"}, []string{"system:openshift:scc:privileged"}, nil},
		{"network", []string{"--set", "network=podnet,mode=dropin,replacePortmap=true,paths.data=/var/lib/hostport"}, []string{"--network=podnet", "--mode=dropin", "--replace-portmap", "--data-dir=/var/lib/hostport"}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			lint(t, tt.args...)
			text := template(t, tt.args...)
			for _, want := range tt.has {
				if !strings.Contains(text, want) {
					t.Errorf("no %s in\n%s", want, text)
				}
			}
			for _, not := range tt.not {
				if strings.Contains(text, not) {
					t.Errorf("%s in\n%s", not, text)
				}
			}
			checkFlags(t, daemonSet(t, objects(t, text)).Spec.Template.Spec.Containers[0].Args)
		})
	}
}

// TestSchema wants values refused that nobody means.
func TestSchema(t *testing.T) {
	for _, set := range []string{
		"mode=both", "paths.bin=opt/cni/bin", "deadOwnerTimeout=soon", "replacePortmpa=true", "metrics.port=0",
		"metrics.podMonitr.enabled=true", "logLevel=loud", "image.repository=", "image.digest=sha256:0",
	} {
		out, err := run(t, helm, "template", "hostport", chart, kubeVersion, "--set", set)
		if err == nil || !strings.Contains(err.Error(), "values don't meet the specifications of the schema") {
			t.Errorf("--set %s: %v\n%s", set, err, out)
		}
	}
}

// TestRoles wants every permission to be one that was thought about.
func TestRoles(t *testing.T) {
	var got []string
	for name, o := range objects(t, template(t)) {
		var rules []rbacv1.PolicyRule
		switch role := o.(type) {
		case *rbacv1.ClusterRole:
			rules = role.Rules
		case *rbacv1.Role:
			rules = role.Rules
		}
		for _, r := range rules {
			got = append(got, name+": "+strings.Join(r.Verbs, ",")+" "+strings.Join(r.Resources, ",")+" "+strings.Join(r.ResourceNames, ","))
		}
	}
	slices.Sort(got)
	want := []string{
		"ClusterRole hostport-events: create,patch events ",
		"Role hostport-cleanup: get daemonsets hostport",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("permissions (-want +got):\n%s", diff)
	}
}

// TestCleanupOff turns cleanup off, as an update of a release does. Agents of before
// still run with --cleanup: one that may not read its DaemonSet when it is replaced
// takes that for the end of the release, and takes the plugin out of its node.
func TestCleanupOff(t *testing.T) {
	before := objects(t, template(t))
	after := objects(t, template(t, "--set", "cleanup.enabled=false"))
	for _, name := range []string{"ServiceAccount hostport", "Role hostport-cleanup", "RoleBinding hostport-cleanup"} {
		if before[name] == nil {
			t.Errorf("no %s", name)
		}
		if diff := cmp.Diff(before[name], after[name]); diff != "" {
			t.Errorf("%s (-before +after):\n%s", name, diff)
		}
	}
}

// TestToken wants a token for an agent that talks to the API server, whichever of its
// flags it does so for, and for no other.
func TestToken(t *testing.T) {
	values := map[string]string{"events": "--kube-events", "cleanup.enabled": "--daemonset=kube-system/hostport", "podPorts": "--pod-ports"}
	for _, on := range []string{"", "events", "cleanup.enabled", "podPorts"} {
		t.Run(on, func(t *testing.T) {
			var set []string
			for value := range values {
				set = append(set, fmt.Sprintf("%s=%t", value, value == on))
			}
			pod := daemonSet(t, objects(t, template(t, "--set", strings.Join(set, ",")))).Spec.Template.Spec
			for value, arg := range values {
				if got := slices.Contains(pod.Containers[0].Args, arg); got != (value == on) {
					t.Errorf("%s is an argument: %v", arg, got)
				}
			}
			if got := pod.AutomountServiceAccountToken; got == nil || *got != (on != "") {
				t.Errorf("the token is mounted: %v", got != nil && *got)
			}
		})
	}
}

// TestVersion wants one version, in VERSION and in the chart.
func TestVersion(t *testing.T) {
	var c struct{ Version, AppVersion string }
	if err := yaml.Unmarshal([]byte(read(t, chart+"/Chart.yaml")), &c); err != nil {
		t.Fatal(err)
	}
	version := strings.TrimSpace(read(t, root+"/VERSION"))
	if c.Version != version || c.AppVersion != "v"+version {
		t.Errorf("VERSION is %s, the chart's version %s, its appVersion %s", version, c.Version, c.AppVersion)
	}
}

func lint(t *testing.T, args ...string) {
	t.Helper()
	if _, err := run(t, helm, append([]string{"lint", "--strict", kubeVersion, chart}, args...)...); err != nil {
		t.Errorf("helm lint: %v", err)
	}
}

// checkFlags wants the agent to understand its arguments.
func checkFlags(t *testing.T, args []string) {
	t.Helper()
	cmd := exec.Command("go", append([]string{"run", "-buildvcs=false", "./cmd/hostport-agent"}, append(slices.Clone(args), "--version")...)...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil || !strings.HasPrefix(string(out), "hostport-agent ") {
		t.Errorf("the agent does not take %v: %v\n%s", args, err, out)
	}
}
