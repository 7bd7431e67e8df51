package kubernetes

import (
	"encoding/json"
	"fmt"
)

// Addresses and names of the cluster.
const (
	nodeName    = "node"
	apiAddress  = "127.0.0.1:6443"
	etcdAddress = "http://127.0.0.1:2379"
	criSocket   = "/run/containerd/containerd.sock"
	token       = "of-a-cluster-nobody-else-can-reach"

	// On the node's disk, which survives a reboot.
	kubernetesFolder = "/var/lib/kubernetes"
	kubeconfig       = kubernetesFolder + "/kubeconfig"
	persistentData   = "/var/lib/hostport"
	staticPods       = kubernetesFolder + "/static"
)

// kubeconfigText lets every component in as an administrator. The API server
// signs its own certificate, and what has to be proven here is not TLS.
const kubeconfigText = `apiVersion: v1
kind: Config
clusters:
- name: test
  cluster: {server: "https://` + apiAddress + `", insecure-skip-tls-verify: true}
users:
- name: admin
  user: {token: ` + token + `}
contexts:
- name: test
  context: {cluster: test, user: admin}
current-context: test
`

// containerdText keeps to what the tests need: CRI, runc and overlayfs. A test
// in a container may lack the capability to give the sandboxes the low OOM
// score that kubelet asks for: they then get its own.
func containerdText(cniBin string) string {
	return `version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
]
[grpc]
  address = "` + criSocket + `"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "` + imageName + `"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "` + cniBin + `"
    conf_dir = "` + nodeCNI + `/net.d"
`
}

// kubeletText: the cgroup root confines the pods. The thresholds of zero are
// there because the test machine's disk and memory are none of kubelet's business.
func kubeletText(address, cgroupRoot string) string {
	return `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
cgroupRoot: /` + cgroupRoot + `
failCgroupV1: false
failSwapOn: false
address: "` + address + `"
containerRuntimeEndpoint: unix://` + criSocket + `
resolvConf: ""
enableControllerAttachDetach: false
localStorageCapacityIsolation: false
volumePluginDir: /var/lib/kubelet/volume-plugins
staticPodPath: ` + staticPods + `
nodeStatusUpdateFrequency: 1s
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: "0%", nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%"}
readOnlyPort: 0
healthzPort: 0
logging: {verbosity: 2}
`
}

// proxyText: conntrack limits are the machine's, not the node's.
func proxyText(p pair) string {
	return `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: ` + p.proxy + `
hostnameOverride: ` + nodeName + `
clusterCIDR: ` + every(p.families(), podsOf) + `
clientConnection: {kubeconfig: ` + kubeconfig + `}
conntrack: {maxPerCore: 0}
`
}

// conflistText is the pod network: a bridge that masquerades what leaves the
// node, which must not cost the clients of host ports their addresses, and
// then the plugin under test.
func conflistText(p pair) (string, error) {
	kind := "hostport"
	if p.agent {
		kind = "portmap" // until the agent comes
	}
	plugin := map[string]any{
		"type":         kind,
		"backend":      p.backend,
		"capabilities": map[string]bool{"portMappings": true},
	}
	if p.dataDir != "" {
		plugin["dataDir"] = p.dataDir
	}
	if p.asks {
		delete(plugin, "capabilities") // so containerd sends no host ports
		plugin["podPorts"] = "agent"
	}
	version := "1.0.0" // the newest that Debian's containerd speaks
	if p.newest {
		version = "1.1.0"
	}
	var ranges, routes []any
	for _, f := range p.families() {
		ranges = append(ranges, []any{map[string]string{"subnet": f.pods.String()}})
		routes = append(routes, map[string]string{"dst": f.everywhere.String()})
	}
	text, err := json.MarshalIndent(map[string]any{
		"cniVersion": version,
		"name":       "pods",
		"plugins": []any{
			map[string]any{
				"type":          "bridge",
				"bridge":        "cni0",
				"isGateway":     true,
				"ipMasq":        true,
				"ipMasqBackend": p.backend,
				"hairpinMode":   true,
				"ipam": map[string]any{
					"type":   "host-local",
					"ranges": ranges,
					"routes": routes,
				},
			},
			plugin,
		},
	}, "", "  ")
	if err != nil {
		return "", fmt.Errorf("write the conflist: %w", err)
	}
	return string(text), nil
}
