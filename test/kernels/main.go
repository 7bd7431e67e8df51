// Command kernels runs tests on kernels other than this machine's, in qemu:
//
//	go run ./test/kernels [-results FILE -write FILE] DIRECTORY SUITE...
//
// DIRECTORY is filled by test/debian.sh. A guest sees this machine's files
// read-only, and has the kernel of a suite with its iptables and nft. With
// -results, the result of each scene is kept in a file, and with -write the
// results are written as a table between two comments of a Markdown file. A run
// of some scenes replaces only their results.
//
// Without hardware support a guest is ten times slower than this machine.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"time"
)

// options holds the command line.
type options struct {
	debian string
	suites []string
	// scenes limits TestKernels, boots limits the other boots.
	scenes string
	boots  *regexp.Regexp
	all    bool
	guests int
	accel  string
	limit  time.Duration
	// results and table are files, or empty.
	results, table string
	// logs is a directory for the guests' output, or empty.
	logs string
}

func main() {
	var o options
	flag.StringVar(&o.scenes, "scenes", "", "regular `expressions` of scenes, each as after a slash in go test -run, with spaces between them")
	boots := flag.String("boots", "", "regular `expression` of boots: "+bootNames())
	flag.BoolVar(&o.all, "all", false, "with the boots that have a scene of their own")
	flag.StringVar(&o.results, "results", "", "`file` of results to write, one a line")
	flag.StringVar(&o.table, "write", "", "Markdown `file` to write the table of all results into")
	flag.StringVar(&o.logs, "logs", "", "`directory` for what the guests print")
	flag.IntVar(&o.guests, "guests", 3, "`number` of guests at a time, each with one processor")
	flag.StringVar(&o.accel, "accel", "tcg", "qemu's `accelerator`")
	flag.DurationVar(&o.limit, "limit", 60*time.Minute, "kill a guest that runs for longer")
	flag.Parse()
	if flag.NArg() < 2 {
		flag.Usage()
		os.Exit(2)
	}
	o.debian, o.suites = flag.Arg(0), flag.Args()[1:]
	var err error
	if o.boots, err = regexp.Compile(*boots); err == nil {
		err = run(o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "kernels:", err)
		os.Exit(1)
	}
}

func run(o options) (err error) {
	started := time.Now().UTC()
	o.debian, err = filepath.Abs(o.debian)
	if err != nil {
		return err
	}
	share, err := os.MkdirTemp("", "hostport-kernels-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(share)
	lives := plan(o)
	if len(lives) == 0 {
		return errors.New("no boot has such a name")
	}
	if err := build(filepath.Join(share, "built"), lives); err != nil {
		return err
	}
	// A failed guest does not stop the others.
	found := make([][]result, len(lives))
	failed := make([]error, len(lives))
	slots := make(chan struct{}, o.guests)
	var guests sync.WaitGroup
	for i, l := range lives {
		slots <- struct{}{}
		guests.Go(func() {
			defer func() { <-slots }()
			m := machine{debian: o.debian, share: share, name: fmt.Sprint("guest-", i), suite: l.suite, accel: o.accel, limit: o.limit}
			found[i], failed[i] = m.live(l, o.logs)
		})
	}
	guests.Wait()
	var results []result
	for _, f := range found {
		results = append(results, f...)
	}
	if err := keep(o, results, started); err != nil {
		return err
	}
	return errors.Join(failed...)
}

// live runs all boots of a guest's life, and prints the outcome.
func (m *machine) live(l life, logs string) ([]result, error) {
	var all []result
	var failed []error
	for _, b := range l.boots {
		start := time.Now()
		log, err := m.boot(b)
		if logs != "" {
			file := filepath.Join(logs, fmt.Sprintf("%s, %s.log", l.suite, b.name))
			err = errors.Join(err, os.WriteFile(file, []byte(log), 0o644))
		}
		found := parse(l.suite, log)
		all = append(all, found...)
		passed, bad := count(found)
		fmt.Printf("%s (Linux %s), %s: %d passed, %d failed, %d s\n", l.suite, m.release, b.name, passed, bad, int(time.Since(start).Seconds()))
		if err != nil || bad > 0 || passed == 0 || skips(log) {
			fmt.Println(log)
			failed = append(failed, errors.Join(fmt.Errorf("%s, %s: %d scenes failed", l.suite, b.name, bad), err))
		}
	}
	return all, errors.Join(failed...)
}
