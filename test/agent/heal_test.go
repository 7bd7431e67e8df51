package agent

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/test/netns"
	"github.com/hostport-cni/hostport/test/world"
)

// limit is within which rules are right again. What is promised is a second, and
// five with iptables-legacy; the machine may be busy with other tests.
func limit(b world.Backend) time.Duration {
	if b == world.IptablesLegacy {
		return 15 * time.Second
	}
	return 10 * time.Second
}

// damage is what other programs do to rules.
type damage struct {
	name string
	// everything says that it takes the rules of others with it.
	everything bool
	do         func(h *healed)
}

// healed is a node with an agent and two pods.
type healed struct {
	*node
	net *world.Network
}

func damages(b world.Backend) []damage {
	nft := func(text string) func(*healed) { return func(h *healed) { h.w.NFT(text) } }
	ruleset := damage{"flush of the ruleset", true, nft("flush ruleset")}
	if b == world.NFTables {
		return []damage{
			ruleset,
			{"flush of the table", false, nft("flush table inet hostport")},
			{"a table removed", false, nft("delete table inet hostport")},
			{"a chain flushed", false, nft("flush chain inet hostport hostports")},
			{"an element removed", false, nft("delete element inet hostport v4 { tcp . 8080 }")},
			{"an element that leads elsewhere", false, nft("delete element inet hostport v4 { tcp . 8080 }\n" +
				"add element inet hostport v4 { tcp . 8080 : 10.244.0.99 . 80 }")},
			{"an element of nobody", false, nft("add element inet hostport v4 { tcp . 9999 : 10.244.0.99 . 80 }")},
			{"a rule before ours", false, nft("insert rule inet hostport prerouting tcp dport 8080 drop")},
		}
	}
	iptables := func(args ...string) func(*healed) { return func(h *healed) { h.w.Iptables(world.V4, args...) } }
	out := []damage{
		{"flush of nat", false, iptables("-t", "nat", "-F")},
		{"flush of nat, IPv6", false, func(h *healed) { h.w.Iptables(world.V6, "-t", "nat", "-F") }},
		{"flush of raw", false, iptables("-t", "raw", "-F")},
		{"a jump removed", false, iptables("-t", "nat", "-D", "PREROUTING", "-m", "addrtype", "--dst-type", "LOCAL", "-j", "CNI-HP-DNAT")},
		{"masquerading removed", false, iptables("-t", "nat", "-D", "POSTROUTING", "-j", "CNI-HP-MASQ")},
		{"a pod's rule removed", false, func(h *healed) { h.dropRule("10.244.0.2:80") }},
		{"a rule of nobody", false, iptables("-t", "nat", "-I", "CNI-HP-DNAT", "-p", "tcp", "--dport", "8080", "-j", "RETURN")},
		{"nat and its chains removed", false, func(h *healed) {
			h.w.Iptables(world.V4, "-t", "nat", "-F")
			h.w.Iptables(world.V4, "-t", "nat", "-X")
		}},
	}
	if b == world.IptablesNFT {
		out = append(out, ruleset)
	}
	return out
}

// dropRule removes the DNAT rule to a pod.
func (h *healed) dropRule(to string) {
	h.Helper()
	for line := range strings.Lines(h.w.Save(world.V4)) {
		if strings.Contains(line, "--to-destination "+to) {
			h.w.IptablesRestore(world.V4, "*nat\n-D"+strings.TrimPrefix(strings.TrimSpace(line), "-A")+"\nCOMMIT\n")
			return
		}
	}
	h.Fatalf("no rule to %s", to)
}

// TestHeal has other programs damage rules in each way. Soon they are as they
// were, rules of others included, with one repair.
func TestHeal(t *testing.T) {
	for _, b := range world.Backends {
		t.Run(string(b), func(t *testing.T) {
			t.Parallel()
			n, net := newNode(t, b, "hostport")
			n.start("--legacy-interval", "1s")
			n.awaitReady()
			n.web(net, "web", 8080)
			n.web(net, "other", 8081)
			h := &healed{n, net}
			alone := n.rules()
			n.strangers()
			together := n.rules()
			for _, d := range damages(b) {
				want := together
				if d.everything {
					want = alone
				}
				d.do(h)
				start := time.Now()
				n.answers(world.V4, 8080, limit(b))
				n.answers(world.V6, 8080, limit(b))
				outage := time.Since(start)
				n.awaitRules(limit(b), d.name+" is healed", want)
				took := time.Since(start)
				n.reaches(8080, "web")
				n.reaches(8081, "other")
				n.await(limit(b), d.name+": one repair", func() bool { return n.repairs() == 1 })
				t.Logf("%s: a client is answered again after %v, the rules are right after %v", d.name, outage.Round(time.Millisecond), took.Round(time.Millisecond))
				n.wantMetric(`hostport_repairs_total{cause="periodic"}`, "0")
				if d.everything {
					n.strangers()
				}
				// It would take the next damage for more of the same program's.
				if _, err := n.stop(syscall.SIGTERM); err != nil {
					t.Fatal(err)
				}
				n.start("--legacy-interval", "1s")
				n.awaitReady()
			}
			n.await(limit(b), "in sync", func() bool { return n.metric(`hostport_out_of_sync{backend="`+b.Config()+`"}`) == "0" })
		})
	}
}

// TestStateLost takes the state away from a node with a pod. There is nothing to
// repair rules from: the agent says so, claims no repair, and leaves the pod its port.
func TestStateLost(t *testing.T) {
	for _, b := range []world.Backend{world.IptablesNFT, world.NFTables} {
		t.Run(string(b), func(t *testing.T) {
			t.Parallel()
			n, net := newNode(t, b, "hostport")
			n.start()
			n.awaitReady()
			n.web(net, "web", 8080)
			if err := os.RemoveAll(n.w.DataDir); err != nil {
				t.Fatal(err)
			}
			if b == world.NFTables {
				n.w.NFT("add element inet hostport v4 { tcp . 9999 : 10.244.0.99 . 80 }")
			} else {
				n.w.Iptables(world.V4, "-t", "nat", "-A", "CNI-HP-DNAT", "-p", "tcp", "--dport", "9999", "-j", "RETURN")
			}
			n.await(limit(b), "the lost state named", func() bool {
				return slices.ContainsFunc(n.log.find("rules could not be repaired"), func(line map[string]any) bool {
					return strings.Contains(fmt.Sprint(line["reason"]), "no state in "+n.w.DataDir+", but rules of 1 attachments")
				})
			})
			n.reaches(8080, "web")
			if n.repairs() != 0 {
				t.Errorf("repairs without a state:\n%s", n.log)
			}
		})
	}
}

// repairs is how often the agent has repaired rules.
func (n *node) repairs() int { return len(n.log.find("rules of host ports repaired")) }

// rules are all rules of the node, in any order.
func (n *node) rules() world.Ruleset {
	n.Helper()
	r := n.w.Ruleset().WithoutPast().Sorted()
	if n.w.Backend != world.NFTables {
		// nft 1.0.6 shows a DNAT of iptables-nft to an IPv6 address as one to IPv4,
		// or not, by the order of the tables.
		r.NFTables = netns.SortedLines(n.w.Node.Command("nft", "list", "tables"))
	}
	return r
}

// awaitRules waits until the node's rules are these.
func (n *node) awaitRules(limit time.Duration, what string, want world.Ruleset) {
	n.Helper()
	start := time.Now()
	for {
		got := n.rules()
		if got == want {
			return
		}
		if time.Since(start) > limit {
			n.Fatalf("%s: not within %v (-want +got):\n%s", what, limit, cmp.Diff(want, got))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// strangers makes rules of another program.
func (n *node) strangers() {
	n.Helper()
	n.w.IptablesRestore(world.V4, "*filter\n:OTHER - [0:0]\n-A OTHER -p tcp --dport 1 -j ACCEPT\nCOMMIT\n")
	n.w.NFT("table ip other {\n chain c {\n tcp dport 1 accept\n }\n}\n")
}

// TestHealSnapshot restores a ruleset of an earlier time. A pod that was deleted
// since does not come back, and one that was added since is there.
func TestHealSnapshot(t *testing.T) {
	for _, b := range world.Backends {
		t.Run(string(b), func(t *testing.T) {
			t.Parallel()
			n, net := newNode(t, b, "hostport")
			n.start("--legacy-interval", "2s")
			n.awaitReady()
			n.web(net, "stays", 8081)
			gone := n.web(net, "gone", 8080)
			restore := n.w.Snapshot(world.Families...)
			if b == world.IptablesLegacy {
				time.Sleep(2200 * time.Millisecond) // the agent looks: what is restored is what it saw last
			}
			gone.MustDel(t)
			n.web(net, "later", 8082)
			want := n.rules()
			restore()
			n.awaitRules(limit(b), "healed", want)
			n.reaches(8081, "stays")
			n.reaches(8082, "later")
			n.w.Node.Serve("tcp", 8080)
			n.reaches(8080, "node")
			n.wantMetric(`hostport_mappings{backend="`+b.Config()+`",family="ipv4",protocol="tcp"}`, "2")
		})
	}
}

// TestPluginIsLeftAlone adds and deletes pods. The agent knows the plugin's own
// changes, and reads no rules because of them.
func TestPluginIsLeftAlone(t *testing.T) {
	for _, b := range []world.Backend{world.IptablesNFT, world.NFTables} {
		t.Run(string(b), func(t *testing.T) {
			t.Parallel()
			n, net := newNode(t, b, "hostport")
			n.start()
			n.awaitReady()
			n.web(net, "first", 8080) // on a node without state
			time.Sleep(time.Second)
			n.w.Started()
			const pods = 10
			for i := range pods {
				a := net.MustAdd(t, "pod", world.TCP(8081+i, 80))
				if i%2 == 0 {
					a.MustDel(t)
				}
			}
			time.Sleep(time.Second)
			reads := slices.DeleteFunc(n.w.Started(), func(s string) bool {
				return !strings.HasPrefix(s, "iptables-save") && !strings.HasPrefix(s, "iptables-restore --wait 1 ")
			})
			// A tool that has ended when the agent looks who it was may be anybody's.
			if len(reads) > pods/2 {
				t.Errorf("rules were read: %q", reads)
			}
			if got := n.repairs(); got > 0 {
				t.Errorf("%d repairs", got)
			}
			n.wantMetric(`hostport_requests_total{result="success",verb="ADD"}`, fmt.Sprint(pods+1))
			n.wantMetric(`hostport_requests_total{result="success",verb="DEL"}`, fmt.Sprint(pods/2))
			n.wantMetric(`hostport_request_duration_seconds_count{verb="ADD"}`, fmt.Sprint(pods+1))
		})
	}
}

// TestRemover has a program remove rules without end. The agent does not race
// with it: it says who that is, and repairs less and less often.
func TestRemover(t *testing.T) {
	for _, b := range world.Backends {
		t.Run(string(b), func(t *testing.T) {
			t.Parallel()
			n, net := newNode(t, b, "hostport")
			n.start("--legacy-interval", "500ms")
			n.awaitReady()
			n.web(net, "web", 8080)
			stop := make(chan struct{})
			removed := make(chan int, 1)
			go func() {
				for i := 0; ; i++ {
					select {
					case <-stop:
						removed <- i
						return
					case <-time.After(400 * time.Millisecond):
					}
					if b == world.NFTables {
						_, _ = n.w.Node.TryCommand("", "nft", "flush", "ruleset")
					} else {
						_, _ = n.w.Node.TryCommand("", "iptables-"+strings.TrimPrefix(string(b), "iptables-"), "-t", "nat", "-F")
					}
				}
			}()
			time.Sleep(12 * time.Second)
			close(stop)
			times := <-removed
			told := n.log.find("another program removes the rules of host ports again and again: they are repaired less often")
			repairs := n.repairs()
			t.Logf("removed %d times, repaired %d times", times, repairs)
			if repairs < 3 || repairs > 7 {
				t.Errorf("repaired %d times, want 3 to 7", repairs)
			}
			if len(told) != 1 {
				t.Fatalf("told %d times, want once", len(told))
			}
			process, _ := told[0]["process"].(string)
			if b == world.NFTables && process != "nft" || b == world.IptablesNFT && !strings.HasPrefix(process, "iptables-nft") && !strings.HasPrefix(process, "xtables-nft") {
				t.Errorf("told of %q", process)
			}
			n.wantMetric(`hostport_repairs_backing_off{process="`+process+`"}`, "1")
			n.await(answerTime, "healed in the end", func() bool {
				_, err := n.w.Client.TryAsk("tcp", netip.AddrPort{}, address(world.V4, 8080), 300*time.Millisecond)
				return err == nil
			})
		})
	}
}
