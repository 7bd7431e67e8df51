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

// newestContainerd is containerdText for the newest one. Debian's shim comes
// first on the PATH, so the own one is named.
const newestContainerd = `version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
]
[grpc]
  address = "` + criSocket + `"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "` + imageName + `"
[plugins."io.containerd.cri.v1.runtime"]
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["%s"]
    conf_dir = "` + nodeCNI + `/net.d"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    runtime_path = "%s"
`

// containerdConfig is the configuration of a cluster's containerd.
func containerdConfig(p pair) string {
	if p.newest {
		return fmt.Sprintf(newestContainerd, p.cniBin(), filepath.Join(os.Getenv(newestVariable), "containerd-shim-runc-v2"))
	}
	return containerdText(p.cniBin())
}
