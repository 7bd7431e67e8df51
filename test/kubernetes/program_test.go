package kubernetes

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const (
	// binaryFolder holds what buildPrograms builds; the toolchain leaves in it
	// alone what is up to date.
	binaryFolder = "bin"

	pluginModule = "github.com/containernetworking/plugins/plugins/"
)

// machinePrograms are the machine's own, and the Debian packages that bring them.
var machinePrograms = map[string]string{
	"etcd":                    "etcd-server",
	"containerd":              "containerd",
	"containerd-shim-runc-v2": "containerd",
	"ctr":                     "containerd",
	"runc":                    "runc",
	"iptables":                "iptables",
	"iptables-save":           "iptables",
	"nft":                     "nftables",
	"conntrack":               "conntrack",
	"ip6tables":               "iptables",
	"ip6tables-save":          "iptables",
	"ss":                      "iproute2",
	"mount":                   "mount",
	"unshare":                 "util-linux",
}

// checkMachine says everything that is missing at once.
func checkMachine() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("these tests make namespaces and mounts: run them as root")
	}
	var missing []string
	for name, debian := range machinePrograms {
		if _, err := exec.LookPath(name); err != nil {
			missing = append(missing, fmt.Sprintf("%s (Debian package %s)", name, debian))
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("not installed: %s", strings.Join(missing, ", "))
	}
	return nil
}

// buildPrograms builds Kubernetes, the pods' program, the plugins of the chain
// and what is under test.
func buildPrograms() error {
	folder, err := filepath.Abs(binaryFolder)
	if err != nil {
		return err
	}
	version, err := goTool("list", "-m", "-f", "{{.Version}}", "k8s.io/kubernetes")
	if err != nil {
		return err
	}
	// Without a version kubelet would call itself v0.0.0.
	stamp := "-s -w -X k8s.io/component-base/version.gitVersion=" + version
	if _, err := goTool("build", "-buildvcs=false", "-ldflags", stamp, "-o", folder+"/", "./cmd/...",
		pluginModule+"main/bridge", pluginModule+"main/loopback", pluginModule+"ipam/host-local"); err != nil {
		return err
	}
	_, err = goTool("build", "-C", "../..", "-buildvcs=false", "-o", folder+"/", "./cmd/hostport", "./cmd/hostportctl", "./cmd/hostport-agent")
	return err
}

func goTool(args ...string) (string, error) {
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // the pods' image has no C library
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go %s: %w", strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}
