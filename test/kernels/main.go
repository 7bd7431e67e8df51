// Command kernels runs tests on other kernels than this machine's, in qemu:
//
//	go run ./test/kernels [-write FILE] DIRECTORY [SUITE=]SCENES...
//
// DIRECTORY is what test/debian.sh filled. A guest has this machine's files, which
// it cannot change, the kernel of a suite and its iptables and nft. SCENES is a
// regular expression for go test -run. With -write, the results are put as a table
// between two comments of a Markdown file.
//
// Without hardware support a guest is ten times slower than this machine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/hostport-cni/hostport/test/world"
)

// boot is one start of a guest.
type boot struct {
	suite string
	// name tells the boots of a suite apart.
	name string
	// run is what go test gets as -run.
	run string
	// options are added to the kernel's command line.
	options string
	// phase is given to the tests, which go on where the phase before has ended.
	phase string
}

// boots are those of one suite. A reboot is two of them.
func boots(suite, scenes string, all bool) []boot {
	list := []boot{{suite: suite, name: "scenes", run: "^TestKernels$/" + scenes}}
	if !all {
		return list
	}
	return append(list,
		boot{suite: suite, name: "without IPv6", run: "^TestWithoutIPv6$", options: "ipv6.disable=1"},
		boot{suite: suite, name: "before a reboot", run: "^TestReboot$", phase: "before"},
		boot{suite: suite, name: "after a reboot", run: "^TestReboot$", phase: "after"},
	)
}

func main() {
	scenes := flag.String("scenes", "", "regular `expression` of scenes, as after a slash in go test -run")
	all := flag.Bool("all", false, "with the boots that have a scene of their own")
	write := flag.String("write", "", "Markdown `file` to write the table into")
	accel := flag.String("accel", "tcg", "qemu's `accelerator`")
	limit := flag.Duration("limit", 40*time.Minute, "kill a guest that runs for longer")
	flag.Parse()
	if flag.NArg() < 2 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(machine{debian: flag.Arg(0), accel: *accel, limit: *limit}, flag.Args()[1:], *scenes, *all, *write); err != nil {
		fmt.Fprintln(os.Stderr, "kernels:", err)
		os.Exit(1)
	}
}

func run(m machine, suites []string, scenes string, all bool, write string) (err error) {
	m.debian, err = filepath.Abs(m.debian)
	if err != nil {
		return err
	}
	m.share, err = os.MkdirTemp("", "hostport-kernels-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(m.share)
	if err := build(m.share); err != nil {
		return err
	}
	var results []result
	var failed []error
	for _, suite := range suites {
		for _, b := range boots(suite, scenes, all) {
			m.suite = suite
			start := time.Now()
			log, err := m.boot(b)
			found := parse(suite, log)
			results = append(results, found...)
			passed, bad := count(found)
			fmt.Printf("%s (Linux %s), %s: %d passed, %d failed, %d s\n", suite, m.release, b.name, passed, bad, int(time.Since(start).Seconds()))
			if err != nil || bad > 0 || passed == 0 {
				fmt.Println(log)
				failed = append(failed, errors.Join(fmt.Errorf("%s, %s: %d scenes failed", suite, b.name, bad), err))
			}
		}
	}
	if write != "" {
		if err := writeTable(write, results); err != nil {
			return err
		}
	}
	return errors.Join(failed...)
}

// build compiles the tests and the plugins: in a guest that would take minutes.
func build(share string) error {
	plugins := filepath.Join(share, "plugins")
	if err := os.Mkdir(plugins, 0o755); err != nil {
		return err
	}
	if err := world.BuildPlugins(plugins); err != nil {
		return err
	}
	out, err := exec.CommandContext(context.Background(), "go", "test", "-c", "-tags", "kernels", "-ldflags", "-s -w",
		"-o", filepath.Join(share, "integration.test"), "./test/integration").CombinedOutput()
	if err != nil {
		return fmt.Errorf("compile test/integration: %w\n%s", err, out)
	}
	return nil
}

// result is how one scene ended in one guest.
type result struct {
	suite, release, backend, family, scene string
	passed                                 bool
}

// parse reads what go test -v printed.
func parse(suite, log string) []result {
	var all []result
	release := ""
	for line := range strings.Lines(log) {
		line = strings.TrimSpace(line)
		if r, ok := strings.CutPrefix(line, "kernels: Linux "); ok {
			release = r
		}
		verdict, rest, ok := strings.Cut(line, ": ")
		passed := verdict == "--- PASS"
		if !ok || !passed && verdict != "--- FAIL" {
			continue
		}
		name, _, _ := strings.Cut(rest, " (")
		parts := strings.Split(name, "/")
		if len(parts) < 2 {
			continue
		}
		r := result{suite: suite, release: release, passed: passed}
		switch {
		case len(parts) == 4:
			r.backend, r.family, r.scene = parts[1], parts[2], parts[3]
		case len(parts) == 2 && parts[0] == "TestWithoutIPv6":
			r.backend, r.scene = parts[1], "a kernel with ipv6.disable=1"
		case len(parts) == 2 && parts[0] == "TestReboot":
			r.backend, r.scene = parts[1], "a reboot with a restored ruleset"
		default:
			continue
		}
		r.scene = strings.ReplaceAll(r.scene, "_", " ")
		all = append(all, r)
	}
	return all
}

func count(all []result) (passed, failed int) {
	for _, r := range all {
		if r.passed {
			passed++
		} else {
			failed++
		}
	}
	return passed, failed
}
