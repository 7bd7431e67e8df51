package faults

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/hostport-cni/hostport/test/world"
)

func TestMain(m *testing.M) { os.Exit(world.Main(m)) }

const module = "github.com/hostport-cni/hostport"

// faultyPlugin is the plugin with its fault points compiled in.
var faultyPlugin = sync.OnceValues(func() (string, error) { return build("cmd/hostport", "-tags", "faultpoints") })

// nextPlugin is the plugin with another layout of its rules.
var nextPlugin = sync.OnceValues(func() (string, error) { return buildAs("next", "cmd/hostport", "-tags", "nextlayout") })

// operatorTool is hostportctl as shipped.
var operatorTool = sync.OnceValues(func() (string, error) { return build("cmd/hostportctl") })

// build puts a program where world keeps its own, which go with the process.
func build(path string, flags ...string) (string, error) {
	return buildAs(filepath.Base(path), path, flags...)
}

func buildAs(name, path string, flags ...string) (string, error) {
	binary := filepath.Join(world.Bin(), "faults-"+name)
	args := append([]string{"build", "-o", binary}, flags...)
	out, err := exec.Command("go", append(args, module+"/"+path)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", path, err, out)
	}
	return binary, nil
}

// everyBackend runs a test on each backend, all at once.
func everyBackend(t *testing.T, fn func(*testing.T, world.Backend)) {
	for _, b := range world.Backends {
		t.Run(string(b), func(t *testing.T) {
			t.Parallel()
			fn(t, b)
		})
	}
}
