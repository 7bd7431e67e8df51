package containerd

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/hostport-cni/hostport/test/world"
)

// TestCalls reads what each containerd sends: docs/runtimes.md says it.
func TestCalls(t *testing.T) {
	for _, r := range releases {
		t.Run(r.name, func(t *testing.T) {
			w := world.New(t, world.Options{})
			calls := recordCalls(t, w)
			d := startDaemon(t, r, w, w.NewNetwork(world.NetworkOptions{CNIVersion: r.cniVersion}).Conflist)
			first := calls()
			p := d.runPod(t, pod{name: "web", ports: []*cri.PortMapping{tcp(81, 80), tcp(0, 8080), onIP(world.V4.Node().String(), udp(53, 53))}, tcp: "80"})
			for range 2 {
				if err := d.stopPod(t.Context(), p); err != nil {
					t.Fatal(err)
				}
			}
			var got []string
			var added call
			for _, c := range calls() {
				if c.Command == "ADD" {
					added = c
				}
				if c.Command != "STATUS" { // at any time
					got = append(got, fmt.Sprintf("%s with namespace: %t", c.Command, c.Netns != ""))
				}
			}
			if diff := cmp.Diff([]string{"ADD with namespace: true", "DEL with namespace: true", "DEL with namespace: false"}, got); diff != "" {
				t.Errorf("calls (-want +got):\n%s", diff)
			}
			asked := len(first) > 0 && first[0].Command == "STATUS"
			if asked != r.asksStatus {
				t.Errorf("asks for STATUS: %t, want %t", asked, r.asksStatus)
			}
			const mappings = `[{"HostPort":81,"ContainerPort":80,"Protocol":"tcp","HostIP":""},{"HostPort":53,"ContainerPort":53,"Protocol":"udp","HostIP":"192.0.2.1"}]`
			if sent := string(added.Config.RuntimeConfig.PortMappings); sent != mappings {
				t.Errorf("ADD has the mappings %s\nwant %s", sent, mappings)
			}
			args := fmt.Sprintf("K8S_POD_INFRA_CONTAINER_ID=%s;K8S_POD_NAME=web;K8S_POD_NAMESPACE=default;K8S_POD_UID=uid-of-web", p.id)
			for pair := range strings.SplitSeq(args, ";") {
				if !strings.Contains(added.Args, pair) {
					t.Errorf("CNI_ARGS %q has no %s", added.Args, pair)
				}
			}
		})
	}
}

// TestPodmanCalls is the same for Podman.
func TestPodmanCalls(t *testing.T) {
	w := world.New(t, world.Options{})
	calls := recordCalls(t, w)
	p := newPodman(t, w)
	p.mustStart(t, "web", "8080:80", world.V4.Node().String()+":53:53/udp")
	p.must(t, "rm", "--force", "--time", "0", "web")
	var got []string
	for _, c := range calls() {
		if c.Command == "VERSION" { // libcni looks whether the plugin fits
			continue
		}
		mappings := sortedList(t, c.Config.RuntimeConfig.PortMappings) // Podman has them in a map
		if c.Command == "DEL" {                                        // from libcni's cache, in another order
			mappings = fmt.Sprintf("%d bytes", len(mappings))
		}
		got = append(got, fmt.Sprintf("%s with namespace: %t, pod: %t, mappings: %s", c.Command, c.Netns != "",
			strings.Contains(c.Args, "K8S_POD_NAME=web") && !strings.Contains(c.Args, "K8S_POD_NAMESPACE="), mappings))
	}
	const mappings = `[{"hostPort":53,"containerPort":53,"protocol":"udp","hostIP":"192.0.2.1"},{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]`
	if diff := cmp.Diff([]string{
		"ADD with namespace: true, pod: true, mappings: " + mappings,
		fmt.Sprintf("DEL with namespace: true, pod: true, mappings: %d bytes", len(mappings)),
	}, got); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

// sortedList is a list in JSON with its elements in the order of their text.
func sortedList(t *testing.T, list []byte) string {
	t.Helper()
	var elements []json.RawMessage
	if err := json.Unmarshal(list, &elements); err != nil {
		t.Fatalf("%v: %s", err, list)
	}
	texts := make([]string, len(elements))
	for i, e := range elements {
		texts[i] = string(e)
	}
	slices.Sort(texts)
	return "[" + strings.Join(texts, ",") + "]"
}

// call is what the plugin was called with.
type call struct {
	Command, Netns, Args string
	Config               struct {
		RuntimeConfig struct {
			PortMappings json.RawMessage
		}
	}
}

// recordCalls puts a script in the plugin's place that writes down each call and
// then becomes the plugin. It returns a function that returns the calls since it
// was called last.
func recordCalls(t *testing.T, w *world.World) func() []call {
	t.Helper()
	dir := t.TempDir()
	script := filepath.Join(dir, "hostport")
	text := fmt.Sprintf(`#!/bin/sh
f=$(mktemp %[1]s/$(date +%%s%%N).XXXXXX)
cat >$f.stdin
printf '{"Command":"%%s","Netns":"%%s","Args":"%%s","Config":' "$CNI_COMMAND" "$CNI_NETNS" "$CNI_ARGS" | cat - $f.stdin >$f
echo '}' >>$f
mv $f $f.call
exec %[2]s <$f.stdin
`, dir, program("hostport"))
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	w.UsePlugin("hostport", script)
	return func() (calls []call) {
		t.Helper()
		files, err := filepath.Glob(filepath.Join(dir, "*.call"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			var c call
			content, err := os.ReadFile(f)
			if err == nil {
				err = json.Unmarshal(content, &c)
			}
			if err == nil {
				err = os.Remove(f)
			}
			if err != nil {
				t.Fatalf("%v: %s", err, content)
			}
			calls = append(calls, c)
		}
		return calls
	}
}
