// Package kubernetes holds the tests that run hostport on a real Kubernetes
// node: etcd, kube-apiserver, kube-controller-manager, kube-scheduler,
// kube-proxy, kubelet and containerd, all inside namespaces that the test
// creates and that are removed with it. TestOperator adds helm, kubectl and
// Prometheus.
//
// It is a module of its own, so that Kubernetes stays out of the plugin's
// go.mod. It needs root, and Debian's etcd-server, containerd, runc, iptables,
// nftables, conntrack and iproute2. It never talks to the machine's own
// containerd and sends traffic only between its own network namespaces.
package kubernetes
