package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hostport-cni/hostport/internal/explain"
	"github.com/hostport-cni/hostport/test/world"
)

// TestDoctorConfDir wants doctor to look for conflists where all commands do: in the
// directory that the agent's container names. Where the runtime reads another one,
// the command that doctor prints looks there.
func TestDoctorConfDir(t *testing.T) {
	w := world.New(t, world.Options{Backend: world.Backends[0]})
	c := tool{T: t, w: w, binary: world.Build(t, "github.com/hostport-cni/hostport/cmd/hostportctl")}
	used, empty, containerd := filepath.Join(w.ConfDir, "net.d"), t.TempDir(), filepath.Join(w.ConfDir, "config.toml")
	if err := os.Mkdir(used, 0o755); err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{
		filepath.Join(used, "10-podnet.conflist"): fmt.Sprintf(
			`{"cniVersion":"1.0.0","name":"podnet","plugins":[{"type":"bridge"},{"type":"hostport","dataDir":%q,"capabilities":{"portMappings":true}}]}`, w.DataDir),
		containerd: fmt.Sprintf("conf_dir = %q\n", used),
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	doctor := func(args ...string) map[string]explain.Check {
		t.Helper()
		out, errs, _ := c.run(append(args, "--containerd-config", containerd, "--crio-config", "/nowhere", "-o", "json")...)
		var d diagnosis
		if err := json.Unmarshal([]byte(out), &d); err != nil {
			t.Fatalf("%v: %v\n%s%s", args, err, out, errs)
		}
		checks := map[string]explain.Check{}
		for _, check := range d.Checks {
			checks[check.Name] = check
		}
		return checks
	}
	healthy := func(checks map[string]explain.Check) {
		t.Helper()
		for _, name := range []string{"conflist", "runtime"} {
			if got := checks[name]; got.Mark != explain.MarkOK {
				t.Errorf("%s is marked %q, want %q: %s", name, got.Mark, explain.MarkOK, got.Text)
			}
		}
	}

	c.env = []string{confDirVariable + "=" + used}
	healthy(doctor("doctor"))

	c.env = []string{confDirVariable + "=" + empty}
	checks := doctor("doctor")
	if got := checks["conflist"]; got.Mark != explain.MarkFail || !strings.Contains(got.Text, empty) {
		t.Errorf("conflist is marked %q, want %q for %s: %s", got.Mark, explain.MarkFail, empty, got.Text)
	}
	command := strings.Fields(checks["runtime"].Command)
	if len(command) == 0 || command[0] != "hostportctl" {
		t.Fatalf("no command to look where containerd does: %+v", checks["runtime"])
	}
	healthy(doctor(command[1:]...))
}
