//go:build bench

package bench

import (
	"encoding/json"
	"maps"
	"path/filepath"
	"testing"

	"github.com/hostport-cni/hostport/test/world"
)

// subject is a plugin as it is called in a measurement.
type subject struct {
	name   string
	plugin string
	config map[string]any
}

// subjects are ours and the peer, for a backend.
func subjects(w *world.World) (ours, peer subject) {
	backend := w.Backend.Config()
	return subject{"hostport", "hostport", map[string]any{"backend": backend, "dataDir": w.DataDir}},
		subject{"portmap", "portmap", map[string]any{"backend": backend}}
}

// call is one attachment of a subject: what a runtime would send for it.
type call struct {
	world     *world.World
	subject   subject
	container string
	netns     string
	addresses []string
	mappings  []map[string]any
}

// env is the plugin's environment; tools is its PATH.
func (c call) env(verb, tools string) []string {
	return []string{
		"PATH=" + tools, "CNI_PATH=" + c.world.PluginDir, "CNI_COMMAND=" + verb,
		"CNI_CONTAINERID=" + c.container, "CNI_IFNAME=eth0", "CNI_NETNS=" + c.netns,
		"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=" + c.container,
	}
}

func (c call) stdin() []byte {
	conf := map[string]any{
		"cniVersion": "1.0.0", "name": "bench", "type": c.subject.plugin,
		"capabilities": map[string]bool{"portMappings": true},
		"prevResult":   prevResult(c.netns, c.addresses),
	}
	maps.Copy(conf, c.subject.config)
	if len(c.mappings) > 0 {
		conf["runtimeConfig"] = map[string]any{"portMappings": c.mappings}
	}
	b, err := json.Marshal(conf)
	if err != nil {
		panic(err) // strings and numbers
	}
	return b
}

func prevResult(netns string, addresses []string) map[string]any {
	var ips []map[string]any
	for _, a := range addresses {
		ips = append(ips, map[string]any{"address": a, "interface": 0})
	}
	return map[string]any{
		"cniVersion": "1.0.0", "ips": ips,
		"interfaces": []map[string]any{{"name": "eth0", "sandbox": netns}},
	}
}

// path is the tools themselves, without the wrappers that count them.
func path(w *world.World) string { return filepath.Join(w.ToolDir, ".real") }

func (c call) binary() string { return filepath.Join(c.world.PluginDir, c.subject.plugin) }

// try is one measured call of the plugin.
func (c call) try(verb string) (run, error) {
	return process(c.world, c.binary(), c.env(verb, path(c.world)), c.stdin())
}

// verb is try where it has to succeed.
func (c call) verb(t *testing.T, verb string) run {
	t.Helper()
	r, err := c.try(verb)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// started counts the processes that a verb starts.
func (c call) started(t *testing.T, verb string) int {
	t.Helper()
	c.world.Started() // forget what was started before
	if _, err := process(c.world, c.binary(), c.env(verb, c.world.ToolDir), c.stdin()); err != nil {
		t.Fatal(err)
	}
	return len(c.world.Started())
}

// peak is the memory of a verb, in KiB.
func (c call) peak(t *testing.T, meter, verb string) float64 {
	t.Helper()
	kib, err := peak(c.world, meter, c.binary(), c.env(verb, path(c.world)), c.stdin())
	if err != nil {
		t.Fatal(err)
	}
	return kib
}

func tcp(hostPort int) map[string]any { return mapping(hostPort, "tcp") }

func mapping(hostPort int, protocol string) map[string]any {
	return map[string]any{"hostPort": hostPort, "containerPort": 80, "protocol": protocol}
}
