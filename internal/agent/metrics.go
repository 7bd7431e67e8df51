package agent

import (
	"runtime"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/node"
)

// metrics holds what the agent has counted and observed, and the registry.
type metrics struct {
	registry *prometheus.Registry

	repairs     *prometheus.CounterVec
	lastRepair  prometheus.Gauge
	backingOff  *prometheus.GaugeVec
	installed   prometheus.Gauge
	rewrites    prometheus.Counter
	deadOwners  *prometheus.GaugeVec // without labels: a vector can be empty
	outOfSync   *prometheus.GaugeVec
	backendUp   *prometheus.GaugeVec
	mu          sync.Mutex
	records     *node.Snapshot
	fightingOff bool
	usable      map[string]bool // of the backends in use: the result of their STATUS
	unread      map[string]bool // backends whose rules could not be compared the last time
}

func newMetrics(a *Agent) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		repairs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hostport_repairs_total", Help: "Repairs of rules that were not as recorded, by cause.",
		}, []string{"cause"}),
		lastRepair: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "hostport_last_repair_timestamp_seconds", Help: "When rules were repaired last, 0 for never since the agent started.",
		}),
		backingOff: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "hostport_repairs_backing_off", Help: "Whether repairs are delayed because a process, if known, undoes them again and again.",
		}, []string{"process"}),
		installed: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "hostport_installed", Help: "Whether the plugin is in the network configuration that the runtime uses.",
		}),
		rewrites: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "hostport_conflist_rewrites_total", Help: "How often another program took the plugin out of the network configuration.",
		}),
		deadOwners: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "hostport_dead_owners", Help: "Attachments whose sandbox is gone and that still own host ports. Absent if the agent cannot see sandboxes.",
		}, nil),
		outOfSync: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "hostport_out_of_sync", Help: "Differences between records and rules. Absent while they cannot be compared.",
		}, []string{"backend"}),
		backendUp: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "hostport_backend_up", Help: "Whether the backend can be used and its rules can be read, for each that is in use.",
		}, []string{"backend"}),
		records: &node.Snapshot{},
		usable:  make(map[string]bool),
		unread:  make(map[string]bool),
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "hostport_build_info", Help: "The version of the agent.",
		ConstLabels: prometheus.Labels{"version": a.o.Build, "goversion": runtime.Version()},
	})
	info.Set(1)
	for _, c := range causes() {
		m.repairs.WithLabelValues(c)
	}
	m.endBackingOff()
	m.registry.MustRegister(info, m.repairs, m.lastRepair, m.backingOff, m.installed, m.rewrites, m.deadOwners, m.outOfSync,
		m.backendUp, &recordCollector{a}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) repaired(cause string, at time.Time) {
	m.repairs.WithLabelValues(cause).Inc()
	m.lastRepair.Set(float64(at.UnixMilli()) / 1000)
}

// setBackingOff shows that repairs are delayed because of a process.
func (m *metrics) setBackingOff(by process) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fightingOff = true
	m.backingOff.Reset()
	m.backingOff.WithLabelValues(by.name).Set(1)
}

func (m *metrics) endBackingOff() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fightingOff = false
	m.backingOff.Reset()
	m.backingOff.WithLabelValues("").Set(0)
}

func (m *metrics) backsOff() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.fightingOff
}

// snapshot returns the records that were read last, never nil.
func (m *metrics) snapshot() *node.Snapshot {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.records
}

// setSnapshot remembers the records that were read.
func (m *metrics) setSnapshot(s *node.Snapshot) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.records = s
}

// setCompared shows a comparison of rules and records. A backend that is
// missing in found could not be read: the state of its rules is unknown, and it
// counts as down.
func (m *metrics) setCompared(found map[string][]node.Difference) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range backend.Names() {
		differences, read := found[name]
		m.unread[name] = !read
		if read {
			m.outOfSync.WithLabelValues(name).Set(float64(len(differences)))
		} else {
			m.outOfSync.DeleteLabelValues(name)
		}
		m.showUp(name)
	}
}

// forgetCompared shows that rules and records cannot be compared, for a reason
// that is not a backend's fault.
func (m *metrics) forgetCompared() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.outOfSync.Reset()
}

// setUsable shows the STATUS of a backend in use.
func (m *metrics) setUsable(name string, yes bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.usable[name] = yes
	m.showUp(name)
}

// forgetBackend removes the series of a backend that is no longer in use.
func (m *metrics) forgetBackend(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.usable, name)
	m.showUp(name)
}

// showUp sets backend_up of a backend. The caller holds the mutex.
func (m *metrics) showUp(name string) {
	usable, used := m.usable[name]
	if !used {
		m.backendUp.DeleteLabelValues(name)
		return
	}
	m.backendUp.WithLabelValues(name).Set(number01(usable && !m.unread[name]))
}

func (m *metrics) setInstalled(yes bool) { m.installed.Set(number01(yes)) }
func (m *metrics) rewritten()            { m.rewrites.Inc() }
func (m *metrics) setDead(n int)         { m.deadOwners.WithLabelValues().Set(float64(n)) }
func (m *metrics) forgetDead()           { m.deadOwners.Reset() }

func number01(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
