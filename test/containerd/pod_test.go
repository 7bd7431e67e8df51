package containerd

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// pod is what a test asks the CRI for.
type pod struct {
	name        string // namespace is always "default"
	ports       []*cri.PortMapping
	hostNetwork bool
	// tcp and udp are the ports that the pod's process serves.
	tcp, udp string
}

// sandbox is a pod that runs.
type sandbox struct {
	pod
	id    string
	ip    string
	netns string // empty with hostNetwork
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

// answer is what the pod says to a client that it sees at the given address;
// an empty address is any.
func (p pod) answer(client string) answer {
	return answer{Pod: "default/" + p.name, Client: client}
}

func (p pod) sandboxConfig() *cri.PodSandboxConfig {
	options := &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}
	if p.hostNetwork {
		options.Network = cri.NamespaceMode_NODE
	}
	return &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: p.name, Namespace: "default", Uid: "uid-of-" + p.name},
		PortMappings: p.ports,
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent:    "/" + groupName(),
			SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: options},
		},
	}
}

// runPod runs a sandbox with one container. The test's end removes it, unless
// the test did.
func (d *daemon) runPod(t *testing.T, p pod) *sandbox {
	t.Helper()
	s, err := d.tryPod(t.Context(), p)
	if err != nil {
		t.Fatalf("run pod %s: %v", p.name, err)
	}
	t.Cleanup(func() { d.remove(t, s) })
	return s
}

func (d *daemon) tryPod(ctx context.Context, p pod) (*sandbox, error) {
	config := p.sandboxConfig()
	created, err := d.runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: config})
	if err != nil {
		return nil, err
	}
	s := &sandbox{pod: p, id: created.PodSandboxId}
	if err := d.serve(ctx, s, config); err != nil {
		return nil, err
	}
	reply, err := d.runtime.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: s.id, Verbose: true})
	if err != nil {
		return nil, err
	}
	s.ip = reply.Status.Network.GetIp()
	s.netns, err = netnsOf(reply.Info["info"])
	return s, err
}

func (d *daemon) serve(ctx context.Context, s *sandbox, config *cri.PodSandboxConfig) error {
	container, err := d.runtime.CreateContainer(ctx, &cri.CreateContainerRequest{
		PodSandboxId:  s.id,
		SandboxConfig: config,
		Config: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: "peer"},
			Image:    &cri.ImageSpec{Image: image},
			Args:     []string{"-name", s.answer("").Pod, "-tcp", s.tcp, "-udp", s.udp},
			Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{
				NamespaceOptions: config.Linux.SecurityContext.NamespaceOptions,
			}},
		},
	})
	if err != nil {
		return err
	}
	_, err = d.runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: container.ContainerId})
	return err
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
