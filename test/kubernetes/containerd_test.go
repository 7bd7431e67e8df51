package kubernetes

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// newestVariable is the folder of the newest containerd, once it is built.
const newestVariable = "HOSTPORT_TEST_CONTAINERD"

// buildContainerd builds the newest containerd, unless it is there.
func buildContainerd() error {
	cmd := exec.Command("../containerd.sh")
	cmd.Stderr = os.Stderr
	folder, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("build the newest containerd: %w", err)
	}
	return os.Setenv(newestVariable, strings.TrimSpace(string(folder)))
}

// containerdProgram is the containerd of a cluster: Debian's is on the PATH.
func containerdProgram(p pair) string {
	if p.newest {
		return filepath.Join(os.Getenv(newestVariable), "containerd")
	}
	return "containerd"
}

// containerdConfig is the configuration of a cluster's containerd: that of the
// newest is also test/containerd's.
func containerdConfig(p pair) (string, error) {
	if !p.newest {
		return containerdText(p.cniBin()), nil
	}
	text, err := os.ReadFile("../containerd.toml")
	if err != nil {
		return "", err
	}
	return strings.NewReplacer("ROOT", "/var/lib/containerd", "STATE", "/run/containerd", "SOCKET", criSocket, "IMAGE", imageName,
		"PLUGINS", p.cniBin(), "NETWORKS", nodeCNI+"/net.d",
		"SHIM", filepath.Join(os.Getenv(newestVariable), "containerd-shim-runc-v2")).Replace(string(text)), nil
}
