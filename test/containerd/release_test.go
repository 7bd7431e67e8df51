package containerd

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hostport-cni/hostport/test/world"
)

// release is a containerd that the tests run with.
type release struct {
	name string
	// key names the variable with the directory of its programs; empty if they are
	// on the PATH.
	key string
	// cniVersion is the newest that it speaks.
	cniVersion string
	// asksStatus says that it calls STATUS whenever it is asked for its own.
	asksStatus bool
}

// Debian's containerd, that of Debian trixie, and the newest. A pod's control group
// is found by its parent's name, and there is no other image than the test's.
var (
	debian = release{name: "1.6", cniVersion: "1.0.0"}
	trixie = release{name: "1.7", cniVersion: "1.0.0", key: trixieKey}
	newest = release{name: "2.4", cniVersion: "1.1.0", key: newestKey, asksStatus: true}

	releases = []release{debian, trixie, newest}
	// backends are those of the tests here: the variants of iptables differ in
	// nothing that a runtime could see.
	backends = []world.Backend{world.IptablesNFT, world.NFTables}
)

// path is the PATH of the release: its own programs, then the World's tools,
// which its plugins find as well, then the machine's.
func (r release) path(w *world.World) string {
	path := w.ToolDir + ":" + os.Getenv("PATH") + ":/usr/sbin:/sbin"
	if r.key != "" {
		path = os.Getenv(r.key) + ":" + path
	}
	return path
}

// program is the path of one of the release's programs.
func (r release) program(name string) string {
	if r.key != "" {
		return filepath.Join(os.Getenv(r.key), name)
	}
	return name
}

// config is the release's configuration: that of the newest is also
// test/kubernetes'.
func (r release) config(t *testing.T, dir, name, socket, plugins string) string {
	t.Helper()
	if r.name != newest.name {
		return fmt.Sprintf(debianConfig, dir, name, socket, image, plugins)
	}
	text, err := os.ReadFile("../containerd.toml")
	if err != nil {
		t.Fatal(err)
	}
	return strings.NewReplacer("ROOT", dir+"/root", "STATE", "/run/"+name+"/state", "SOCKET", socket, "IMAGE", image,
		"PLUGINS", plugins, "NETWORKS", dir+"/net.d", "SHIM", r.program("containerd-shim-runc-v2")).Replace(string(text))
}

// debianConfig has the places: directory of its own, name, socket, image,
// directory of the plugins.
const debianConfig = `version = 2
root = "%[1]s/root"
state = "/run/%[2]s/state"
[grpc]
  address = "%[3]s"
[ttrpc]
  address = "%[3]s.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
  path = "%[1]s/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "%[4]s"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "%[5]s"
    conf_dir = "%[1]s/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
`
