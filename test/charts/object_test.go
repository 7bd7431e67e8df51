package charts

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// objects are the manifests of a text by kind and name. A field that its type does
// not have fails the test, as strict validation would.
func objects(t *testing.T, text string) map[string]any {
	t.Helper()
	out := map[string]any{}
	for r := utilyaml.NewYAMLReader(bufio.NewReader(strings.NewReader(text))); ; {
		document, err := r.Read()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		var meta struct {
			metav1.TypeMeta `json:",inline"`
			Metadata        struct{ Name string }
		}
		if err := yaml.Unmarshal(document, &meta); err != nil {
			t.Fatalf("%v\n%s", err, document)
		}
		if meta.Kind == "" {
			if len(bytes.TrimSpace(uncommented(document))) > 0 {
				t.Errorf("a document without a kind:\n%s", document)
			}
			continue
		}
		object := typed(meta.APIVersion + " " + meta.Kind)
		if object == nil {
			t.Errorf("unexpected %s %s", meta.APIVersion, meta.Kind)
			continue
		}
		if err := yaml.UnmarshalStrict(document, object); err != nil {
			t.Errorf("%s %s: %v", meta.Kind, meta.Metadata.Name, err)
		}
		out[meta.Kind+" "+meta.Metadata.Name] = object
	}
}

// typed is an empty object of a kind that the chart may have.
func typed(kind string) any {
	switch kind {
	case "v1 ServiceAccount":
		return new(corev1.ServiceAccount)
	case "apps/v1 DaemonSet":
		return new(appsv1.DaemonSet)
	case "rbac.authorization.k8s.io/v1 ClusterRole":
		return new(rbacv1.ClusterRole)
	case "rbac.authorization.k8s.io/v1 ClusterRoleBinding":
		return new(rbacv1.ClusterRoleBinding)
	case "rbac.authorization.k8s.io/v1 Role":
		return new(rbacv1.Role)
	case "rbac.authorization.k8s.io/v1 RoleBinding":
		return new(rbacv1.RoleBinding)
	case "monitoring.coreos.com/v1 PodMonitor":
		return new(monitoring.PodMonitor)
	case "monitoring.coreos.com/v1 PrometheusRule":
		return new(monitoring.PrometheusRule)
	}
	return nil
}

func uncommented(document []byte) []byte {
	var out []byte
	for line := range bytes.Lines(document) {
		if !bytes.HasPrefix(line, []byte("#")) && !bytes.HasPrefix(line, []byte("---")) {
			out = append(out, line...)
		}
	}
	return out
}

// daemonSet is the only one.
func daemonSet(t *testing.T, all map[string]any) *appsv1.DaemonSet {
	t.Helper()
	d, ok := all["DaemonSet hostport"].(*appsv1.DaemonSet)
	if !ok || len(d.Spec.Template.Spec.Containers) != 1 {
		t.Fatalf("no DaemonSet of one container in %v", all)
	}
	return d
}
