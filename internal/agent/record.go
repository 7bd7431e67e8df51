package agent

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hostport-cni/hostport/internal/node"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// recordCollector collects the current records at each scrape: mappings, and
// the plugin's counters.
type recordCollector struct{ *Agent }

// scrapeTimeout is how long a scrape waits for calls of the plugin.
const scrapeTimeout = 2 * time.Second

// connectionTime is how long reading the counters may take.
const connectionTime = 20 * time.Second

// descriptions holds the descriptions of the collector's metrics.
type descriptions struct {
	mappings, info, requests, duration, conflicts, takeovers, connections *prometheus.Desc
}

func describe() descriptions {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	return descriptions{
		mappings:  d("hostport_mappings", "Mappings of host ports.", "protocol", "family", "backend"),
		info:      d("hostport_mapping_info", "Each mapping, and the pod that owns it.", mappingLabels()...),
		requests:  d("hostport_requests_total", "Calls of the container runtime, by verb and result.", "verb", "result"),
		duration:  d("hostport_request_duration_seconds", "How long the runtime's calls took.", "verb"),
		conflicts: d("hostport_conflicts_total", "Attachments that were refused, by what they were in conflict with.", "kind"),
		takeovers: d("hostport_takeovers_total", "Owners that were gone, or an earlier sandbox of the same pod, whose ports a new pod took over."),
		connections: d("hostport_mapping_connections_total", "New connections and flows to a mapping since its rules were written.",
			mappingLabels()...),
	}
}

func mappingLabels() []string {
	return []string{"namespace", "pod", "protocol", "host_ip", "host_port", "container_port"}
}

// Describe implements prometheus.Collector.
func (c *recordCollector) Describe(ch chan<- *prometheus.Desc) {
	d := describe()
	for _, x := range []*prometheus.Desc{d.mappings, d.info, d.requests, d.duration, d.conflicts, d.takeovers, d.connections} {
		ch <- x
	}
}

// Collect implements prometheus.Collector. If the plugin holds the lock for too
// long, it uses the records that were read last.
func (c *recordCollector) Collect(ch chan<- prometheus.Metric) {
	n := c.node()
	n.Timeout = scrapeTimeout
	s, err := n.Snapshot(context.Background(), c.metrics.snapshot())
	if err == nil {
		c.metrics.setSnapshot(s)
	}
	d := describe()
	d.mappingsOf(s, ch)
	d.countsOf(n, ch)
	if c.o.ConnectionMetrics {
		d.connectionsOf(n, s, ch)
	}
}

func gauge(ch chan<- prometheus.Metric, d *prometheus.Desc, v float64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func counter(ch chan<- prometheus.Metric, d *prometheus.Desc, v float64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
}

func (d descriptions) mappingsOf(s *node.Snapshot, ch chan<- prometheus.Metric) {
	type group struct{ protocol, family, backend string }
	count := make(map[group]int)
	seen := make(map[string]bool)
	for _, a := range s.Attachments {
		for _, f := range hostport.Families() {
			for _, fw := range a.Forwards(f) {
				count[group{string(fw.Protocol), strings.ToLower(f.String()), a.Backend}]++
			}
		}
		for _, m := range a.Mappings {
			labels := labelsOf(a, m)
			if key := strings.Join(labels, "\x00"); !seen[key] { // an entry may occur twice
				seen[key] = true
				gauge(ch, d.info, 1, labels...)
			}
		}
	}
	for g, n := range count {
		gauge(ch, d.mappings, float64(n), g.protocol, g.family, g.backend)
	}
}

func labelsOf(a *hostport.Attachment, m hostport.Mapping) []string {
	ip := ""
	if m.HostIP.IsValid() {
		ip = m.HostIP.String()
	}
	return []string{a.Pod.Namespace, a.Pod.Name, string(m.Protocol), ip, fmt.Sprint(m.HostPort), fmt.Sprint(m.ContainerPort)}
}

func (d descriptions) countsOf(n *node.Node, ch chan<- prometheus.Metric) {
	counts, err := n.Counts()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(d.requests, err)
		return
	}
	type total struct {
		number uint64
		took   float64
	}
	byVerb := make(map[string]total)
	for name, c := range counts {
		switch before, after, _ := strings.Cut(name, "/"); before {
		case "conflict":
			counter(ch, d.conflicts, float64(c.Number), after)
		case "takeover":
			counter(ch, d.takeovers, float64(c.Number))
		default:
			counter(ch, d.requests, float64(c.Number), before, after)
			t := byVerb[before]
			byVerb[before] = total{t.number + c.Number, t.took + c.Took.Seconds()}
		}
	}
	for verb, t := range byVerb {
		ch <- prometheus.MustNewConstSummary(d.duration, t.number, t.took, nil, verb)
	}
}

// connectionsOf collects the connections of each mapping, summed over the
// families.
func (d descriptions) connectionsOf(n *node.Node, s *node.Snapshot, ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), connectionTime)
	defer cancel()
	found, err := n.Connections(ctx)
	if err != nil {
		n.Log.Debug("connections could not all be counted", "reason", err)
	}
	seen := make(map[string]bool)
	for _, a := range s.Attachments {
		for _, m := range a.Mappings {
			labels := labelsOf(a, m)
			key := strings.Join(labels, "\x00")
			if seen[key] {
				continue
			}
			seen[key] = true
			number, _ := found.Of(a, m)
			counter(ch, d.connections, float64(number), labels...)
		}
	}
}
