// Package hostport is the domain of the plugin, whose words all other packages share: port
// mappings, the attachments that own them, and the rules by which two owners conflict. It
// does no I/O and knows nothing of CNI's wire format, of iptables or of nftables.
package hostport

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Key identifies an attachment on a node. The CNI specification keys
// attachments by network as well, but an interface name exists once in a
// sandbox, and a DEL must find its record after the network was renamed.
type Key struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifName"`
}

// String returns "CONTAINER/IFNAME".
func (k Key) String() string { return k.ContainerID + "/" + k.IfName }

// Sandbox identifies a network namespace. A path alone is not enough: a new sandbox may
// be mounted where an old one was, so device and inode are compared too.
type Sandbox struct {
	Path   string `json:"path,omitempty"`
	Device uint64 `json:"device,omitempty"`
	Inode  uint64 `json:"inode,omitempty"`
}

// Same reports whether both are the same namespace, whatever their paths.
func (s Sandbox) Same(o Sandbox) bool {
	return s.Inode != 0 && s.Device == o.Device && s.Inode == o.Inode
}

// Pod names the Kubernetes pod of an attachment, as far as CNI_ARGS does.
type Pod struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	UID       string `json:"uid,omitempty"`
}

// String returns "namespace/name", "name" if the runtime has no namespaces
// (Podman), or "" if it named no pod.
func (p Pod) String() string { return strings.TrimPrefix(p.tag(), "/") }

// tag returns the pod as written in an attachment's tag. It always has the slash:
// a tag without it was cut off.
func (p Pod) tag() string {
	if p.Name == "" {
		return ""
	}
	return p.Namespace + "/" + p.Name
}

// Options are the configuration keys that shape an attachment's rules. They
// are recorded with it, so that its rules can be rebuilt at any time.
type Options struct {
	// SNAT masquerades clients whose replies would bypass the node.
	SNAT bool `json:"snat"`
	// MasqueradeAll masquerades every client.
	MasqueradeAll bool `json:"masqAll,omitempty"`
	// MarkMasqBit is the packet mark bit, 0 to 31, of the iptables backend.
	MarkMasqBit int `json:"markMasqBit,omitempty"`
	// ExternalSetMarkChain, if set, is jumped to instead of marking.
	ExternalSetMarkChain string `json:"externalSetMarkChain,omitempty"`
	// ConditionsV4 and ConditionsV6 are further matches in the backend's own
	// syntax, that a packet must meet to be mapped.
	ConditionsV4 []string `json:"conditionsV4,omitempty"`
	ConditionsV6 []string `json:"conditionsV6,omitempty"`
}

// Conditions returns the conditions of one family.
func (o Options) Conditions(f Family) []string {
	if f == IPv4 {
		return o.ConditionsV4
	}
	return o.ConditionsV6
}

// Attachment is one interface of one container on one network, with the port
// mappings it owns and everything needed to rebuild its rules.
type Attachment struct {
	Key
	Network   string         `json:"network,omitempty"`
	Sandbox   Sandbox        `json:"sandbox,omitzero"`
	Pod       Pod            `json:"pod,omitzero"`
	Addresses []netip.Prefix `json:"addresses"`
	Mappings  []Mapping      `json:"mappings"`
	Backend   string         `json:"backend"`
	Options   Options        `json:"options"`
	// LoopbackInterface is the node's interface towards a pod that 127.0.0.1 must reach, or "".
	LoopbackInterface string `json:"loopbackInterface,omitempty"`
	// Boot is the BootHash of the boot in which the attachment was added, and State, six
	// hexadecimal digits, the state file in which it is recorded. Both are "" if read back
	// from rules of layout 1. An owner whose rules name a state that has no record of it
	// was deleted.
	Boot  string `json:"boot,omitempty"`
	State string `json:"state,omitempty"`
	// AddedAt is the time of the ADD, the zero Time for an attachment that was
	// read back from the kernel.
	AddedAt time.Time `json:"addedAt,omitzero"`
}

// Address returns the pod's address of family f with its prefix length.
func (a *Attachment) Address(f Family) (netip.Prefix, bool) {
	for _, p := range a.Addresses {
		if FamilyOf(p.Addr()) == f {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// Serves reports whether the pod has an address of a family that the mapping serves.
func (a *Attachment) Serves(m Mapping) bool {
	return slices.ContainsFunc(a.Addresses, func(p netip.Prefix) bool { return m.Serves(FamilyOf(p.Addr())) })
}

// Owner names the attachment for people: the pod, if known, and the container.
func (a *Attachment) Owner() string {
	id := a.ContainerID
	if a.IfName != "" && a.IfName != "eth0" {
		id += " (" + a.IfName + ")"
	}
	if p := a.Pod.String(); p != "" {
		return "pod " + p + " (container " + id + ")"
	}
	return "container " + id
}

// Forward is one mapping within one family, resolved to the pod's address.
type Forward struct {
	Protocol Protocol
	// HostIP is the zero Addr for every address of the node.
	HostIP   netip.Addr
	HostPort uint16
	To       netip.AddrPort
}

// Forwards returns the attachment's mappings resolved in family f, none if the
// pod has no address of it. Duplicates are dropped. They are ordered by protocol
// and port, and a specific host IP comes before the wildcard of the same port, so
// that the first match is the right one.
func (a *Attachment) Forwards(f Family) []Forward {
	pod, ok := a.Address(f)
	if !ok {
		return nil
	}
	out := make([]Forward, 0, len(a.Mappings))
	for _, m := range a.Mappings {
		if !m.Serves(f) {
			continue
		}
		fw := Forward{Protocol: m.Protocol, HostPort: m.HostPort, To: netip.AddrPortFrom(pod.Addr().Unmap(), m.ContainerPort)}
		if !m.Wildcard() {
			fw.HostIP = m.HostIP.Unmap()
		}
		out = append(out, fw)
	}
	slices.SortFunc(out, func(x, y Forward) int {
		return cmp.Or(
			cmp.Compare(x.Protocol, y.Protocol),
			cmp.Compare(x.HostPort, y.HostPort),
			-x.HostIP.Compare(y.HostIP), // the zero Addr sorts lowest: make it last
			x.To.Compare(y.To),
		)
	})
	return slices.Compact(out)
}

// Clients returns the source prefixes of family f that must be masqueraded on
// their way to the pod, because the reply would otherwise bypass the node's
// connection tracking: the pod's own subnet (itself included) and, for IPv4, the
// node's loopback. 0.0.0.0/0 or ::/0 stands for all clients. It returns none if
// the options turn masquerading off.
func (a *Attachment) Clients(f Family) []netip.Prefix {
	pod, ok := a.Address(f)
	if !ok || !a.Options.SNAT {
		return nil
	}
	if a.Options.MasqueradeAll {
		return []netip.Prefix{netip.PrefixFrom(f.Unspecified(), 0)}
	}
	clients := []netip.Prefix{pod.Masked()}
	if f == IPv4 {
		clients = append(clients, netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8))
	}
	return clients
}
