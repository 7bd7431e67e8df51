package containerd

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/google/go-cmp/cmp"
)

// CRI-O serves host ports itself and gives none to CNI. The plugin in its
// chain must let everything through: no process, no state, no rule.

// traps puts programs on PATH, alone, that record being started and fail. It
// returns a function that fails the test if one was.
func traps(t *testing.T) func() {
	t.Helper()
	dir := t.TempDir()
	record := filepath.Join(dir, "record")
	trap := "#!/bin/sh\necho \"${0##*/} $*\" >>" + record + "\nexit 1\n"
	for _, name := range []string{
		"iptables", "iptables-save", "iptables-restore", "iptables-nft", "iptables-nft-restore",
		"iptables-legacy", "iptables-legacy-restore", "ip6tables", "ip6tables-save", "ip6tables-restore",
		"ip6tables-nft", "ip6tables-nft-restore", "ip6tables-legacy", "ip6tables-legacy-restore",
		"nft", "ip", "ss", "conntrack", "sysctl", "modprobe", "firewall-cmd", "sh",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(trap), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	path := os.Getenv("PATH")
	t.Setenv("PATH", dir)
	return func() {
		t.Helper()
		started, err := os.ReadFile(record)
		if err == nil {
			t.Errorf("processes were started:\n%s", started)
		}
		t.Setenv("PATH", path)
	}
}

// crioArguments are the capabilities that CRI-O fills: never portMappings,
// also with disable_hostport_mapping.
func crioArguments() capabilities {
	return capabilities{
		"cgroupPath": "kubepods-besteffort-pod00.slice",
		"io.kubernetes.cri.pod-annotations": map[string]string{
			"kubernetes.io/config.source": "api",
		},
	}
}

func TestCRIOChain(t *testing.T) {
	needNode(t)
	for _, test := range []struct{ name, declared string }{
		{"port mappings declared", `{"portMappings": true}`},
		{"annotations declared too", `{"portMappings": true, "io.kubernetes.cri.pod-annotations": true}`},
		{"nothing declared", `{}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := ruleset(t)
			state := filepath.Join(t.TempDir(), "state")
			// No ipMasq: that would have bridge start processes.
			crio := newChain(t, `{"cniVersion": "1.0.0", "name": "crio", "plugins": [
				{"type": "bridge", "bridge": "crio0", "isGateway": true,
				 "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.85.0.0/24"}]]}},
				{"type": "`+pluginType+`", "dataDir": "`+state+`", "capabilities": `+test.declared+`}]}`)
			container := containerID(0xc0)
			attachment := &libcni.RuntimeConf{
				ContainerID:    container,
				NetNS:          newNamespace(t, "crio"),
				IfName:         "eth0",
				Args:           podArgs("1", "pod", container),
				CapabilityArgs: crioArguments(),
			}

			sprung := traps(t)
			crio.add(t, attachment)
			// CRI-O asks for a CHECK right after every ADD.
			crio.check(t, attachment)
			crio.del(t, attachment)
			crio.del(t, attachment)
			// A pod that is gone is deleted without its namespace.
			attachment.NetNS = ""
			crio.del(t, attachment)
			sprung()

			expectNoState(t, state)
			expectRuleset(t, before)
		})
	}
}

func expectNoState(t *testing.T, dir string) {
	t.Helper()
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		files, _ := filepath.Glob(dir + "/*")
		t.Errorf("state directory is there (%v), with %v", err, files)
	}
}

// TestCRIOResult gives the plugin alone the environment and the input that it
// has under CRI-O, and looks at every byte that it answers with.
func TestCRIOResult(t *testing.T) {
	needNode(t)
	const previous = `{
		"cniVersion": "1.0.0",
		"interfaces": [{"name": "veth0", "mac": "0a:00:00:00:00:01"}, {"name": "eth0", "mac": "0a:00:00:00:00:02", "sandbox": "/run/netns/crio"}],
		"ips": [{"interface": 1, "address": "10.85.0.9/24", "gateway": "10.85.0.1"}],
		"routes": [{"dst": "0.0.0.0/0"}]
	}`
	state := filepath.Join(t.TempDir(), "state")
	input := `{"cniVersion": "1.0.0", "name": "crio", "type": "` + pluginType + `", "dataDir": "` + state + `",
		"capabilities": {"portMappings": true, "io.kubernetes.cri.pod-annotations": true},
		"runtimeConfig": {"io.kubernetes.cri.pod-annotations": {"kubernetes.io/config.source": "api"}},
		"prevResult": ` + previous + `}`
	netns := newNamespace(t, "crio")
	container := containerID(0xc1)
	var args []string
	for _, pair := range podArgs("1", "pod", container) {
		args = append(args, pair[0]+"="+pair[1])
	}

	sprung := traps(t)
	for _, call := range []struct{ verb, netns, want string }{
		{"ADD", netns, previous},
		{"CHECK", netns, ""},
		{"DEL", netns, ""},
		{"DEL", "", ""},
	} {
		cmd := exec.Command(filepath.Join(binDir(), pluginType))
		cmd.Env = append(os.Environ(),
			"CNI_COMMAND="+call.verb, "CNI_CONTAINERID="+container, "CNI_NETNS="+call.netns,
			"CNI_IFNAME=eth0", "CNI_ARGS="+strings.Join(args, ";"), "CNI_PATH="+binDir())
		cmd.Stdin = strings.NewReader(input)
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if err := cmd.Run(); err != nil {
			t.Errorf("%s: %v\n%s%s", call.verb, err, &stdout, &stderr)
		}
		if diff := cmp.Diff(decode(t, call.want), decode(t, stdout.String())); diff != "" {
			t.Errorf("%s: result (-want +got):\n%s", call.verb, diff)
		}
		if stderr.Len() > 0 {
			t.Errorf("%s: wrote to stderr: %s", call.verb, &stderr)
		}
	}
	sprung()
	expectNoState(t, state)
}

func decode(t *testing.T, text string) (value any) {
	t.Helper()
	if text == "" {
		return nil
	}
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		t.Fatalf("parse %q: %v", text, err)
	}
	return value
}
