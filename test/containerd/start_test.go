//go:build bench

package containerd

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/hostport-cni/hostport/test/answer"
	"github.com/hostport-cni/hostport/test/bench"
	"github.com/hostport-cni/hostport/test/world"
)

var (
	results = flag.String("results", "", "file that results are appended to")
	rounds  = flag.Int("rounds", 3, "how often each subject is measured")
)

const (
	sandboxes    = 50
	portsOfEach  = 5
	firstPort    = 20000
	withoutPorts = "without host ports"
)

// TestStart measures a node that comes up, as its users feel it: 50 sandboxes with
// five host ports each, started at once through the newest containerd, with
// hostport, with portmap, and without host ports, in turn.
func TestStart(t *testing.T) {
	about(t)
	for _, services := range []int{0, 5000} {
		for _, b := range backends {
			t.Run(fmt.Sprintf("%s/%d Services", b, services), func(t *testing.T) {
				w := world.New(t, world.Options{Backend: b})
				w.Services(services)
				network := func(plugin string, second bool) *daemon {
					return startDaemon(t, newest, w, w.NewNetwork(world.NetworkOptions{
						Name: plugin, Type: plugin, Second: second, Families: []world.Family{world.V4}, // bridge's own iptables would be most of it: no ipMasq
					}).Conflist)
				}
				ours, peer := network("hostport", false), network("portmap", true)
				runs, last, failed := map[string][]float64{}, map[string][]float64{}, map[string]float64{}
				for range *rounds {
					for _, s := range []struct {
						name string
						*daemon
						ports int
					}{{withoutPorts, ours, 0}, {"hostport", ours, portsOfEach}, {"portmap", peer, portsOfEach}} {
						r := s.startAtOnce(t, s.ports)
						runs[s.name] = append(runs[s.name], r.runs...)
						last[s.name] = append(last[s.name], r.last)
						failed[s.name] += r.failed
						t.Logf("%s: last answer after %.0f ms, %.0f failed", s.name, r.last, r.failed)
						if s.name != "portmap" && r.failed > 0 {
							t.Errorf("%s: %.0f sandboxes failed", s.name, r.failed)
						}
					}
				}
				for name := range runs {
					labels := map[string]string{"backend": string(b), "services": fmt.Sprint(services)}
					write(t, "sandbox-failed", name, labels, "sandboxes", failed[name])
					labels["what"] = "RunPodSandbox"
					write(t, "sandbox", name, labels, "ms", runs[name]...)
					labels["what"] = "last port answers"
					if name != withoutPorts {
						write(t, "sandbox", name, labels, "ms", last[name]...)
					}
				}
			})
		}
	}
}

// round is what one start of all sandboxes took, in milliseconds.
type round struct {
	runs         []float64
	last, failed float64
}

// startAtOnce starts all sandboxes and asks each of their ports until it answers.
// They are gone when it returns.
func (d *daemon) startAtOnce(t *testing.T, ports int) round {
	t.Helper()
	var out round
	var mu sync.Mutex
	var all sync.WaitGroup
	var started []*sandbox
	start := time.Now()
	since := func() float64 { return float64(time.Since(start).Microseconds()) / 1000 }
	for i := range sandboxes {
		all.Go(func() {
			p := pod{name: fmt.Sprintf("bench-%d", i)}
			for n := range ports {
				p.ports = append(p.ports, tcp(int32(firstPort+i*portsOfEach+n), int32(80+n)))
			}
			created, err := d.runtime.RunPodSandbox(context.Background(), &cri.RunPodSandboxRequest{Config: p.sandboxConfig()})
			took := since()
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				out.failed++
				t.Log(err)
				return
			}
			started = append(started, &sandbox{pod: p, id: created.PodSandboxId})
			out.runs = append(out.runs, took)
			mu.Unlock()
			err = d.askAll(created.PodSandboxId, p, ports)
			took = since()
			mu.Lock()
			if err != nil {
				out.failed++
				t.Log(err)
			}
			out.last = max(out.last, took)
		})
	}
	all.Wait()
	for _, s := range started {
		all.Go(func() { d.remove(t, s) })
	}
	all.Wait()
	return out
}

// askAll answers in a sandbox, and asks each host port from outside until the
// answer comes.
func (d *daemon) askAll(id string, p pod, ports int) error {
	if ports == 0 {
		return nil
	}
	reply, err := d.runtime.PodSandboxStatus(context.Background(), &cri.PodSandboxStatusRequest{PodSandboxId: id, Verbose: true})
	if err != nil {
		return err
	}
	path, err := netnsOf(reply.Info["info"])
	if err != nil {
		return err
	}
	inside, server := d.w.NetnsAt(p.name, path), &answer.Server{Name: p.name}
	for _, m := range p.ports {
		var l io.Closer
		if err := inside.Try(func() (err error) {
			l, err = server.Listen("tcp", fmt.Sprintf(":%d", m.ContainerPort))
			return err
		}); err != nil {
			return err
		}
		defer l.Close()
	}
	for _, m := range p.ports {
		to := netip.AddrPortFrom(world.V4.Node(), uint16(m.HostPort))
		for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
			got, err := d.w.Client.TryAsk("tcp", netip.AddrPort{}, to, time.Second)
			if err == nil && got.Server == p.name {
				break
			}
			if time.Now().After(deadline) {
				return errors.Join(fmt.Errorf("port %d of %s: answer of %q", m.HostPort, p.name, got.Server), err)
			}
		}
	}
	return nil
}

func about(t *testing.T) {
	t.Helper()
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		t.Fatal(err)
	}
	for what, value := range map[string]string{
		"date": time.Now().UTC().Format("2006-01-02"), "load average at the start": strings.Join(strings.Fields(string(load))[:3], " "),
		"containerd": strings.TrimPrefix(os.Getenv(newestKey)[strings.LastIndex(os.Getenv(newestKey), "-")+1:], "v"),
	} {
		write(t, "machine-runtime", what, map[string]string{"value": value}, "")
	}
}

func write(t *testing.T, section, subject string, labels map[string]string, unit string, xs ...float64) {
	t.Helper()
	r := bench.Summarise(xs)
	r.Section, r.Subject, r.Labels, r.Unit = section, subject, labels, unit
	t.Logf("%s %s %v: %.1f (%.1f-%.1f) %s, %d runs", section, subject, labels, r.Median, r.Min, r.Max, unit, r.Runs)
	if *results == "" {
		return
	}
	if err := bench.Write(*results, r); err != nil {
		t.Fatal(err)
	}
}
