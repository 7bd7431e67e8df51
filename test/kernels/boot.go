package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hostport-cni/hostport/test/world"
)

// Programs with tests.
const (
	integration = "integration.test"
	containerd  = "containerd.test"
)

// boot is one start of a guest.
type boot struct {
	name string
	runs []testRun
	// kernel is added to the kernel's command line.
	kernel string
	// phase is passed to the tests, which continue where the previous phase ended.
	phase string
}

// testRun is a test program and its -run pattern.
type testRun struct{ program, pattern string }

// life is a sequence of boots of one guest.
type life struct {
	suite string
	boots []boot
}

// lives returns the lives for a suite. Guests that share nothing run in
// parallel.
func lives(suite, scenes string, all bool) []life {
	list := []life{{suite, []boot{{name: "scenes", runs: []testRun{{integration, pattern(scenes)}}}}}}
	if !all {
		return list
	}
	return append(list,
		life{suite, []boot{{name: "without IPv6", runs: []testRun{{integration, "^TestWithoutIPv6$"}}, kernel: "ipv6.disable=1"}}},
		life{suite, []boot{
			{name: "before a reboot", runs: []testRun{{integration, "^TestReboot$"}}, phase: "before"},
			{name: "after a reboot", runs: []testRun{{integration, "^TestReboot$"}}, phase: "after"},
		}},
		life{suite, []boot{{name: "without modules", runs: []testRun{{integration, "^TestLackingKernel$"}}}}},
		life{suite, []boot{{name: "containerd", runs: []testRun{{containerd, "^TestControlGroups$"}}}}},
	)
}

// pattern returns the -run pattern for some scenes, or for all.
func pattern(scenes string) string {
	const test = "^TestKernels$"
	if scenes == "" {
		return test
	}
	var all []string
	for s := range strings.FieldsSeq(scenes) {
		all = append(all, test+"/"+s)
	}
	return strings.Join(all, "|")
}

// bootNames lists the boots' names for the usage.
func bootNames() string {
	var names []string
	for _, l := range lives("", "", true) {
		for _, b := range l.boots {
			names = append(names, b.name)
		}
	}
	return strings.Join(names, ", ")
}

// plan returns every life that the options select, the longest first.
func plan(o options) []life {
	var wanted []life
	for _, suite := range o.suites {
		for _, l := range lives(suite, o.scenes, o.all) {
			if slices.ContainsFunc(l.boots, func(b boot) bool { return o.boots.MatchString(b.name) }) {
				wanted = append(wanted, l)
			}
		}
	}
	slices.SortStableFunc(wanted, func(a, b life) int {
		return rank(a) - rank(b)
	})
	return wanted
}

func rank(l life) int {
	if l.boots[0].name == "scenes" {
		return 0
	}
	return 1
}

// build compiles the tests and the programs that they start: in a guest that
// would take minutes.
func build(dir string, wanted []life) error {
	plugins := filepath.Join(dir, "plugins")
	if err := os.MkdirAll(plugins, 0o755); err != nil {
		return err
	}
	if !slices.ContainsFunc(wanted, func(l life) bool { return l.boots[0].runs[0].program == containerd }) {
		if err := world.BuildPlugins(plugins); err != nil {
			return err
		}
		return compile(dir, integration, "test/integration")
	}
	for program, module := range map[string]string{integration: "test/integration", containerd: "test/containerd"} {
		if err := compile(dir, program, module); err != nil {
			return err
		}
	}
	cmd := exec.CommandContext(context.Background(), filepath.Join(dir, containerd))
	cmd.Dir = filepath.Join("test", "containerd")
	cmd.Env = append(os.Environ(), world.BuildVariable+"="+plugins)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the programs of test/containerd: %w\n%s", err, out)
	}
	return nil
}

// compile compiles the tests in a directory, which may be a module, to a
// program.
func compile(dir, program, tests string) error {
	cmd := exec.CommandContext(context.Background(), "go", "test", "-c", "-tags", "kernels", "-ldflags", "-s -w",
		"-o", filepath.Join(dir, program), ".")
	cmd.Dir = filepath.FromSlash(tests)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("compile %s: %w\n%s", tests, err, out)
	}
	return nil
}
