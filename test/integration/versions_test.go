package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/hostport-cni/hostport/test/world"
)

// oldVersions has a kernel and tools that say they are older than the oldest with
// which the tests pass. STATUS and doctor tell, a pod is served all the same, and
// an ADD that fails says that this may be why.
func oldVersions(e *env) {
	setarch, err := exec.LookPath("setarch")
	if err != nil {
		e.Fatal(err)
	}
	old := filepath.Join(e.TempDir(), "hostport")
	script := fmt.Sprintf("#!/bin/sh\nexec %s --uname-2.6 %s\n", setarch, filepath.Join(e.w.PluginDir, "hostport"))
	if err := os.WriteFile(old, []byte(script), 0o755); err != nil {
		e.Fatal(err)
	}
	e.w.UsePlugin("hostport", old)
	n := e.network(world.NetworkOptions{})
	const kernel = "is older than 5.10, the oldest that hostport is tested on"
	want := []string{kernel}
	pretend := func(then string) {
		for _, tool := range allTools {
			e.w.ReplaceTool(tool, fmt.Sprintf(`[ "$1" != --version ] || { echo "%s v1.8.5 (legacy)"; exit; }; %s`, tool, then))
		}
	}
	if e.w.Backend != world.NFTables {
		pretend(`exec "$REAL" "$@"`)
		want = append(want, "1.8.7, the oldest that hostport is tested with")
	}

	status := e.w.Invoke(world.Invocation{Command: "STATUS", Stdin: e.w.Stdin(world.Config{"runtimeConfig": nil, "prevResult": nil})})
	for _, w := range want {
		if status.ExitCode != 0 || !strings.Contains(string(status.Stderr), w) {
			e.Errorf("STATUS: exit status %d, does not say %q:\n%s%s", status.ExitCode, w, status.Stdout, status.Stderr)
		}
	}
	if e.w.Backend != world.NFTables {
		pretend("echo no such table >&2; exit 3")
		a, err := n.Add(e.w.NewPod("refused"), world.TCP(8080, 80))
		if err == nil || !strings.Contains(err.Error(), "no such table") || !strings.Contains(err.Error(), kernel) {
			e.Errorf("ADD with a tool that fails: %v, want its words and %q", err, kernel)
		}
		pretend(`exec "$REAL" "$@"`)
		a.MustDel(e)
	}
	e.webTo(n, "web", 8080)
	e.reaches(e.w.Client, "tcp", e.node(8080), "web")
	doctor := e.w.CtlIn([]string{setarch, "--uname-2.6"}, "doctor", "-o", "json")
	for _, w := range want {
		if !strings.Contains(string(doctor.Stdout), w) {
			e.Errorf("hostportctl doctor does not say %q:\n%s%s", w, doctor.Stdout, doctor.Stderr)
		}
	}
	if e.w.Backend != world.NFTables {
		e.del(e.live[0])
		e.w.RestoreTools()
	}
}
