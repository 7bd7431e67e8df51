package world

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
)

// Mapping is a port mapping as a runtime sends it, with containerd's spelling
// of the keys.
type Mapping struct {
	HostPort      int    `json:"HostPort"`
	ContainerPort int    `json:"ContainerPort"`
	Protocol      string `json:"Protocol"`
	HostIP        string `json:"HostIP"`
}

// TCP maps a TCP port on every address of the node.
func TCP(hostPort, containerPort int) Mapping {
	return Mapping{HostPort: hostPort, ContainerPort: containerPort, Protocol: "tcp"}
}

// UDP maps a UDP port on every address of the node.
func UDP(hostPort, containerPort int) Mapping {
	return Mapping{HostPort: hostPort, ContainerPort: containerPort, Protocol: "udp"}
}

// On returns the mapping on one address of the node.
func (m Mapping) On(hostIP netip.Addr) Mapping {
	m.HostIP = hostIP.String()
	return m
}

// Pod is a sandbox: a network namespace with its name in Kubernetes.
type Pod struct {
	*Netns

	Namespace   string
	UID         string
	ContainerID string
	// CNIArgs replaces containerd's CNI_ARGS, for other runtimes.
	CNIArgs [][2]string
}

// NewPod creates a sandbox in the Kubernetes namespace "default", without an
// interface. A second pod of the same name is another sandbox.
func (w *World) NewPod(name string) *Pod {
	w.t.Helper()
	w.pods++
	p := &Pod{
		Namespace:   "default",
		UID:         fmt.Sprintf("00000000-0000-4000-8000-%012d", w.pods),
		ContainerID: fmt.Sprintf("%04d%060x", w.pods, w.pods*0x9e3779b1),
	}
	p.Netns = newNetns(w.t, w.netns, fmt.Sprintf("%s-%d", name, w.pods))
	p.Netns.Name = name
	return p
}

// NodeSandbox returns the sandbox of a pod with hostNetwork: the node's own
// network namespace.
func (w *World) NodeSandbox(name string) *Pod {
	w.t.Helper()
	p := w.NewPod(name)
	p.Close()
	node := *w.Node
	node.Name = name
	p.Netns = &node
	return p
}

// args returns CNI_ARGS, as containerd sets it unless the pod overrides it.
func (p *Pod) args() [][2]string {
	if p.CNIArgs != nil {
		return p.CNIArgs
	}
	return [][2]string{
		{"IgnoreUnknown", "1"},
		{"K8S_POD_NAMESPACE", p.Namespace},
		{"K8S_POD_NAME", p.Name},
		{"K8S_POD_INFRA_CONTAINER_ID", p.ContainerID},
		{"K8S_POD_UID", p.UID},
	}
}

// Args returns the pod's CNI_ARGS for an Invocation.
func (p *Pod) Args() string {
	var pairs []string
	for _, kv := range p.args() {
		pairs = append(pairs, kv[0]+"="+kv[1])
	}
	return strings.Join(pairs, ";")
}

// Attachment is a pod's interface in a network.
type Attachment struct {
	Network *Network
	Pod     *Pod
	IfName  string
	// Result is what ADD returned.
	Result *types100.Result

	runtime *libcni.RuntimeConf
}

// Add attaches a pod as eth0. A second call sends the same ADD again.
func (n *Network) Add(p *Pod, mappings ...Mapping) (*Attachment, error) {
	return n.AddInterface(p, "eth0", mappings...)
}

// AddInterface attaches a pod. Without mappings the plugin gets no
// runtimeConfig at all; AddWith sends any.
func (n *Network) AddInterface(p *Pod, ifname string, mappings ...Mapping) (*Attachment, error) {
	if len(mappings) == 0 {
		return n.AddWith(p, ifname, nil)
	}
	return n.AddWith(p, ifname, map[string]any{"portMappings": mappings})
}

// AddWith attaches a pod with any capability arguments. It returns the
// attachment even if the chain fails, for the DEL that a runtime sends then.
func (n *Network) AddWith(p *Pod, ifname string, capabilities map[string]any) (*Attachment, error) {
	a := &Attachment{
		Network: n, Pod: p, IfName: ifname,
		runtime: &libcni.RuntimeConf{
			ContainerID: p.ContainerID, NetNS: p.Path, IfName: ifname,
			Args: p.args(), CapabilityArgs: capabilities,
		},
	}
	result, err := n.cni.AddNetworkList(context.Background(), n.list, a.runtime)
	if err != nil {
		return a, err
	}
	a.Result, err = types100.NewResultFromResult(result)
	return a, err
}

// MustAdd creates a pod, attaches it as eth0 and fails the test on an error.
// Call it from the test's goroutine.
func (n *Network) MustAdd(t testing.TB, name string, mappings ...Mapping) *Attachment {
	t.Helper()
	a, err := n.Add(n.w.NewPod(name), mappings...)
	if err != nil {
		t.Fatalf("ADD of %s to %s: %v", name, n, err)
	}
	return a
}

// Addr returns the pod's address in this network. It is invalid if the pod has
// none of the family.
func (a *Attachment) Addr(f Family) netip.Addr {
	if a.Result == nil {
		return netip.Addr{}
	}
	for _, ip := range a.Result.IPs {
		addr, ok := netip.AddrFromSlice(ip.Address.IP)
		if addr = addr.Unmap(); ok && addr.Is4() == (f == V4) {
			return addr
		}
	}
	return netip.Addr{}
}

// Mapped returns the first host port of the ADD, 0 if there was none.
func (a *Attachment) Mapped() int {
	mappings, _ := a.runtime.CapabilityArgs["portMappings"].([]Mapping)
	if len(mappings) == 0 {
		return 0
	}
	return mappings[0].HostPort
}

// Del sends DEL down the chain, as the runtime that sent the ADD would: with
// its cached result and the same capability arguments.
func (a *Attachment) Del() error {
	return a.Network.cni.DelNetworkList(context.Background(), a.Network.list, a.runtime)
}

// MustDel is like Del for steps that have to succeed.
func (a *Attachment) MustDel(t testing.TB) {
	t.Helper()
	if err := a.Del(); err != nil {
		t.Fatalf("DEL of %s from %s: %v", a.Pod.Name, a.Network, err)
	}
}

// DelWithout is like Del from a runtime that no longer knows the sandbox:
// CNI_NETNS is empty.
func (a *Attachment) DelWithout() error {
	runtime := *a.runtime
	runtime.NetNS = ""
	return a.Network.cni.DelNetworkList(context.Background(), a.Network.list, &runtime)
}

// Check sends CHECK down the chain.
func (a *Attachment) Check() error {
	return a.Network.cni.CheckNetworkList(context.Background(), a.Network.list, a.runtime)
}

// CheckHostport sends CHECK to the chained plugin alone, with ADD's result as
// prevResult.
func (a *Attachment) CheckHostport() (*types.Error, error) {
	return a.Network.w.Invoke(a.Invocation("CHECK", nil)).Error()
}

// Invocation returns what a runtime would send to the chained plugin alone.
// Changes apply to the configuration on stdin, including name, cniVersion,
// runtimeConfig and prevResult; a nil value removes a key.
func (a *Attachment) Invocation(command string, changes Config) Invocation {
	a.Network.w.t.Helper()
	return Invocation{
		Command: command, ContainerID: a.Pod.ContainerID, IfName: a.IfName,
		Netns: a.Pod.Path, Args: a.Pod.Args(),
		Stdin: a.stdin(changes),
	}
}
