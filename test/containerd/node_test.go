package containerd

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The room's network: the node, which is the namespace the tests run in, and a
// client outside of it, on one link.
const (
	nodeIP   = "192.0.2.10"
	secondIP = "192.0.2.11" // the node's too
	clientIP = "192.0.2.100"

	// onNode and outside are places to ask from; any other place is the
	// path of a network namespace.
	onNode  = ""
	outside = "/run/netns/outside"
)

// patience bounds every wait. It is far beyond what a loaded machine needs: no
// test passes or fails by time alone.
const patience = 60 * time.Second

var connectOnce = sync.OnceValue(connect)

// needNode gives the node its link to the outside, once for all tests.
func needNode(t *testing.T) {
	t.Helper()
	if err := connectOnce(); err != nil {
		t.Fatal(err)
	}
}

func connect() error {
	for _, step := range []string{
		"ip netns add outside",
		"ip link add uplink type veth peer name eth0 netns outside",
		"ip addr add " + nodeIP + "/24 dev uplink",
		"ip addr add " + secondIP + "/24 dev uplink",
		"ip link set uplink up",
		"ip -n outside addr add " + clientIP + "/24 dev eth0",
		"ip -n outside link set eth0 up",
		"ip -n outside link set lo up",
	} {
		if _, err := run(strings.Fields(step)...); err != nil {
			return err
		}
	}
	return nil
}

// run runs a command and returns what it printed.
func run(args ...string) (string, error) {
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

func mustRun(t *testing.T, args ...string) string {
	t.Helper()
	out, err := run(args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// eventually repeats check until it succeeds.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// transient is what differs between two listings of the same rules: counters,
// the lines that bear the time, and the revision under which the iptables
// backend noted its latest change, which both tools list.
var transient = regexp.MustCompile(
	`(?m) \[\d+:\d+\]$|^#.*\n`)

// ruleset returns every rule of the node, whichever tool wrote it, without
// what is transient. Rules of the legacy variant are in iptables-save's output alone,
// hostport's nftables table in nft's.
func ruleset(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, list := range []string{"nft --stateless list ruleset", "iptables-save", "ip6tables-save"} {
		all.WriteString("== " + list + "\n")
		all.WriteString(transient.ReplaceAllString(mustRun(t, strings.Fields(list)...), ""))
	}
	return all.String()
}

// expectRuleset fails if the ruleset differs from want by a byte.
func expectRuleset(t *testing.T, want string) {
	t.Helper()
	if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(ruleset(t), "\n")); diff != "" {
		t.Errorf("ruleset differs (-want +got):\n%s", diff)
	}
}

// expectNoListener fails if a socket of the node listens on a TCP port.
func expectNoListener(t *testing.T, port int) {
	t.Helper()
	listening := regexp.MustCompile(fmt.Sprintf(`(?m)^ *\d+: [0-9A-F]+:%04X [0-9A-F:]+ 0A`, port))
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		sockets, err := os.ReadFile(table)
		if err != nil {
			t.Fatal(err)
		}
		if line := listening.Find(sockets); line != nil {
			t.Errorf("%s has a listener on port %d: %s", table, port, line)
		}
	}
}
