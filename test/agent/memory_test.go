package agent

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hostport-cni/hostport/test/world"
)

const (
	attachments = 500
	// mostMemory is what is promised.
	mostMemory = 30 << 20
	// startTime is after which everything was looked at once, the tables of
	// iptables-legacy among it.
	startTime = 10 * time.Second
	// idleTime is for how long the processor time of an agent without work is
	// measured: as long as it takes it to ask its backend for the status once more.
	idleTime = 2 * time.Minute
	// idleTries of which one has to be below the limit: what else runs on the
	// machine costs the agent its caches, and can only add to what it takes.
	idleTries = 4
)

// idleLimit is the share of a core that an agent without work may take. What is
// promised is 0.1 %. With iptables-legacy, whose tables are read every three seconds,
// it is 0.07 to 0.09 % on a quiet machine: too close for a busy or a slower one.
func idleLimit(b world.Backend) float64 {
	if b == world.IptablesLegacy {
		return 0.002
	}
	return 0.001
}

// TestCost measures memory and processor time of an agent on a node with many
// pods, when nothing happens, a scrape apart. Time that its tools take counts.
func TestCost(t *testing.T) {
	for _, b := range world.Backends {
		t.Run(string(b), func(t *testing.T) {
			t.Parallel()
			n, _ := newNode(t, b, "hostport")
			n.crowd()
			n.start()
			n.awaitReady()
			n.get("/metrics")
			time.Sleep(startTime)
			share := 1.0
			for try := 0; try < idleTries && share > idleLimit(b); try++ {
				share = n.idle()
				t.Logf("%.3f %% of a core", share*100)
			}
			n.get("/metrics")
			memory, detail := n.memory()
			t.Logf("%d attachments: %.1f MiB resident (%s)", attachments, float64(memory)/(1<<20), detail)
			if memory > mostMemory {
				t.Errorf("%d bytes resident, want less than %d", memory, mostMemory)
			}
			if share > idleLimit(b) {
				t.Errorf("%.3f %% of a core, want less than %.1f %%", share*100, idleLimit(b)*100)
			}
			if got := n.metric(`hostport_mappings{backend="` + b.Config() + `",family="ipv4",protocol="tcp"}`); got != fmt.Sprint(attachments) {
				t.Errorf("%s mappings", got)
			}
		})
	}
}

// idle returns the share of a core that the agent takes while nothing happens.
func (n *node) idle() float64 {
	n.Helper()
	start, before := time.Now(), n.processorTime()
	time.Sleep(idleTime)
	return float64(n.processorTime()-before) / float64(time.Since(start))
}

// crowd adds attachments, all of one sandbox: what a chain would do before does
// not matter here.
func (n *node) crowd() {
	n.Helper()
	p := n.w.NewPod("crowd")
	for i := range attachments {
		out := n.w.Invoke(world.Invocation{
			Command: "ADD", ContainerID: fmt.Sprintf("%064x", i), IfName: "eth0", Netns: p.Path,
			Args: fmt.Sprintf("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod-%d;K8S_POD_UID=%d", i, i),
			Stdin: n.w.Stdin(world.Config{
				"runtimeConfig": world.Config{"portMappings": []world.Mapping{world.TCP(10000+i, 80)}},
				"prevResult":    world.PrevResult(p.Path, fmt.Sprintf("10.244.%d.%d/16", 1+i/250, 1+i%250)),
			}),
		})
		if cniErr, err := out.Error(); cniErr != nil || err != nil {
			n.Fatal(cniErr, err)
		}
	}
}

// memory returns what the agent has resident, and what of it is its own.
func (n *node) memory() (bytesResident int, detail string) {
	n.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.cmd.Process.Pid))
	if err != nil {
		n.Fatal(err)
	}
	var own []string
	for line := range bytes.Lines(b) {
		key, value, _ := strings.Cut(string(line), ":")
		fields := strings.Fields(value)
		switch key {
		case "VmRSS":
			kib, err := strconv.Atoi(fields[0])
			if err != nil {
				n.Fatal(err)
			}
			bytesResident = kib << 10
		case "RssAnon", "RssFile":
			own = append(own, key+" "+strings.Join(fields, " "))
		}
	}
	return bytesResident, strings.Join(own, ", ")
}

// processorTime returns what the agent has used, with its tools that have ended.
// The kernel counts that of threads in nanoseconds, where /proc/PID/stat has ticks
// that it samples; of tools there are ticks alone.
func (n *node) processorTime() (used time.Duration) {
	n.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", n.cmd.Process.Pid))
	if err != nil || len(tasks) == 0 {
		n.Fatal("no threads", err)
	}
	for _, path := range tasks {
		used += time.Duration(n.number(path, 0))
	}
	stat := fmt.Sprintf("/proc/%d/stat", n.cmd.Process.Pid)
	const cutime, cstime = 15, 16 // the name of the program has no space
	return used + time.Duration(n.number(stat, cutime)+n.number(stat, cstime))*(time.Second/100)
}

// number reads one of the words in a file.
func (n *node) number(path string, word int) int {
	n.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		n.Fatal(err)
	}
	v, err := strconv.Atoi(strings.Fields(string(b))[word])
	if err != nil {
		n.Fatal(err)
	}
	return v
}
