package explain

import "strings"

const (
	componentHostport = "hostport"
	componentProxy    = "kube-proxy"
	componentPortmap  = "portmap"
	componentCRIO     = "CRI-O"
	componentKernel   = "kernel"
	unknownComponent  = "unknown"
)

// componentOf attributes a rule by the name of its chain or table, or by the
// chain that it jumps to. Policies of iptables' built-in chains cannot be
// attributed.
func componentOf(c *chain, rule string) string {
	if c.table.origin == originNFT && c.table.name == "hostport" {
		return componentHostport
	}
	for _, name := range []string{c.table.name, c.name} {
		if found := componentByName(name); found != "" {
			return found
		}
	}
	fields := strings.Fields(rule)
	for i, f := range fields {
		if (f == "-j" || f == "-g" || f == "jump" || f == "goto") && i+1 < len(fields) {
			if found := componentByName(fields[i+1]); found != "" {
				return found
			}
		}
	}
	return unknownComponent
}

// componentByName attributes chains and tables by the names that known programs
// use. The first matching prefix wins.
func componentByName(name string) string {
	for _, known := range [...]struct{ prefix, component string }{
		{"CNI-HP-", componentHostport},
		{"KUBE-HOSTPORTS", componentCRIO},
		{"KUBE-HP-", componentCRIO},
		{"CRIO-", componentCRIO},
		{"crio", componentCRIO},
		{"KUBE-ROUTER", "kube-router"},
		{"KUBE-POD-FW", "kube-router"},
		{"KUBE-NWPLCY", "kube-router"},
		{"KUBE-", componentProxy},
		{"kube-proxy", componentProxy},
		{"kube_proxy", componentProxy},
		{"CNI-DN-", componentPortmap},
		{"CNI-HOSTPORT-", componentPortmap},
		{"cni_hostport", componentPortmap},
		{"CNI-FORWARD", "CNI firewall plugin"},
		{"CNI-ADMIN", "CNI firewall plugin"},
		{"CNI-", "CNI main plugin"},
		{"cni_plugins_", "CNI main plugin"},
		{"DOCKER", "docker"},
		{"docker-bridges", "docker"},
		{"NETAVARK", "podman"},
		{"netavark", "podman"},
		{"firewalld", "firewalld"},
		{"FWD_", "firewalld"},
		{"FWDI_", "firewalld"},
		{"FORWARD_", "firewalld"},
		{"cali", "Calico"},
		{"CILIUM_", "Cilium"},
		{"FLANNEL", "flannel"},
		{"flannel", "flannel"},
		{"ufw", "ufw"},
		{"LIBVIRT_", "libvirt"},
		{"libvirt", "libvirt"},
		{"ANTREA-", "Antrea"},
		{"kindnet", "kindnet"},
		{"ISTIO_", "Istio"},
		{"ts-", "Tailscale"},
		{"f2b-", "fail2ban"},
		{"WEAVE", "Weave Net"},
	} {
		if strings.HasPrefix(name, known.prefix) {
			return known.component
		}
	}
	return ""
}
