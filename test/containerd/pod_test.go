package containerd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/hostport-cni/hostport/test/world"
)

// pod is what a test asks the CRI for.
type pod struct {
	name        string // namespace is always "default"
	attempt     uint32 // how many sandboxes the pod had before
	ports       []*cri.PortMapping
	hostNetwork bool
	// tcp and udp are the ports that the pod's process serves.
	tcp, udp string
}

// sandbox is a pod that runs.
type sandbox struct {
	pod
	*world.Netns // the node's with hostNetwork
	id           string
	ips          []netip.Addr
}

func tcp(hostPort, containerPort int32) *cri.PortMapping {
	return &cri.PortMapping{Protocol: cri.Protocol_TCP, HostPort: hostPort, ContainerPort: containerPort}
}

func udp(hostPort, containerPort int32) *cri.PortMapping {
	return &cri.PortMapping{Protocol: cri.Protocol_UDP, HostPort: hostPort, ContainerPort: containerPort}
}

func onIP(hostIP string, mapping *cri.PortMapping) *cri.PortMapping {
	mapping.HostIp = hostIP
	return mapping
}

func (p pod) sandboxConfig() *cri.PodSandboxConfig {
	options := &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}
	if p.hostNetwork {
		options.Network = cri.NamespaceMode_NODE
	}
	return &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: p.name, Namespace: "default", Uid: "uid-of-" + p.name, Attempt: p.attempt},
		PortMappings: p.ports,
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent:    "/" + os.Getenv(groupKey),
			SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: options},
		},
	}
}

// runPod runs a sandbox with one container. The test's end removes it, unless
// the test did.
func (d *daemon) runPod(t *testing.T, p pod) *sandbox {
	t.Helper()
	s, err := d.tryPod(t.Context(), p)
	if s != nil {
		t.Cleanup(func() { d.remove(t, s) })
	}
	if err != nil {
		t.Fatalf("run pod %s: %v", p.name, err)
	}
	return s
}

// tryPod is runPod where it may fail. A sandbox that was made is returned with
// the error.

func (d *daemon) tryPod(ctx context.Context, p pod) (*sandbox, error) {
	config := p.sandboxConfig()
	created, err := d.runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: config})
	if err != nil {
		return nil, err
	}
	s := &sandbox{pod: p, id: created.PodSandboxId}
	reply, err := d.runtime.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: s.id, Verbose: true})
	if err != nil {
		return s, err
	}
	ips := []string{reply.Status.Network.GetIp()}
	for _, ip := range reply.Status.Network.GetAdditionalIps() {
		ips = append(ips, ip.Ip)
	}
	for _, ip := range ips {
		if addr, err := netip.ParseAddr(ip); err == nil { // none with hostNetwork
			s.ips = append(s.ips, addr)
		}
	}
	path, err := netnsOf(reply.Info["info"])
	if err != nil {
		return s, err
	}
	if s.Netns = d.w.Node; path != "" {
		s.Netns = d.w.NetnsAt(p.name, path)
	}
	return s, d.serve(ctx, s, config)
}

// serve runs the pod's program and waits until it answers.
func (d *daemon) serve(ctx context.Context, s *sandbox, config *cri.PodSandboxConfig) error {
	container, err := d.runtime.CreateContainer(ctx, &cri.CreateContainerRequest{
		PodSandboxId:  s.id,
		SandboxConfig: config,
		Config: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: "peer", Attempt: s.attempt},
			Image:    &cri.ImageSpec{Image: image},
			Args:     []string{"-name", s.name, "-tcp", s.tcp, "-udp", s.udp},
			Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{
				NamespaceOptions: config.Linux.SecurityContext.NamespaceOptions,
			}},
		},
	})
	if err != nil {
		return err
	}
	if _, err = d.runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: container.ContainerId}); err != nil {
		return err
	}
	return errors.Join(answers(s.Netns, "tcp", s.tcp), answers(s.Netns, "udp", s.udp))
}

// answers waits until a program in a namespace does. "" is no port.
func answers(n *world.Netns, protocol, port string) error {
	if port == "" {
		return nil
	}
	to := netip.MustParseAddrPort("127.0.0.1:" + port)
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		_, err := n.TryAsk(protocol, netip.AddrPort{}, to, time.Second)
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// netnsOf finds the sandbox's network namespace in what containerd tells about
// it in verbose mode. A sandbox in the node's namespace has none.
func netnsOf(info string) (string, error) {
	var verbose struct {
		RuntimeSpec struct {
			Linux struct {
				Namespaces []struct{ Type, Path string }
			}
		}
	}
	if err := json.Unmarshal([]byte(info), &verbose); err != nil {
		return "", fmt.Errorf("parse sandbox information: %w", err)
	}
	for _, namespace := range verbose.RuntimeSpec.Linux.Namespaces {
		if namespace.Type == "network" {
			return namespace.Path, nil
		}
	}
	return "", nil
}

// stopPod stops a sandbox; the CRI calls it again and again until it succeeds,
// so containerd is to accept any number of calls.
func (d *daemon) stopPod(ctx context.Context, s *sandbox) error {
	_, err := d.runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: s.id})
	return err
}

// remove stops and removes a sandbox, also one that is gone already.
func (d *daemon) remove(t *testing.T, s *sandbox) {
	t.Helper()
	// The test's own context is done when its cleanups run.
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	// containerd 1.6 does not know a sandbox that it has removed.
	if err := d.stopPod(ctx, s); err != nil && status.Code(err) != codes.NotFound {
		t.Errorf("stop pod %s: %v", s.name, err)
	}
	if _, err := d.runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: s.id}); err != nil {
		t.Errorf("remove pod %s: %v", s.name, err)
	}
}

// listed returns the names of sandboxes that containerd holds ready.
func (d *daemon) listed(t *testing.T) []string {
	t.Helper()
	list, err := d.runtime.ListPodSandbox(t.Context(), &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{
		State: &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_READY},
	}})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, item := range list.Items {
		names = append(names, item.Metadata.Name)
	}
	return names
}
