package main

import (
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const printed = `kernels: Linux 5.10.0-32-amd64
=== RUN   TestKernels
--- FAIL: TestKernels (1.37s)
    --- PASS: TestKernels/iptables-nft/v4/an_uplink_in_a_VRF (2.00s)
    --- FAIL: TestKernels/iptables-nft/v6/an_uplink_in_a_VRF (2.00s)
    --- PASS: TestKernels/iptables-legacy/v4/a_flowtable (2.00s)
    --- PASS: TestKernels/iptables-nft/v4/a_flowtable (2.00s)
    --- PASS: TestKernels/nftables/v4/a_flowtable (2.00s)
--- PASS: TestReboot (1.37s)
    --- PASS: TestReboot/nftables (1.37s)
--- PASS: TestControlGroups (1.37s)
    --- PASS: TestControlGroups/containerd_1.6/nftables (1.37s)
        --- PASS: TestControlGroups/containerd_1.6/nftables/host_port_81 (1.37s)
kernels: done
`

// TestTable: one family that fails is enough for a backend to fail.
func TestTable(t *testing.T) {
	const want = `| | Linux 5.10, bullseye |
|---|---|
| a flowtable | all |
| a reboot with a restored ruleset | nftables |
| an uplink in a VRF | **fails** on iptables-nft |
| containerd 1.6 with control groups of version 2 | nftables |

2026-01-02 03:04 UTC: 7 scenes.
`
	results := parse("bullseye", printed)
	for i := range results {
		results[i].Run = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	}
	if diff := cmp.Diff(want, table(results)); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
	if passed, failed := count(results); passed != 6 || failed != 1 {
		t.Errorf("%d passed, %d failed, want 6 and 1", passed, failed)
	}
}

// TestMerge: a scene that ran again counts as it ended then, and the others stay.
func TestMerge(t *testing.T) {
	file := filepath.Join(t.TempDir(), "results.jsonl")
	options := options{results: file, boots: regexp.MustCompile("")}
	first := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	if err := keep(options, parse("bullseye", printed), first); err != nil {
		t.Fatal(err)
	}
	const again = `kernels: Linux 5.10.0-33-amd64
    --- PASS: TestKernels/iptables-nft/v6/an_uplink_in_a_VRF (2.00s)
`
	if err := keep(options, parse("bullseye", again), first.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	all, err := readResults(file)
	if err != nil {
		t.Fatal(err)
	}
	passed, failed := count(all)
	last := all[len(all)-1]
	if passed != 7 || failed != 0 || last.Scene != "an uplink in a VRF" || !last.Run.After(first) || !all[0].Run.Equal(first) {
		t.Errorf("%d passed, %d failed, want 7 and 0; %+v", passed, failed, all)
	}
	options.all = true
	if err := keep(options, parse("trixie", again), first.Add(2*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if all, err = readResults(file); err != nil || len(all) != 1 {
		t.Errorf("after a run of all: %+v, %v", all, err)
	}
}

// TestMergePhases: a scene that failed before the reboot has failed.
func TestMergePhases(t *testing.T) {
	all := merge(nil, parse("bullseye", `
    --- FAIL: TestReboot/nftables (1.37s)
    --- PASS: TestReboot/nftables (1.37s)
`))
	if len(all) != 1 || all[0].Passed {
		t.Errorf("%+v, want one that failed", all)
	}
}

func TestPattern(t *testing.T) {
	for scenes, want := range map[string]string{
		"":                     "^TestKernels$",
		"/v4/(a|b)":            "^TestKernels$//v4/(a|b)",
		" nftables//a\n /v6/b": "^TestKernels$/nftables//a|^TestKernels$//v6/b",
	} {
		if got := pattern(scenes); got != want {
			t.Errorf("%q: %q, want %q", scenes, got, want)
		}
	}
}
