package containerd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	types100 "github.com/containernetworking/cni/pkg/types/100"
)

// chain is a network as runtimes other than containerd hold it: libcni, the
// library all of them call plugins with, and a conflist.
type chain struct {
	cni  *libcni.CNIConfig
	list *libcni.NetworkConfigList
}

// capabilities are what a runtime knows of a pod, by capability.
type capabilities = map[string]any

// portMapping has the names of fields that go-cni sends, which has no JSON
// tags; lowerMapping those of the CNI conventions, which Multus sends.
type (
	portMapping struct {
		HostPort      int32
		ContainerPort int32
		Protocol      string
		HostIP        string
	}
	lowerMapping struct {
		HostPort      int    `json:"hostPort"`
		ContainerPort int    `json:"containerPort"`
		Protocol      string `json:"protocol,omitempty"`
		HostIP        string `json:"hostIP,omitempty"`
	}
)

func newChain(t *testing.T, conflist string) chain {
	t.Helper()
	list, err := libcni.NetworkConfFromBytes([]byte(conflist))
	if err != nil {
		t.Fatal(err)
	}
	// Plugins may be talkative on stderr (sbr is), which is for failures.
	var stderr bytes.Buffer
	t.Cleanup(func() {
		if t.Failed() && stderr.Len() > 0 {
			t.Logf("plugins of network %s wrote:\n%s", list.Name, &stderr)
		}
	})
	exec := &invoke.DefaultExec{RawExec: &invoke.RawExec{Stderr: &stderr}}
	return chain{
		cni:  libcni.NewCNIConfigWithCacheDir([]string{binDir()}, t.TempDir(), exec),
		list: list,
	}
}

// example reads a conflist of the product's conf/ and sets the backend, which
// the examples leave open. It takes bridge's masquerading out: bridge leaves it
// behind when a DEL names no namespace, and then fails at the next DEL over its
// own left-overs.
func example(t *testing.T, name, backend string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(repository(), "conf", name))
	if err != nil {
		t.Fatal(err)
	}
	var conflist map[string]any
	if err := json.Unmarshal(content, &conflist); err != nil {
		t.Fatalf("parse %s: %v", name, err)
	}
	found := false
	for _, plugin := range conflist["plugins"].([]any) {
		plugin := plugin.(map[string]any)
		delete(plugin, "ipMasq")
		if plugin["type"] == pluginType {
			plugin["backend"], found = backend, true
		}
	}
	if !found {
		t.Fatalf("%s has no plugin of type %s", name, pluginType)
	}
	content, err = json.Marshal(conflist)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// add attaches; the test's end detaches, whether or not the test did.
func (c chain) add(t *testing.T, attachment *libcni.RuntimeConf) *types100.Result {
	t.Helper()
	result, err := c.tryAdd(t, attachment)
	if err != nil {
		t.Fatalf("ADD %s of %s: %v", attachment.IfName, attachment.ContainerID, err)
	}
	return result
}

func (c chain) tryAdd(t *testing.T, attachment *libcni.RuntimeConf) (*types100.Result, error) {
	t.Helper()
	t.Cleanup(func() { _ = c.cni.DelNetworkList(t.Context(), c.list, attachment) })
	result, err := c.cni.AddNetworkList(t.Context(), c.list, attachment)
	if err != nil {
		return nil, err
	}
	return types100.NewResultFromResult(result)
}

func (c chain) check(t *testing.T, attachment *libcni.RuntimeConf) {
	t.Helper()
	if err := c.cni.CheckNetworkList(t.Context(), c.list, attachment); err != nil {
		t.Errorf("CHECK %s of %s: %v", attachment.IfName, attachment.ContainerID, err)
	}
}

// checkPlugin has the plugin alone check an attachment, with the whole chain's
// result: bridge's own CHECK wants a route by its gateway in the main table,
// which a second network does not have.
func (c chain) checkPlugin(t *testing.T, attachment *libcni.RuntimeConf) {
	t.Helper()
	for _, plugin := range c.list.Plugins {
		if plugin.Network.Type != pluginType {
			continue
		}
		alone, err := libcni.InjectConf(plugin, map[string]any{"name": c.list.Name, "cniVersion": c.list.CNIVersion})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.cni.CheckNetwork(t.Context(), alone, attachment); err != nil {
			t.Errorf("CHECK %s of %s: %v", attachment.IfName, attachment.ContainerID, err)
		}
	}
}

func (c chain) del(t *testing.T, attachment *libcni.RuntimeConf) {
	t.Helper()
	if err := c.cni.DelNetworkList(t.Context(), c.list, attachment); err != nil {
		t.Errorf("DEL %s of %s: %v", attachment.IfName, attachment.ContainerID, err)
	}
}

// addressOf is the first address of a result.
func addressOf(t *testing.T, result *types100.Result) string {
	t.Helper()
	if len(result.IPs) == 0 {
		t.Fatalf("result without an address: %v", result)
	}
	return result.IPs[0].Address.IP.String()
}

// newNamespace makes a network namespace and returns its path.
func newNamespace(t *testing.T, name string) string {
	t.Helper()
	mustRun(t, "ip", "netns", "add", name)
	t.Cleanup(func() { _, _ = run("ip", "netns", "del", name) })
	return "/run/netns/" + name
}

// serveIn runs a peer in a network namespace; an empty path is one that the
// process makes for itself, which lives as long as it does.
func serveIn(t *testing.T, namespace, name, tcp, udp string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(peerPath(), "-name", name, "-tcp", tcp, "-udp", udp)
	cmd.Stderr = os.Stderr
	if namespace == "" {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	}
	// A child inherits the namespace of the thread that starts it.
	if err := within(namespace, cmd.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(cmd) })
	return cmd
}

// end kills a peer; its namespace, if it is its own, is gone when end returns
// or soon after. One that has ended may be ended again.
func end(cmd *exec.Cmd) {
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// podArgs is CNI_ARGS as Kubernetes' runtimes fill it.
func podArgs(ignoreUnknown, name, container string) [][2]string {
	return [][2]string{
		{"IgnoreUnknown", ignoreUnknown},
		{"K8S_POD_NAMESPACE", "default"},
		{"K8S_POD_NAME", name},
		{"K8S_POD_INFRA_CONTAINER_ID", container},
		{"K8S_POD_UID", "uid-of-" + name},
	}
}

// containerID makes an ID like those of runtimes: 64 hexadecimal digits.
func containerID(seed byte) string {
	return strings.Repeat(fmt.Sprintf("%02x", seed), 32)
}
