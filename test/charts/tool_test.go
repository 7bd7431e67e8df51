package charts

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
)

// The product and what it holds for operators, from here.
const (
	root      = "../.."
	chart     = root + "/conf/helm/hostport"
	manifests = root + "/conf/kubernetes"
)

// The tools, built once.
var (
	helm      = sync.OnceValues(func() (string, error) { return build("helm", "") })
	kustomize = sync.OnceValues(func() (string, error) { return build("helm", "", "kustomize") })
	promtool  = sync.OnceValues(func() (string, error) { return build("promtool", "-tags=remove_all_sd") })
)

// build returns the path of a tool of a module file in .ci, by the name of that
// file unless another is given.
func build(mod, flags string, name ...string) (string, error) {
	if len(name) == 0 {
		name = []string{mod}
	}
	// The first -n only builds what the second would run.
	cmd := exec.Command("go", "tool", "-modfile=.ci/"+mod+".mod", "-n", name[0])
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false "+flags)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", name[0], err, stderr.String())
	}
	return strings.TrimSpace(string(out)), nil
}

// run runs a tool, and returns what it printed, both streams if it failed.
func run(t *testing.T, tool func() (string, error), args ...string) (string, error) {
	t.Helper()
	path, err := tool()
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// Nothing of the person who runs the tests: no cluster, no plugin, no cache.
	home := t.TempDir()
	cmd.Env = []string{"HOME=" + home, "PATH=" + os.Getenv("PATH")}
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%w\n%s%s", err, stdout.String(), stderr.String())
	}
	return stdout.String(), nil
}

// kubeVersion is of whom the chart is for: a helm that was not built for a release
// thinks of an old one.
const kubeVersion = "--kube-version=1.34.0"

// template renders the chart as it would be installed.
func template(t *testing.T, args ...string) string {
	t.Helper()
	out, err := run(t, helm, append([]string{"template", "hostport", chart, "--namespace", "kube-system", kubeVersion}, args...)...)
	if err != nil {
		t.Fatalf("helm template %s: %v", strings.Join(args, " "), err)
	}
	return out
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
