package faults

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/hostport-cni/hostport/test/world"
)

// A hundred ADDs and DELs at once over forty ports, while others change the
// kernel's rules. What each process reported, taken together, is what must be
// there, and every port reaches its pod.
func TestRaces(t *testing.T) {
	everyBackend(t, func(t *testing.T, b world.Backend) {
		m := newMachine(t, b)
		m.config["backend"] = b.Config()
		m.config["lockTimeout"] = "5m" // a hundred wait for one another
		r := rand.New(rand.NewPCG(seed(t, 100), 3))
		before := m.canonical()

		var early, late []*pod
		for n := range 30 {
			p := m.newPod(n, firstPort+n)
			m.must(m.request("ADD", p))
			early = append(early, p)
		}
		for n := range 60 {
			late = append(late, m.newPod(100+n, firstPort+r.IntN(ports)))
		}
		var requests []world.Invocation
		for _, p := range late {
			requests = append(requests, m.request("ADD", p))
		}
		for _, p := range early[:20] {
			requests = append(requests, m.request("DEL", p), m.request("DEL", p))
		}
		r.Shuffle(len(requests), func(i, j int) { requests[i], requests[j] = requests[j], requests[i] })

		stop, foreign := make(chan struct{}), sync.WaitGroup{}
		for _, disturb := range foreigners(m) {
			foreign.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						disturb()
					}
				}
			})
		}
		outcomes := m.atOnce(requests)
		close(stop)
		foreign.Wait()

		live := slices.Clone(early[20:])
		for i, o := range outcomes {
			switch e, err := o.Error(); {
			case err != nil:
				t.Error(err)
			case requests[i].Command == "DEL" && e != nil:
				t.Errorf("DEL: %v", e)
			case requests[i].Command == "ADD" && e == nil:
				j := slices.IndexFunc(late, func(p *pod) bool { return p.id == requests[i].ContainerID })
				live = append(live, late[j])
			case e != nil && e.Code != 101:
				t.Errorf("ADD: %v", e)
			}
		}
		m.agree("after the race")
		m.unchangedBySync("after the race")
		m.owned(live, late)
		m.reached(live)
		m.must(m.collect())
		m.sameRules("the race and a GC", before)
	})
}

// foreigners are programs that commit rules of their own all the time.
func foreigners(m *machine) []func() {
	return []func(){
		func() {
			_, _ = m.Node.TryCommand("add table inet other\nadd chain inet other c\ndelete table inet other\n", "/usr/sbin/nft", "-f", "-")
		},
		func() {
			for _, verb := range []string{"-A", "-D"} {
				_, _ = m.Node.TryCommand("", "/usr/sbin/xtables-nft-multi", "iptables", "-w", "-t", "nat", verb, "POSTROUTING", "-s", "192.0.2.99", "-j", "ACCEPT")
			}
		},
	}
}

// atOnce runs invocations together.
func (m *machine) atOnce(requests []world.Invocation) []outcome {
	m.t.Helper()
	outcomes, errs := make([]outcome, len(requests)), make([]error, len(requests))
	var wg sync.WaitGroup
	for i, r := range requests {
		wg.Go(func() {
			p, err := m.start(r)
			if err != nil {
				errs[i] = err
				return
			}
			outcomes[i] = p.wait()
		})
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			m.t.Fatal(err)
		}
		m.sane(requests[i], outcomes[i])
	}
	return outcomes
}

// owned fails unless exactly the live pods are recorded, no two of them with
// one port, and every refused one met an owner.
func (m *machine) owned(live, late []*pod) {
	m.t.Helper()
	owner := map[int]*pod{}
	for _, p := range live {
		if o := owner[p.ports[0]]; o != nil {
			m.t.Errorf("%s and %s were both told that they have port %d", o.name, p.name, p.ports[0])
		}
		owner[p.ports[0]] = p
	}
	for _, p := range late {
		// Those of the first thirty may have been in the way before their DEL.
		if owner[p.ports[0]] == nil && p.ports[0] >= firstPort+30 {
			m.t.Errorf("%s was refused port %d, which nobody has", p.name, p.ports[0])
		}
	}
	var want, got []string
	for _, p := range live {
		want = append(want, p.id)
	}
	records, _ := m.recorded()
	for _, r := range records {
		got = append(got, r.ContainerID)
	}
	slices.Sort(want)
	if !slices.Equal(want, got) {
		m.t.Errorf("recorded are %v, want %v", got, want)
	}
}

// reached sends a packet to every pod's port. The pods share a namespace that
// has all their addresses; a server on each tells which it is.
func (m *machine) reached(live []*pod) {
	m.t.Helper()
	m.Connect("pods0", m.sandbox, "eth0")
	m.Node.Do(func() error {
		bridge, err := netlink.LinkByName("cni0")
		if err != nil {
			return err
		}
		link, err := netlink.LinkByName("pods0")
		if err != nil {
			return err
		}
		return netlink.LinkSetMaster(link, bridge)
	})
	for _, p := range live {
		m.sandbox.AddAddress("eth0", p.v4()+"/16")
		m.sandbox.ServeOn("tcp", netip.AddrPortFrom(netip.MustParseAddr(p.v4()), 80)).Name = p.v4()
	}
	m.sandbox.AddRoute("eth0", "0.0.0.0/0", "10.244.0.1")
	for _, p := range live {
		side := netip.AddrPortFrom(world.V4.Node(), uint16(p.ports[0]))
		if got := m.Client.Ask(m.t, "tcp", side).Server; got != p.v4() {
			m.t.Errorf("%s leads to %s, want %s", side, got, p.v4())
		}
	}
}

// Many DELs of one pod and ADDs of its port's next owner, at once.
func TestRaceForOnePort(t *testing.T) {
	everyBackend(t, func(t *testing.T, b world.Backend) {
		m := newMachine(t, b)
		m.config["backend"] = b.Config()
		m.config["lockTimeout"] = "5m"
		dead := m.newPod(1, contested)
		m.must(m.request("ADD", dead))
		dead.die()
		var requests []world.Invocation
		for n := range 12 {
			requests = append(requests, m.request("ADD", m.newPod(2+n, contested)), m.request("DEL", dead))
		}
		var winners []string
		for i, o := range m.atOnce(requests) {
			if requests[i].Command == "ADD" && o.ExitCode == 0 {
				winners = append(winners, requests[i].ContainerID)
			}
		}
		if len(winners) != 1 || !slices.Equal(m.holders(contested), winners) {
			t.Errorf("told that they have the port: %s, have it: %s", strings.Join(winners, ", "), fmt.Sprint(m.holders(contested)))
		}
		m.agree("after the race")
	})
}
