package integration

import (
	"encoding/json"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/test/world"
)

// scenario is one line of the table: a behaviour that holds on every backend
// and in both families, unless it says otherwise.
type scenario struct {
	name string
	// report names where users of other implementations met the opposite.
	report string
	// backends and families limit the scenario; nil is all of them.
	backends []world.Backend
	families []world.Family
	// node changes the world before it is made.
	node world.Options
	// reloads says that the scenario restores a ruleset that the backend's own tool
	// has saved.
	reloads bool
	// tampers says that the scenario ends with rules that the plugin does not
	// own or expect, so that the properties are not asked for at its end.
	tampers bool
	run     func(e *env)
}

var (
	iptablesOnly = []world.Backend{world.IptablesNFT, world.IptablesLegacy}
	nftablesOnly = []world.Backend{world.NFTables}
	v4Only       = []world.Family{world.V4}
)

// TestScenarios is the table of cases x backend x family.
func TestScenarios(t *testing.T) {
	runScenarios(t, slices.Concat(
		reachScenarios(),
		hostIPScenarios(),
		extentScenarios(),
		foreignScenarios(),
		processScenarios(),
		loopbackScenarios(),
		ownershipScenarios(),
		deadOwnerScenarios(),
		lifecycleScenarios(),
		podScenarios(),
		checkScenarios(),
		healScenarios(),
		syncScenarios(),
		reloadScenarios(),
		gcScenarios(),
		lostStateScenarios(),
		unreadableScenarios(),
		earlierBootScenarios(),
		variantScenarios(),
		ownerScenarios(),
		statusScenarios(),
		udpScenarios(),
		keptFlowScenarios(),
		optionScenarios(),
		conditionScenarios(),
		ownOptionScenarios(),
		nftablesScenarios(),
		nftablesNeighbourScenarios(),
		togetherScenarios(),
		listingScenarios(),
	))
}

func runScenarios(t *testing.T, table []scenario) {
	for _, b := range world.Backends {
		for _, f := range world.Families {
			for _, s := range table {
				if s.backends != nil && !slices.Contains(s.backends, b) || s.families != nil && !slices.Contains(s.families, f) {
					continue
				}
				if s.reloads && b == world.NFTables && !world.NFTRestores() {
					continue // no such thing on a machine with this nft
				}
				t.Run(string(b)+"/"+string(f)+"/"+s.name, func(t *testing.T) {
					t.Parallel()
					s.node.Backend = b
					e := newEnv(t, s.node, f)
					if s.report != "" {
						t.Logf("reported as %s", s.report)
					}
					s.run(e)
					if !s.tampers && !t.Failed() {
						e.properties()
					}
				})
			}
		}
	}
}

// env is the world of one scenario.
type env struct {
	*testing.T
	w *world.World
	f world.Family
	// net is a bridge network whose pods have an address of family f alone.
	net *world.Network
	// before is the node's ruleset without any pod.
	before world.Ruleset
	// recovered says that records were read back from the kernel, which does not
	// know all that an ADD does: the next ADD of the same attachment changes them.
	recovered bool
	// live are the attachments to which the properties are put at the end.
	live []*world.Attachment
}

func newEnv(t *testing.T, o world.Options, f world.Family) *env {
	t.Helper()
	e := &env{T: t, w: world.New(t, o), f: f}
	e.net = e.network(world.NetworkOptions{})
	return e
}

// network makes a network of the scenario's family.
func (e *env) network(o world.NetworkOptions) *world.Network {
	e.Helper()
	if o.Families == nil {
		o.Families = []world.Family{e.f}
	}
	return e.w.NewNetwork(o)
}

// foreign notes that the rules which stand now are other people's.
func (e *env) foreign() {
	e.Helper()
	e.before = e.w.Ruleset()
}

// add makes a pod on the scenario's network.
func (e *env) add(name string, mappings ...world.Mapping) *world.Attachment {
	e.Helper()
	return e.addTo(e.net, name, mappings...)
}

// addTo makes a pod on a network.
func (e *env) addTo(n *world.Network, name string, mappings ...world.Mapping) *world.Attachment {
	e.Helper()
	a := n.MustAdd(e, name, mappings...)
	e.live = append(e.live, a)
	return a
}

// web makes a pod that serves TCP port 80 under the host port 8080.
func (e *env) web() *world.Attachment {
	e.Helper()
	a := e.add("web", world.TCP(8080, 80))
	a.Pod.Serve("tcp", 80)
	return a
}

// del deletes an attachment.
func (e *env) del(a *world.Attachment) {
	e.Helper()
	a.MustDel(e)
	e.forget(a)
}

// forget takes an attachment out of the final check.
func (e *env) forget(a *world.Attachment) {
	e.live = slices.DeleteFunc(e.live, func(b *world.Attachment) bool { return a == b })
}

// properties are what holds after every scenario: CHECK agrees, ADD twice equals
// once, DEL of one pod leaves the others' rules alone, and once every pod is gone the
// ruleset is what it was.
func (e *env) properties() {
	e.Helper()
	for len(e.live) > 0 {
		a := e.live[0]
		if e.recovered {
			e.invoke(a.Invocation("ADD", nil))
		}
		once := e.w.Ruleset()
		if out := e.w.Invoke(a.Invocation("ADD", nil)); out.ExitCode != 0 {
			e.Fatalf("ADD of %s again: %s", a.Pod.Name, out.Stdout)
		}
		if diff := cmp.Diff(once, e.w.Ruleset()); diff != "" {
			e.Errorf("rules after ADD of %s again (-once +twice):\n%s", a.Pod.Name, diff)
		}
		e.checks(e.live...)
		e.del(a)
		e.checks(e.live...)
	}
	e.sameRules("ADD and DEL of every pod", e.before)
}

// checks asks CHECK about every attachment.
func (e *env) checks(attachments ...*world.Attachment) {
	e.Helper()
	for _, a := range attachments {
		cniErr, err := a.CheckHostport()
		if err != nil {
			e.Errorf("CHECK of %s: %v", a.Pod.Name, err)
		} else if cniErr != nil {
			e.Errorf("CHECK of %s: %v", a.Pod.Name, cniErr)
		}
	}
}

// sameRules compares the ruleset with what it should be.
func (e *env) sameRules(after string, want world.Ruleset) {
	e.Helper()
	if diff := cmp.Diff(want, e.w.Ruleset()); diff != "" {
		e.Errorf("ruleset after %s (-want +got):\n%s", after, diff)
	}
}

// node is a port on the node's address that the client knows.
func (e *env) node(port uint16) netip.AddrPort { return netip.AddrPortFrom(e.f.Node(), port) }

// reaches wants a client to be answered by one server.
func (e *env) reaches(from *world.Netns, protocol string, to netip.AddrPort, server string) {
	e.Helper()
	if got := from.Ask(e, protocol, to); got.Server != server {
		e.Errorf("%s asks %s/%s: answered by %q, want %q", from.Name, to, protocol, got.Server, server)
	}
}

// reachesAs is reaches, and wants the server to see the client at an address.
func (e *env) reachesAs(from *world.Netns, protocol string, to netip.AddrPort, server string, client netip.Addr) {
	e.Helper()
	got := from.Ask(e, protocol, to)
	if got.Server != server || got.Client.Addr() != client {
		e.Errorf("%s asks %s/%s: answered by %q that saw %s, want %q and %s",
			from.Name, to, protocol, got.Server, got.Client.Addr(), server, client)
	}
}

// samePrevResult wants the plugin to have printed the prevResult it was given.
func samePrevResult(e *env, stdin []byte, out world.Output) {
	e.Helper()
	var given struct{ PrevResult any }
	var printed any
	if err := json.Unmarshal(stdin, &given); err != nil {
		e.Fatal(err)
	}
	if err := json.Unmarshal(out.Stdout, &printed); err != nil {
		e.Errorf("the result is no JSON: %v\n%s", err, out.Stdout)
	}
	if diff := cmp.Diff(given.PrevResult, printed); diff != "" || out.ExitCode != 0 {
		e.Errorf("exit code %d, result (-prevResult +printed):\n%s", out.ExitCode, diff)
	}
}
