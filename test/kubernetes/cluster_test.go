package kubernetes

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// pair is what the scenes are played with.
type pair struct {
	backend string // of the plugin under test
	proxy   string // kube-proxy's mode
	dataDir string // of the plugin under test; empty: its default, below /run
	newest  bool   // containerd, and not Debian's
	six     bool   // IPv6 pods and Services
	four    bool   // with six: IPv4 ones as well, in the first place
	// agent is for a node that portmap serves, in a cluster that can have an
	// agent: with DaemonSets, service accounts and their permissions.
	agent bool
	// asks is for a runtime that sends no host ports, which is CRI-O: the plugin
	// asks the agent for them.
	asks bool
}

func (p pair) String() string {
	name := "hostport-" + p.backend + "/kube-proxy-" + p.proxy
	if p.newest {
		name += "/containerd-newest"
	}
	if p.asks {
		name += "/asks-agent"
	}
	if p.six {
		name += "/" + strings.ReplaceAll(every(p.families(), family.String), ",", "-and-")
	}
	return name
}

// families are those of pods and Services, the first one first.
func (p pair) families() []family {
	switch {
	case !p.six:
		return []family{ipv4}
	case !p.four:
		return []family{ipv6}
	}
	return []family{ipv4, ipv6}
}

// anywhere is every address of the node.
func (p pair) anywhere() string {
	if p.six {
		return "::"
	}
	return "0.0.0.0"
}

// cniBin is the directory of the runtime's plugins: that of all programs, or one
// that the agent may write to.
func (p pair) cniBin() string {
	if p.agent {
		return nodeCNI + "/bin"
	}
	return nodeBin
}

// cluster is one node with everything Kubernetes on it.
type cluster struct {
	pair
	node *node
	api  *kubernetes.Clientset
}

// newCluster starts a cluster and ends it with the test.
func newCluster(t *testing.T, p pair) *cluster {
	t.Helper()
	logs, err := os.MkdirTemp("", "hostport-kubernetes-")
	if err != nil {
		t.Fatal(err)
	}
	n, err := newNode(logs, p.families())
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{pair: p, node: n}
	forget := atInterrupt(func() {
		n.close()
		_ = os.RemoveAll(logs)
	})
	t.Cleanup(func() {
		n.close()
		forget()
		if t.Failed() {
			t.Logf("logs are kept in %s", logs)
			return
		}
		_ = os.RemoveAll(logs)
	})
	if c.api, err = c.client(); err != nil {
		t.Fatal(err)
	}
	if err := c.writeFiles(); err != nil {
		t.Fatal(err)
	}
	c.start(t)
	return c
}

// client talks to the API server from inside the node.
func (c *cluster) client() (*kubernetes.Clientset, error) {
	return kubernetes.NewForConfig(&rest.Config{
		Host:            "https://" + apiAddress,
		BearerToken:     token,
		TLSClientConfig: rest.TLSClientConfig{Insecure: true},
		QPS:             1000,
		Burst:           1000,
		Timeout:         10 * time.Second,
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			return c.node.network.dial(ctx, network, address, nil)
		},
		// Whatever the environment says: the API is at hand.
		Proxy: func(*http.Request) (*url.URL, error) { return nil, nil },
	})
}

func (c *cluster) writeFiles() error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	conflist, err := conflistText(c.pair)
	if err != nil {
		return err
	}
	runtime, err := containerdConfig(c.pair)
	if err != nil {
		return err
	}
	files := map[string]string{
		kubernetesFolder + "/service-account.pem": string(pem.EncodeToMemory(&pem.Block{
			Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key),
		})),
		kubernetesFolder + "/tokens":          token + ",admin,admin,system:masters\n",
		kubeconfig:                            kubeconfigText,
		kubernetesFolder + "/kubelet.yaml":    kubeletText(c.anywhere(), c.node.cgroup.name),
		kubernetesFolder + "/kube-proxy.yaml": proxyText(c.pair),
		kubernetesFolder + "/containerd.toml": runtime,
		nodeCNI + "/net.d/10-pods.conflist":   conflist,
	}
	if err := os.MkdirAll(c.node.file(staticPods), 0o755); err != nil {
		return err
	}
	for path, content := range files {
		if err := os.MkdirAll(filepath.Dir(c.node.file(path)), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(c.node.file(path), []byte(content), 0o600); err != nil {
			return err
		}
	}
	if c.agent {
		if err := c.writePlugins(); err != nil {
			return err
		}
	}
	image, err := os.Create(c.node.file(kubernetesFolder + "/image.tar"))
	if err != nil {
		return err
	}
	defer image.Close()
	if err := writeImage(image, filepath.Join(binaryFolder, "answer")); err != nil {
		return fmt.Errorf("write the image: %w", err)
	}
	return nil
}

// start starts all there is, on a new node or after a reboot, and waits until
// the node is ready.
func (c *cluster) start(t *testing.T) {
	t.Helper()
	c.startContainerd(t)
	for _, d := range c.daemons() {
		if err := c.node.daemon(d[0], d[1:]...); err != nil {
			t.Fatal(err)
		}
		if d[0] == "kube-apiserver" {
			// The others would wait too, but in steps of seconds.
			c.await(t, "the API server", func(ctx context.Context) error {
				_, err := c.api.CoreV1().Namespaces().Get(ctx, "default", metav1.GetOptions{})
				return err
			})
			if c.asks {
				c.startAgent(t)
			}
		}
	}
	c.await(t, "a ready node", func(ctx context.Context) error {
		found, err := c.api.CoreV1().Nodes().Get(ctx, nodeName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if len(found.Spec.Taints) > 0 {
			return fmt.Errorf("taints: %v", found.Spec.Taints)
		}
		boot, err := c.node.command("cat", "/proc/sys/kernel/random/boot_id")
		if err != nil {
			return err
		}
		if boot != found.Status.NodeInfo.BootID+"\n" {
			return fmt.Errorf("status is of boot %s", found.Status.NodeInfo.BootID)
		}
		for _, condition := range found.Status.Conditions {
			if condition.Type == corev1.NodeReady && condition.Status != corev1.ConditionTrue {
				return fmt.Errorf("not ready: %s", condition.Message)
			}
		}
		return nil
	})
}

func (c *cluster) startContainerd(t *testing.T) {
	t.Helper()
	if err := c.node.daemon(containerdProgram(c.pair), "--config", kubernetesFolder+"/containerd.toml"); err != nil {
		t.Fatal(err)
	}
	c.await(t, "containerd", func(context.Context) error {
		_, err := c.node.command("ctr", "--address", criSocket, "version")
		return err
	})
	c.await(t, "the image", func(context.Context) error {
		_, err := c.node.command("ctr", "--address", criSocket, "--namespace", "k8s.io",
			"images", "import", kubernetesFolder+"/image.tar")
		return err
	})
}

// daemons returns the programs and their arguments, in order.
func (c *cluster) daemons() [][]string {
	controllers := "deployment-controller,replicaset-controller,endpointslice-controller,node-lifecycle-controller"
	// Most pods have no use for tokens, nor their cluster for the controllers of
	// what is deleted in the background.
	admission, authorization := "--disable-admission-plugins=ServiceAccount", "AlwaysAllow"
	if c.agent {
		controllers += ",daemonset-controller,serviceaccount-controller,root-ca-certificate-publisher-controller,garbage-collector-controller"
		admission, authorization = "--enable-admission-plugins=ServiceAccount", "RBAC"
	}
	return [][]string{
		{
			"etcd", "--data-dir=/var/lib/etcd", "--logger=zap",
			"--listen-client-urls=" + etcdAddress, "--advertise-client-urls=" + etcdAddress,
			"--listen-peer-urls=http://127.0.0.1:2380",
		},
		{
			"kube-apiserver", "--etcd-servers=" + etcdAddress,
			"--bind-address=" + c.anywhere(), "--advertise-address=" + nodeOf(c.families()[0]), "--secure-port=6443",
			"--cert-dir=" + kubernetesFolder + "/pki",
			"--token-auth-file=" + kubernetesFolder + "/tokens", "--authorization-mode=" + authorization,
			"--service-account-issuer=https://kubernetes.default.svc",
			"--service-account-key-file=" + kubernetesFolder + "/service-account.pem",
			"--service-account-signing-key-file=" + kubernetesFolder + "/service-account.pem",
			admission,
			"--service-cluster-ip-range=" + every(c.families(), servicesOf), "--allow-privileged=true",
			// The node's name is known to nobody's DNS.
			"--kubelet-preferred-address-types=InternalIP",
		},
		{
			"kube-controller-manager", "--kubeconfig=" + kubeconfig, "--leader-elect=false", "--secure-port=0",
			"--controllers=" + controllers, "--node-monitor-period=1s",
			// The API server's own certificate: what pods believe.
			"--root-ca-file=" + kubernetesFolder + "/pki/apiserver.crt",
		},
		{"kube-scheduler", "--kubeconfig=" + kubeconfig, "--leader-elect=false", "--secure-port=0"},
		{"kube-proxy", "--config=" + kubernetesFolder + "/kube-proxy.yaml", "--v=2"},
		{
			"kubelet", "--config=" + kubernetesFolder + "/kubelet.yaml", "--kubeconfig=" + kubeconfig,
			"--hostname-override=" + nodeName, "--node-ip=" + every(c.families(), nodeOf),
			"--cert-dir=" + kubernetesFolder + "/pki",
		},
	}
}
