package agent

import (
	"fmt"
	"strings"
	"testing"

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
