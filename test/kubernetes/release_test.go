package kubernetes

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// chartFolder is the chart on the node's disk.
	chartFolder = kubernetesFolder + "/chart"
	chartSource = "../../conf/helm/hostport"

	// productImage has two tags: this version, and one with other rules.
	productImage  = "hostport.invalid/hostport"
	productNow    = "v0.1.0-now"
	productNext   = "v0.1.0-next"
	imagesFolder  = "images"
	system        = metav1.NamespaceSystem
	daemonSetName = "hostport"

	// deadOwnerTimeout is shorter than the product's.
	deadOwnerTimeout = 20 * time.Second
)

// buildRelease builds helm, Prometheus, portmap, and the product's image in two versions.
func buildRelease() error {
	folder, err := filepath.Abs(binaryFolder)
	if err != nil {
		return err
	}
	if _, err := goTool("build", "-buildvcs=false", "-o", folder+"/", pluginModule+"meta/portmap"); err != nil {
		return err
	}
	for _, tool := range [][]string{
		{"-modfile=.ci/helm.mod", "helm.sh/helm/v3/cmd/helm"},
		{"-modfile=.ci/promtool.mod", "-tags=remove_all_sd", "github.com/prometheus/prometheus/cmd/prometheus"},
	} {
		if _, err := goTool(append([]string{"build", "-C", "../..", "-buildvcs=false", "-ldflags=-s -w", "-o", folder + "/"}, tool...)...); err != nil {
			return err
		}
	}
	for version, tags := range map[string]string{productNow: "", productNext: "nextlayout"} {
		if _, err := goTool("run", "-C", "../../build/image", "-buildvcs=false", ".", "-name", productImage, "-version", version, "-tags", tags,
			"-platforms", "linux/"+runtime.GOARCH, "-archive", filepath.Join(folder, imagesFolder, version+".tar")); err != nil {
			return err
		}
	}
	return nil
}

// writePlugins gives the node the plugins that it would have before the agent
// comes: without them the newest containerd says that it is not ready.
func (c *cluster) writePlugins() error {
	if err := os.MkdirAll(c.node.file(c.cniBin()), 0o755); err != nil {
		return err
	}
	for _, name := range []string{"bridge", "host-local", "loopback", "portmap"} {
		binary, err := os.ReadFile(filepath.Join(binaryFolder, name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(c.node.file(c.cniBin()+"/"+name), binary, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// prepareRelease gives the node the images and the chart.
func (c *cluster) prepareRelease(t *testing.T) {
	t.Helper()
	for _, version := range []string{productNow, productNext} {
		if _, err := c.node.command("ctr", "--address", criSocket, "--namespace", "k8s.io",
			"images", "import", nodeBin+"/"+imagesFolder+"/"+version+".tar"); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.CopyFS(c.node.file(chartFolder), os.DirFS(chartSource)); err != nil {
		t.Fatal(err)
	}
	c.await(t, "service accounts", func(ctx context.Context) error {
		_, err := c.api.CoreV1().ServiceAccounts(namespace).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

// helm runs helm on the node, as an administrator.
func (c *cluster) helm(args ...string) (string, error) {
	return c.node.command("helm", append(args, "--kubeconfig", kubeconfig, "--namespace", system)...)
}

// kubectl runs kubectl on the node, as an administrator.
func (c *cluster) kubectl(args ...string) (string, error) {
	return c.node.command("kubectl", append([]string{"--kubeconfig", kubeconfig, "--cache-dir", kubernetesFolder + "/cache", "--namespace", system}, args...)...)
}

// values are those of this node.
func (c *cluster) values(version string) []string {
	return []string{
		"--set", strings.Join([]string{
			"image.repository=" + productImage, "image.tag=" + version, "image.pullPolicy=Never", "replacePortmap=true",
			"paths.bin=" + c.cniBin(), "paths.conf=" + nodeCNI + "/net.d", "deadOwnerTimeout=" + deadOwnerTimeout.String(),
		}, ","),
	}
}

// install installs or upgrades the release, and waits until the node is ready.
func (c *cluster) install(t *testing.T, version string) {
	t.Helper()
	if _, err := c.helm(slices.Concat([]string{"upgrade", "--install", "hostport", chartFolder}, c.values(version))...); err != nil {
		t.Fatal(err)
	}
	c.rolledOut(t, version)
}

// rolledOut waits until the agent of a version is ready, and the only one.
func (c *cluster) rolledOut(t *testing.T, version string) {
	t.Helper()
	c.await(t, "the agent "+version, func(ctx context.Context) error {
		d, err := c.api.AppsV1().DaemonSets(system).Get(ctx, daemonSetName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		s := d.Status
		if image := d.Spec.Template.Spec.Containers[0].Image; !strings.HasSuffix(image, ":"+version) {
			return fmt.Errorf("the DaemonSet's image is %s", image)
		}
		if s.ObservedGeneration < d.Generation || s.UpdatedNumberScheduled < 1 || s.NumberReady != s.DesiredNumberScheduled {
			return fmt.Errorf("%+v\n%s", s, c.agentLog(8))
		}
		pods, err := c.agents(ctx)
		if err == nil && len(pods) != 1 {
			err = fmt.Errorf("%d agents", len(pods))
		}
		return err
	})
}

func (c *cluster) agents(ctx context.Context) ([]corev1.Pod, error) {
	pods, err := c.api.CoreV1().Pods(system).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=hostport"})
	if err != nil {
		return nil, err
	}
	return pods.Items, nil
}

// agentLog returns the last lines of every agent that there was on the node.
func (c *cluster) agentLog(lines int) string {
	var out strings.Builder
	paths, _ := filepath.Glob(c.node.file("/var/log/pods/" + system + "_hostport-*/agent/*.log"))
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		all := strings.Split(strings.TrimSpace(string(text)), "\n")
		out.WriteString(strings.Join(all[max(0, len(all)-lines):], "\n") + "\n")
	}
	return out.String()
}

// keepAgentLog prints the agent's log if the test fails: kubelet removes it with the
// pod.
func (c *cluster) keepAgentLog(t *testing.T) {
	t.Helper()
	paths, _ := filepath.Glob(c.node.file("/var/log/pods/" + system + "_hostport-*/agent/*.log"))
	for _, path := range paths {
		file, err := os.Open(path)
		if err != nil {
			continue // of a pod that goes
		}
		t.Cleanup(func() {
			defer file.Close()
			if text, err := io.ReadAll(file); t.Failed() && err == nil {
				t.Logf("the agent's log:\n%s", text)
			}
		})
	}
}

// replaceAgent ends the agent, and waits for the next one. It knows of no row of
// repairs, which would be slowed down.
func (c *cluster) replaceAgent(t *testing.T) {
	t.Helper()
	before, err := c.agents(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.killAgent(t)
	c.await(t, "another agent", func(ctx context.Context) error {
		pods, err := c.agents(ctx)
		if err != nil {
			return err
		}
		if len(pods) != 1 || slices.ContainsFunc(before, func(p corev1.Pod) bool { return p.UID == pods[0].UID }) {
			return fmt.Errorf("%d agents, and none that is new", len(pods))
		}
		return running(&pods[0])
	})
}

// killAgent kills the agent's process as a crash would, and has the pod replaced:
// kubelet would wait longer and longer before it starts the container again.
func (c *cluster) killAgent(t *testing.T) {
	t.Helper()
	pods, err := c.agents(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.node.command("sh", "-c", `for p in /proc/[0-9]*; do
		if tr '\0' ' ' <$p/cmdline 2>/dev/null | grep -q '^[^ ]*hostport-agent '; then kill -9 ${p#/proc/}; fi
	done`); err != nil {
		t.Fatal(err)
	}
	for _, p := range pods {
		err := c.api.CoreV1().Pods(system).Delete(t.Context(), p.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)})
		if err != nil {
			t.Fatal(err)
		}
	}
}
