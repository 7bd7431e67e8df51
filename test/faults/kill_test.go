package faults

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/hostport-cni/hostport/internal/fault"
	"github.com/hostport-cni/hostport/test/world"
)

const contested = 8080 // the port that everybody wants

const takeover = "ADD that takes over"

// A victim is an invocation that dies. before says what is there when it
// starts; p is whom it is about.
type victim struct {
	name string
	// make prepares the node and returns the invocation, and the pod that is
	// left afterwards if the invocation takes effect.
	make func(m *machine, p *pod) world.Invocation
	verb string
}

func victims() []victim {
	return []victim{
		{name: "ADD", verb: "ADD", make: func(m *machine, p *pod) world.Invocation { return m.request("ADD", p) }},
		{name: "ADD that replaces", verb: "ADD", make: func(m *machine, p *pod) world.Invocation {
			old := *p
			old.n, old.ports = p.n+100, []int{contested, 9999}
			m.must(m.request("ADD", &old))
			return m.request("ADD", p)
		}},
		{name: takeover, verb: "ADD", make: func(m *machine, p *pod) world.Invocation {
			old := m.newPod(77, 7070, contested)
			m.must(m.request("ADD", old))
			old.die()
			return m.request("ADD", p)
		}},
		{name: "DEL", verb: "DEL", make: func(m *machine, p *pod) world.Invocation {
			m.must(m.request("ADD", p))
			return m.request("DEL", p)
		}},
		{name: "GC", verb: "GC", make: func(m *machine, p *pod) world.Invocation {
			m.must(m.request("ADD", p))
			second := m.newPod(78, 7071)
			m.must(m.request("ADD", second))
			second.die()
			return m.collect()
		}},
	}
}

// A sequel is what happens after an invocation has died. It returns the pod
// that must hold the contested port in the end, or nil for nobody.
type sequel struct {
	name string
	run  func(m *machine, p *pod) *pod
}

func sequels() []sequel {
	return []sequel{
		{"DEL", func(m *machine, p *pod) *pod {
			m.must(m.request("DEL", p))
			return nil
		}},
		{"ADD again", func(m *machine, p *pod) *pod {
			m.must(m.request("ADD", p))
			return p
		}},
		{"ADD of another, the owner dead", func(m *machine, p *pod) *pod {
			p.die()
			next := m.newPod(33, contested, 6060)
			m.must(m.request("ADD", next))
			return next
		}},
		{"ADD of another, with the dead owner's address", func(m *machine, p *pod) *pod {
			p.die()
			next := m.newPod(p.n, contested)
			m.must(m.request("ADD", next))
			m.must(m.request("DEL", p)) // late
			return next
		}},
		{"GC that keeps nobody", func(m *machine, _ *pod) *pod {
			m.must(m.collect())
			return nil
		}},
	}
}

// After every death at every step of every invocation, whatever comes next
// leaves records and kernel in agreement, and the port with whom it belongs.
func TestKilledAtEveryStep(t *testing.T) {
	everyBackend(t, func(t *testing.T, b world.Backend) {
		m := newMachine(t, b)
		died := map[string]bool{}
		for _, v := range victims() {
			for _, point := range fault.Points() {
				for _, s := range sequels() {
					when := fmt.Sprintf("%s killed at %s, then %s", v.name, point, s.name)
					p := m.newPod(5, contested, 8443)
					if o := m.try(v.make(m, p), "HOSTPORT_FAULT="+point); o.killed {
						died[v.verb+" "+point] = true
					} else if o.ExitCode != 0 {
						t.Fatalf("%s: exit %d, %s", when, o.ExitCode, o.Stdout)
					}
					next := s.run(m, p)
					m.agree(when)
					var want []string
					if next != nil {
						want = []string{next.id}
					}
					if got := m.holders(contested); !slices.Equal(got, want) && !untouched(v, point, next) {
						t.Fatalf("%s: port %d leads to %v, want %v", when, contested, got, want)
					}
					m.must(m.collect())
					if got := m.programmed(); len(got) > 0 {
						t.Fatalf("%s: GC of everything leaves %v", when, got)
					}
					p.die()
				}
			}
		}
		for _, verb := range []string{"ADD", "DEL", "GC"} {
			for _, point := range fault.Points() {
				if !died[verb+" "+point] && point != fault.AfterSysctl {
					t.Errorf("%s never passed %s", verb, point)
				}
			}
		}
	})
}

// untouched reports whether the dead owner of before may hold the port still:
// the takeover died before it did anything, and nobody asked for the port since.
func untouched(v victim, point string, next *pod) bool {
	return v.name == takeover && point == fault.BeforeRecord && next == nil
}

// The port of a living owner stays its own, whenever somebody else's ADD died,
// and its own ADD's death does not open it to others.
func TestKilledBesideLivingOwner(t *testing.T) {
	everyBackend(t, func(t *testing.T, b world.Backend) {
		m := newMachine(t, b)
		for _, point := range fault.Points() {
			p := m.newPod(5, contested)
			m.try(m.request("ADD", p), "HOSTPORT_FAULT="+point)
			recorded := point != fault.BeforeRecord
			other := m.newPod(6, contested)
			o := m.try(m.request("ADD", other))
			if refused := o.ExitCode != 0; refused != recorded {
				t.Errorf("killed at %s: ADD of another pod: exit %d, %s", point, o.ExitCode, o.Stdout)
			}
			m.agree("killed at " + point + ", then ADD of another")
			m.must(m.collect())
			p.die()
			other.die()
		}
	})
}

// Deaths at random moments, of the plugin alone or with the tools it started.
func TestKilledAtRandom(t *testing.T) {
	everyBackend(t, func(t *testing.T, b world.Backend) {
		const runs, slots, most = 100, 4, 40 * time.Millisecond
		r := rand.New(rand.NewPCG(6, 2))
		m := newMachine(t, b)
		before := m.canonical()
		pods := make([]*pod, slots)
		killed := 0
		for i := range runs {
			slot := r.IntN(slots)
			p := pods[slot]
			if p == nil {
				p = m.newPod(10+slot, contested+slot, 9000+slot)
				pods[slot] = p
			}
			verb := []string{"ADD", "ADD", "DEL"}[r.IntN(3)]
			proc, err := m.start(m.request(verb, p))
			if err != nil {
				t.Fatal(err)
			}
			delay := time.Duration(r.Int64N(int64(most)))
			alone := r.IntN(2) == 0
			timer := time.AfterFunc(delay, func() {
				if alone {
					_ = proc.cmd.Process.Kill()
				} else {
					proc.killGroup()
				}
			})
			o := proc.wait()
			timer.Stop()
			if o.killed {
				killed++
			}
			if r.IntN(3) == 0 { // its sandbox goes, its DEL is lost
				p.die()
				pods[slot] = nil
			}
			probe := m.newPod(99, 5555)
			m.must(m.request("ADD", probe))
			m.must(m.request("DEL", probe))
			probe.die()
			m.agree(fmt.Sprintf("run %d: %s of slot %d killed (alone: %t) after %v: %t", i, verb, slot, alone, delay, o.killed))
		}
		t.Logf("%d of %d invocations were killed", killed, runs)
		if out, err := m.control("prune"); err != nil {
			t.Fatalf("prune: %v\n%s", err, out)
		}
		m.unchangedBySync("after the last run")
		m.must(m.collect())
		if after := m.canonical(); !slices.Equal(before, after) {
			t.Errorf("rules that nobody owns are left: %v", after)
		}
	})
}
