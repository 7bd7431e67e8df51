package main

import (
	"testing"

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
kernels: done
`

// TestTable: one family that fails is enough for a backend to fail.
func TestTable(t *testing.T) {
	const want = `| | Linux 5.10, bullseye |
|---|---|
| a flowtable | all |
| a reboot with a restored ruleset | nftables |
| an uplink in a VRF | **fails** on iptables-nft |
`
	results := parse("bullseye", printed)
	if diff := cmp.Diff(want, table(results)); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
	if passed, failed := count(results); passed != 5 || failed != 1 {
		t.Errorf("%d passed, %d failed, want 5 and 1", passed, failed)
	}
}
