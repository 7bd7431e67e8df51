package explain

import (
	"io"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	"github.com/mdlayher/netlink/nltest"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/test/netns"
)

// TestDoctorWithoutNFTables wants no tables on a kernel without nf_tables, and
// doctor not to claim that it has them.
func TestDoctorWithoutNFTables(t *testing.T) {
	t.Setenv("PATH", t.TempDir()) // no tools
	netns.Enter(t)
	for name, c := range map[string]struct {
		errno   unix.Errno
		mark    Mark
		text    string
		command string
	}{
		"no such subsystem": {unix.EINVAL, MarkFail, "has no nf_tables, which the nftables backend and iptables-nft need: ", "modprobe nf_tables"},
		"not compiled in":   {unix.EOPNOTSUPP, MarkFail, "has no nf_tables, which the nftables backend and iptables-nft need: ", "modprobe nf_tables"},
		"not permitted":     {unix.EPERM, MarkFail, "with CAP_NET_ADMIN in the node's network namespace only", ""},
	} {
		t.Run(name, func(t *testing.T) {
			conn := nltest.Dial(func(req []netlink.Message) ([]netlink.Message, error) {
				if len(req) == 0 {
					return nil, io.EOF
				}
				req[0].Header.Flags = 0 // as in the kernel's answer
				return nltest.Error(int(c.errno), req)
			})
			collector := &Collector{nft: &nftReader{conn}, sets: &setReader{}}
			defer collector.Close()
			checks, err := collector.Doctor(t.Context(), Places{State: t.TempDir(), ConfDir: t.TempDir()}, Records{})
			if err != nil {
				t.Fatal(err)
			}
			if got := checks[0]; got.Name != "kernel" || got.Mark != c.mark || !strings.Contains(got.Text, c.text) || got.Command != c.command {
				t.Errorf("got %+v, want %s %q and %q", got, c.mark, c.text, c.command)
			}
		})
	}
	d := &doctor{s: &Snapshot{variant: originLegacy}, noNFTables: unix.EINVAL}
	if d.kernel(); d.checks[0].Mark != MarkWarn {
		t.Errorf("beside iptables-legacy: %+v", d.checks[0])
	}
	c, err := NewCollector()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.nft.supported(); err != nil {
		t.Errorf("this kernel has nf_tables: %v", err)
	}
}
