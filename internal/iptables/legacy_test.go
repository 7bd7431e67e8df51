package iptables

import (
	"hash/maphash"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/test/netns"
)

// TestLegacyDigest changes tables of iptables-legacy: rules change the digest, what
// passes by does not. Where no table is loaded, none is.
func TestLegacyDigest(t *testing.T) {
	netns.Enter(t)
	legacy := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("/usr/sbin/xtables-legacy-multi", append(args, "--wait")...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	seed := maphash.MakeSeed()
	digest := func() uint64 {
		t.Helper()
		d, err := LegacyDigest(seed)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	if d := digest(); d != 0 {
		t.Errorf("digest %x without a table", d)
	}
	seen := map[uint64]string{0: "nothing"}
	for _, args := range [][]string{
		{"iptables", "-t", "nat", "-N", "CNI-HP-DNAT"},
		{"iptables", "-t", "nat", "-A", "CNI-HP-DNAT", "-p", "tcp", "--dport", "80", "-j", "DNAT", "--to-destination", "10.0.0.2:80"},
		{"iptables", "-t", "nat", "-R", "CNI-HP-DNAT", "1", "-p", "tcp", "--dport", "80", "-j", "DNAT", "--to-destination", "10.0.0.3:80"},
		{"iptables", "-t", "nat", "-I", "OUTPUT", "-j", "CNI-HP-DNAT"},
		{"iptables", "-t", "raw", "-A", "PREROUTING", "-j", "ACCEPT"},
		{"ip6tables", "-t", "nat", "-A", "POSTROUTING", "-j", "ACCEPT"},
	} {
		legacy(args...)
		d := digest()
		if before, ok := seen[d]; ok {
			t.Errorf("after %v the digest is that of %s", args, before)
		}
		seen[d] = args[len(args)-1]
		if again := digest(); again != d {
			t.Errorf("digests %x and %x of the same", d, again)
		}
	}
	// Counters are no change.
	before := digest()
	legacy("iptables", "-t", "nat", "-Z")
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	_ = unix.Sendto(fd, []byte("x"), 0, &unix.SockaddrInet4{Port: 80, Addr: [4]byte{127, 0, 0, 1}})
	if after := digest(); after != before {
		t.Error("a packet changes the digest")
	}
	// A table of no interest is none.
	legacy("iptables", "-t", "mangle", "-A", "OUTPUT", "-j", "ACCEPT")
	if after := digest(); after != before {
		t.Error("table mangle changes the digest")
	}
}

func TestConcerned(t *testing.T) {
	for _, tc := range []struct {
		family       uint8
		table, chain string
		want         bool
	}{
		{unix.NFPROTO_IPV4, "nat", "", true},
		{unix.NFPROTO_IPV6, "nat", "CNI-HP-TCP-1F9", true},
		{unix.NFPROTO_IPV4, "nat", "PREROUTING", true},
		{unix.NFPROTO_IPV4, "nat", "INPUT", false},
		{unix.NFPROTO_IPV4, "nat", "KUBE-SERVICES", false},
		{unix.NFPROTO_IPV4, "raw", "PREROUTING", true},
		{unix.NFPROTO_IPV6, "raw", "PREROUTING", false},
		{unix.NFPROTO_IPV4, "filter", "CNI-HP-X", false},
		{unix.NFPROTO_INET, "nat", "PREROUTING", false},
	} {
		if got := Concerned(tc.family, tc.table, tc.chain); got != tc.want {
			t.Errorf("%d %s %s: %v", tc.family, tc.table, tc.chain, got)
		}
	}
}
