package agent

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/test/world"
)

// TestConnections counts the connections to each mapping, of both families, and
// what the plugin has refused.
func TestConnections(t *testing.T) {
	for _, b := range world.Backends {
		t.Run(string(b), func(t *testing.T) {
			t.Parallel()
			n, net := newNode(t, b, "hostport")
			n.start("--connection-metrics")
			n.awaitReady()
			n.web(net, "web", 8080) // one of each family
			n.web(net, "other", 8081)
			for range 3 {
				n.w.Client.Ask(t, "tcp", address(world.V4, 8080))
			}
			labels := `{container_port="80",host_ip="",host_port="8080",namespace="default",pod="web",protocol="tcp"}`
			n.wantMetric("hostport_mapping_connections_total"+labels, "5")
			labels = `{container_port="80",host_ip="",host_port="8081",namespace="default",pod="other",protocol="tcp"}`
			n.wantMetric("hostport_mapping_connections_total"+labels, "2")

			refused, err := net.Add(n.w.NewPod("refused"), world.TCP(8080, 80))
			if err == nil {
				t.Error("a port was given twice")
			}
			refused.MustDel(t)
			n.wantMetric(`hostport_conflicts_total{kind="port"}`, "1")
			n.wantMetric(`hostport_requests_total{result="refused",verb="ADD"}`, "1")
			n.await(answerTime, "the refusal is told", func() bool {
				told := n.log.find("host port refused")
				return len(told) == 1 && told[0]["pod"] == "default/refused" && strings.Contains(fmt.Sprint(told[0]["reason"]), "default/web")
			})
		})
	}
}

// TestUnreadable keeps the agent from reading the rules. It does not go on to say
// that they are as recorded, and repairs what happened meanwhile.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	n, net := newNode(t, world.IptablesNFT, "hostport")
	n.start()
	n.awaitReady()
	n.web(net, "web", 8080)
	value := func(metric, backend string) func(want string) {
		return func(want string) {
			t.Helper()
			series := fmt.Sprintf("%s{backend=%q}", metric, backend)
			n.await(answerTime, fmt.Sprintf("%s is %q", series, want), func() bool { return n.metric(series) == want })
		}
	}
	inSync, up := value("hostport_out_of_sync", "iptables"), value("hostport_backend_up", "iptables")
	inSync("0")
	up("1")
	for _, tool := range []string{"iptables-save", "ip6tables-save", "iptables-restore", "ip6tables-restore"} {
		n.w.ReplaceTool(tool, `[ "$1" = --version ] && exec "$REAL" "$@"; echo 'the disk is full' >&2; exit 1`)
	}
	n.w.Iptables(world.V4, "-t", "nat", "-F", "CNI-HP-DNAT")
	inSync("")
	up("0")
	n.wantMetric(`hostport_out_of_sync{backend="nftables"}`, "0")
	told := make(map[string]int) // another reason while the tools were replaced, perhaps
	for _, line := range n.log.find("rules cannot be compared with the records") {
		told[fmt.Sprint(line["reason"])]++
	}
	if len(told) == 0 {
		t.Error("nothing was told")
	}
	for reason, times := range told {
		if times != 1 || !strings.Contains(reason, "the disk is full") {
			t.Errorf("told %d times: %s", times, reason)
		}
	}
	n.w.RestoreTools()
	inSync("0")
	up("1")
	n.reaches(8080, "web")
}

// TestScrapeWhileLocked has a call of the plugin hold the lock for longer than the agent
// waits. The mappings that were read before stay in what Prometheus scrapes.
func TestScrapeWhileLocked(t *testing.T) {
	t.Parallel()
	n, net := newNode(t, world.NFTables, "hostport")
	n.start("--lock-timeout", "100ms")
	n.awaitReady()
	n.web(net, "web", 8080)
	mappings := `hostport_mappings{backend="nftables",family="ipv4",protocol="tcp"}`
	n.wantMetric(mappings, "1")
	lock, err := unix.Open(filepath.Join(n.w.DataDir, "lock"), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(lock) }()
	if err := unix.Flock(lock, unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	n.w.NFT("flush map inet hostport v4") // the agent compares at once
	for range 3 {
		n.wantMetric(mappings, "1")
	}
}
