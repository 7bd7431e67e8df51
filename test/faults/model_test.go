package faults

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/hostport-cni/hostport/internal/fault"
)

// action is one step of a sequence, as numbers: any numbers are an action, so
// that a sequence can be cut anywhere and still means something.
type action struct{ kind, pod, ports, address, backend, point int }

var kinds = []string{
	"ADD", "ADD", "ADD", "ADD", "DEL", "DEL", "late DEL", "lose", "CHECK", "GC", "flush", "reboot",
	"killed ADD", "killed DEL", "ADD by the binary", "ADD by the next version", "new sandbox",
	"lose state", "save", "restore", "change variant", "second data directory",
}

// portSets overlap in many ways.
var portSets = [][]int{{8080}, {8081}, {8080, 8081}, {8082}, {8081, 8082}, {9000, 8080, 8083}}

var backends = []string{"iptables", "nftables"}

func (a action) String() string {
	return fmt.Sprintf("%s pod %d ports %v address %d on %s (%s)", kinds[a.kind], a.pod, portSets[a.ports], a.address, backends[a.backend], fault.Points()[a.point])
}

const (
	modelPods      = 5
	modelAddresses = 4
)

func randomAction(r *rand.Rand) action {
	return action{
		kind: r.IntN(len(kinds)), pod: r.IntN(modelPods), ports: r.IntN(len(portSets)), address: r.IntN(modelAddresses),
		backend: r.IntN(len(backends)), point: r.IntN(len(fault.Points())),
	}
}

// entry is what the model knows of one attachment.
type entry struct {
	pod     string // UID, "" if it was read back from the kernel, which does not have it
	ports   []int
	address int
	backend string
	alive   func() bool
}

// drift is how a backend's rules differ from the records until its next change.
type drift int

const (
	inSync  drift = iota
	emptied       // there are none
	altered       // they are of another time, or only of owners that live
)

// model is what a node should hold: the whole of the product's promise, in few
// lines, for one protocol and wildcard host IPs.
type model struct {
	attachments map[string]entry // by container ID
	drift       map[string]drift // by backend
}

func newModel() *model {
	return &model{attachments: map[string]entry{}, drift: map[string]drift{}}
}

// drifted says that somebody else changed the rules of all backends.
func (m *model) drifted(d drift) {
	for _, b := range backends {
		m.drift[b] = d
	}
}

// lose is the loss of the state: what remains is what the kernel's rules say of
// owners that live.
func (m *model) lose(kernel map[forward]int) {
	inKernel := m.named(kernel)
	for id, e := range m.attachments {
		if !inKernel[id] || !e.alive() {
			delete(m.attachments, id)
			continue
		}
		e.pod = ""
		m.attachments[id] = e
	}
	m.drifted(inSync)
}

func overlap(a, b []int) bool {
	return slices.ContainsFunc(a, func(p int) bool { return slices.Contains(b, p) })
}

// add is refused by a living owner of one of the ports or of the address; dead
// ones go, and an earlier sandbox of the same pod.
func (m *model) add(id string, e entry) (refused bool) {
	gone := []string{id}
	for other, o := range m.attachments {
		switch {
		case other == id:
		case o.address != e.address && !overlap(o.ports, e.ports):
		case o.alive() && (o.pod == "" || o.pod != e.pod):
			refused = true
		default:
			gone = append(gone, other)
		}
	}
	if refused {
		return true
	}
	for _, g := range gone {
		delete(m.attachments, g)
	}
	m.attachments[id] = e
	m.drift[e.backend] = inSync
	return false
}

// forget drops the dead that are not among the recorded: a resync does that, and
// nobody can tell when one was due.
func (m *model) forget(recorded map[string]bool) {
	for id, e := range m.attachments {
		if !recorded[id] && !e.alive() {
			delete(m.attachments, id)
		}
	}
}

// describe is the attachments as text, for comparison.
func (m *model) describe() []string {
	var out []string
	for _, id := range slices.Sorted(maps.Keys(m.attachments)) {
		e := m.attachments[id]
		out = append(out, fmt.Sprintf("%s %v address %d on %s", id, slices.Sorted(slices.Values(e.ports)), e.address, e.backend))
	}
	return out
}

// named returns the attachments to which the kernel has all forwards.
func (m *model) named(kernel map[forward]int) map[string]bool {
	out := map[string]bool{}
	for id, e := range m.attachments {
		one := &model{attachments: map[string]entry{id: e}}
		out[id] = true
		for f := range one.forwards(e.backend) {
			out[id] = out[id] && kernel[f] > 0
		}
	}
	return out
}

// forwards is what the kernel must hold for a backend.
func (m *model) forwards(backend string) map[forward]int {
	out := map[forward]int{}
	for id, e := range m.attachments {
		if e.backend != backend {
			continue
		}
		for _, p := range e.ports {
			out[makeForward(backend, id+"/eth0", "tcp", "", strconv.Itoa(p), modelV4(e.address)+":80")]++
			out[makeForward(backend, id+"/eth0", "tcp", "", strconv.Itoa(p), "["+modelV6(e.address)+"]:80")]++
		}
	}
	return out
}

func modelV4(n int) string { return fmt.Sprintf("10.244.0.%d", n+10) }
func modelV6(n int) string { return fmt.Sprintf("fd00:10:244::%x", n+10) }

// sequences is how many run, of length steps each: 2,000 steps. STEPS asks for
// more.
const length = 40

func TestModel(t *testing.T) {
	steps := 2000
	if v := os.Getenv("STEPS"); v != "" {
		var err error
		if steps, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
	}
	n := newModelNode(t)
	s := seed(t, 20260606)
	r := rand.New(rand.NewPCG(s, 2))
	for i := range steps / length {
		sequence := make([]action, length)
		for j := range sequence {
			sequence[j] = randomAction(r)
		}
		if err := n.run(sequence); err != nil {
			short := shrink(sequence, func(cut []action) bool { return n.run(cut) != nil })
			for _, a := range short {
				t.Log(a)
			}
			t.Fatalf("sequence %d of SEED=%d: %v\nshortened: %v", i, s, err, n.run(short))
		}
	}
}

// shrink leaves out of a failing sequence what can be left out.
func shrink(sequence []action, fails func([]action) bool) []action {
	for size := len(sequence) / 2; size > 0; size /= 2 {
		for at := 0; at+size <= len(sequence); {
			cut := slices.Concat(sequence[:at], sequence[at+size:])
			if fails(cut) {
				sequence = cut
			} else {
				at += size
			}
		}
	}
	return sequence
}

// The model must be able to fail: a sequence with a needle is cut to it.
func TestShrink(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	var sequence []action
	for range 64 {
		a := randomAction(r)
		a.pod = 0
		sequence = append(sequence, a)
	}
	sequence[11].pod, sequence[50].pod = 3, 4
	short := shrink(sequence, func(s []action) bool {
		i := slices.IndexFunc(s, func(a action) bool { return a.pod == 3 })
		j := slices.IndexFunc(s, func(a action) bool { return a.pod == 4 })
		return i >= 0 && j > i
	})
	if len(short) != 2 {
		t.Errorf("cut to %d actions: %v", len(short), short)
	}
}

var errModel = errors.New("the node is not as the model")
