package kubernetes

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
)

// resources are where the API server has the kinds of the chart.
var resources = map[string]string{
	"ServiceAccount":     "/api/v1/namespaces/kube-system/serviceaccounts/",
	"DaemonSet":          "/apis/apps/v1/namespaces/kube-system/daemonsets/",
	"ClusterRole":        "/apis/rbac.authorization.k8s.io/v1/clusterroles/",
	"ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/",
	"Role":               "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-system/roles/",
	"RoleBinding":        "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-system/rolebindings/",
}

// manifestsAccepted applies what the chart makes for each platform, server side
// and with strict validation, and throws it away: a dry run.
func manifestsAccepted(t *testing.T, c *cluster) {
	profiles, err := filepath.Glob(chartSource + "/profiles/*.yaml")
	if err != nil || len(profiles) == 0 {
		t.Fatalf("no profiles: %v", err)
	}
	for _, profile := range append([]string{""}, profiles...) {
		t.Run(strings.TrimSuffix(filepath.Base(profile), ".yaml"), func(t *testing.T) {
			args := []string{"template", "hostport", chartFolder, "--kube-version", "1.34.0"}
			if profile != "" {
				args = append(args, "--values", chartFolder+"/profiles/"+filepath.Base(profile))
			}
			text, err := c.helm(args...)
			if err != nil {
				t.Fatal(err)
			}
			if n := c.applyDry(t, text); n < 2 {
				t.Errorf("%d objects", n)
			}
		})
	}
}

// applyDry returns how many objects there were.
func (c *cluster) applyDry(t *testing.T, text string) int {
	t.Helper()
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader([]byte(text)), 4096)
	for n := 0; ; n++ {
		var o unstructured.Unstructured
		err := decoder.Decode(&o)
		if errors.Is(err, io.EOF) {
			return n
		}
		if err != nil {
			t.Fatal(err)
		}
		path, ok := resources[o.GetKind()]
		if !ok {
			t.Fatalf("unexpected kind %s", o.GetKind())
		}
		body, err := o.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		force := true
		options := &metav1.PatchOptions{
			FieldManager: "test", Force: &force, FieldValidation: metav1.FieldValidationStrict, DryRun: []string{metav1.DryRunAll},
		}
		answer, err := c.api.CoreV1().RESTClient().Patch(types.ApplyPatchType).AbsPath(path+o.GetName()).
			VersionedParams(options, scheme.ParameterCodec).Body(body).DoRaw(t.Context())
		if err != nil {
			t.Errorf("%s: %v\n%s", fmt.Sprint(o.GetKind(), " ", o.GetName()), err, answer)
		}
	}
}
