package containerd

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/test/world"
)

// CRI-O serves host ports itself and gives none to CNI. The plugin in its
// chain must let everything through: no process, no state, no rule.

// crioArguments are the capabilities that CRI-O fills: never portMappings,
// also with disable_hostport_mapping.
func crioArguments() map[string]any {
	return map[string]any{
		"cgroupPath": "kubepods-besteffort-pod00.slice",
		"io.kubernetes.cri.pod-annotations": map[string]string{
			"kubernetes.io/config.source": "api",
		},
	}
}

// expectUntouched fails if the plugin left anything on the node.
func expectUntouched(t *testing.T, w *world.World) {
	t.Helper()
	if started := w.Started(); len(started) > 0 {
		t.Errorf("processes were started: %q", started)
	}
	if _, err := os.Stat(w.DataDir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the state directory is there: %v", err)
	}
	if rules := w.Ruleset(); rules != (world.Ruleset{}) {
		t.Errorf("rules were made: %+v", rules)
	}
}

func TestCRIOChain(t *testing.T) {
	for _, test := range []struct {
		name     string
		declared world.Config
	}{
		{"port mappings declared", world.Config{"portMappings": true}},
		{"annotations declared too", world.Config{"portMappings": true, "io.kubernetes.cri.pod-annotations": true}},
		{"nothing declared", world.Config{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := world.New(t, world.Options{})
			crio := w.NewNetwork(world.NetworkOptions{CNIVersion: "1.0.0", Hostport: world.Config{"backend": nil, "capabilities": test.declared}})
			a, err := crio.AddWith(w.NewPod("pod"), "eth0", crioArguments())
			if err != nil {
				t.Fatal(err)
			}
			// CRI-O asks for a CHECK right after every ADD, calls DEL twice, and
			// once more without a namespace when the pod is gone.
			if err := errors.Join(a.Check(), a.Del(), a.Del(), a.DelWithout()); err != nil {
				t.Error(err)
			}
			expectUntouched(t, w)
		})
	}
}

// TestCRIOResult gives the plugin alone the environment and the input that it
// has under CRI-O, and looks at every byte that it answers with.
func TestCRIOResult(t *testing.T) {
	w := world.New(t, world.Options{})
	const previous = `{
		"cniVersion": "1.0.0",
		"interfaces": [{"name": "veth0", "mac": "0a:00:00:00:00:01"}, {"name": "eth0", "mac": "0a:00:00:00:00:02", "sandbox": "/run/netns/crio"}],
		"ips": [{"interface": 1, "address": "10.85.0.9/24", "gateway": "10.85.0.1"}],
		"routes": [{"dst": "0.0.0.0/0"}]
	}`
	input := w.Stdin(world.Config{
		"cniVersion": "1.0.0", "name": "crio", "backend": nil,
		"capabilities":  world.Config{"portMappings": true, "io.kubernetes.cri.pod-annotations": true},
		"runtimeConfig": crioArguments(),
		"prevResult":    json.RawMessage(previous),
	})
	p := w.NewPod("pod")
	for _, call := range []struct{ verb, netns, want string }{
		{"ADD", p.Path, previous},
		{"CHECK", p.Path, ""},
		{"DEL", p.Path, ""},
		{"DEL", "", ""},
	} {
		out := w.Invoke(world.Invocation{
			Command: call.verb, ContainerID: p.ContainerID, IfName: "eth0", Netns: call.netns, Args: p.Args(), Stdin: input,
		})
		if out.ExitCode != 0 || len(out.Stderr) > 0 {
			t.Errorf("%s: exit status %d\n%s%s", call.verb, out.ExitCode, out.Stdout, out.Stderr)
		}
		if diff := cmp.Diff(decode(t, call.want), decode(t, string(out.Stdout))); diff != "" {
			t.Errorf("%s: result (-want +got):\n%s", call.verb, diff)
		}
	}
	expectUntouched(t, w)
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
