package kubernetes

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

const (
	// kustomizeFolder is conf/kubernetes on the node's disk.
	kustomizeFolder = kubernetesFolder + "/kustomize"
	kustomizeSource = "../../conf/kubernetes"
)

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
			path := kubernetesFolder + "/rendered.yaml"
			if err := os.WriteFile(c.node.file(path), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := c.kubectl("apply", "--server-side", "--dry-run=server", "--validate=strict", "--output=name", "--filename", path)
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(out, "\n"); n < 2 || !strings.Contains(out, "daemonset.apps/hostport") {
				t.Errorf("accepted are %d objects:\n%s", n, out)
			}
		})
	}
}

// kubectlApply installs without helm, and uninstalls. What an operator has to edit
// is the image, and on this node the directories and whom the plugin replaces.
func kubectlApply(t *testing.T, c *cluster) {
	files, err := filepath.Glob(kustomizeSource + "/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no manifests: %v", err)
	}
	if err := os.MkdirAll(c.node.file(kustomizeFolder), 0o755); err != nil {
		t.Fatal(err)
	}
	edit := strings.NewReplacer(
		"newName: registry.example/hostport", "newName: "+productImage, "newTag: v0.1.0", "newTag: "+productNow,
		"/opt/cni/bin", c.cniBin(), "/etc/cni/net.d", nodeCNI+"/net.d",
		"- --mode=conflist\n", "- --mode=conflist\n            - --replace-portmap\n",
	)
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(c.node.file(kustomizeFolder+"/"+filepath.Base(path)), []byte(edit.Replace(string(text))), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := string(c.conflist(t))
	if _, err := c.kubectl("apply", "--kustomize", kustomizeFolder); err != nil {
		t.Fatal(err)
	}
	c.rolledOut(t, productNow)
	if out, err := c.kubectl("rollout", "status", "daemonset/"+daemonSetName, "--timeout=30s"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	c.create(t, answerPod("applied", hostPort(corev1.ProtocolTCP, 18222, 80)))
	c.ready(t, "applied")
	c.answers(t, "applied", "its port", tcp(c.node.outside, onNode(18222)))
	c.consistent(t, 1)
	c.remove(t, false, "applied")
	if _, err := c.kubectl("delete", "--kustomize", kustomizeFolder, "--wait=false"); err != nil {
		t.Fatal(err)
	}
	c.gone(t, want)
}
