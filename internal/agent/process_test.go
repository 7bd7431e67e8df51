package agent

import (
	"os"
	"testing"
)

func TestProcess(t *testing.T) {
	self := look(uint32(os.Getpid()), "nft")
	if self.pid != os.Getpid() || self.parent == "" {
		t.Errorf("%+v", self)
	}
	for _, tc := range []struct {
		process
		ours bool
		text string
	}{
		{process{}, false, "an unknown process"},
		{process{4711, "nft", "reload.sh"}, false, "nft (PID 4711), started by reload.sh"},
		{process{4711, "iptables-restor", "kube-proxy"}, false, "iptables-restor (PID 4711), started by kube-proxy"},
		{process{4711, "iptables-restor", "hostport"}, true, "iptables-restor (PID 4711), started by hostport"},
		{process{4711, "hostport", "containerd"}, true, "hostport (PID 4711), started by containerd"},
		{process{0, "iptables-restor", ""}, false, "iptables-restor"},
	} {
		if tc.process.ours() != tc.ours || tc.process.String() != tc.text {
			t.Errorf("%+v: ours %v, %q", tc.process, tc.process.ours(), tc.process)
		}
	}
}
