package main

import (
	"time"

	"github.com/hostport-cni/hostport/internal/explain"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// jsonVersion is the version of the JSON and YAML of list and doctor: it is raised when a
// field changes its meaning or is removed. docs/json.md describes every field.
const jsonVersion = 1

// listing is the output of list.
type listing struct {
	Version   int        `json:"version"`
	HostPorts []listPort `json:"hostPorts"`
}

// listPort is a host port and its owner.
type listPort struct {
	Protocol      hostport.Protocol `json:"protocol"`
	HostIP        string            `json:"hostIP,omitempty"`
	HostPort      uint16            `json:"hostPort"`
	ContainerPort uint16            `json:"containerPort"`
	Targets       []string          `json:"targets"`
	State         string            `json:"state,omitempty"`
	Connections   *uint64           `json:"connections,omitempty"`
	Pod           hostport.Pod      `json:"pod,omitzero"`
	ContainerID   string            `json:"containerID"`
	IfName        string            `json:"ifName"`
	Network       string            `json:"network,omitempty"`
	Backend       string            `json:"backend"`
	Sandbox       string            `json:"sandbox,omitempty"`
	AddedAt       time.Time         `json:"addedAt,omitzero"`
}

// diagnosis is the output of doctor.
type diagnosis struct {
	Version int             `json:"version"`
	Checks  []explain.Check `json:"checks"`
}

func listingOf(rows []row) listing {
	out := listing{Version: jsonVersion, HostPorts: []listPort{}}
	for _, r := range rows {
		a, m := r.attachment, r.mapping
		p := listPort{
			Protocol: m.Protocol, HostPort: m.HostPort, ContainerPort: m.ContainerPort,
			Targets: append([]string{}, r.targets()...), State: r.state, Connections: r.connections, Pod: a.Pod,
			ContainerID: a.ContainerID, IfName: a.IfName, Network: a.Network, Backend: a.Backend, Sandbox: a.Sandbox.Path,
			AddedAt: a.AddedAt,
		}
		if m.HostIP.IsValid() {
			p.HostIP = m.HostIP.Unmap().String()
		}
		out.HostPorts = append(out.HostPorts, p)
	}
	return out
}
