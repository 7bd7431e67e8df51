package kubernetes

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// healTime is within which rules are right again. What is promised is a second;
// the machine may be busy with another node. What is measured is logged.
const healTime = 10 * time.Second

// rulesTakenAway does to the rules what firewalls do, and measures by a client how
// long its port is gone.
func rulesTakenAway(t *testing.T, c *cluster) {
	c.replaceAgent(t)
	c.create(t, answerPod("second", hostPort(corev1.ProtocolTCP, 18207, 80)))
	c.ready(t, "second")
	c.answers(t, "second", "before", tcp(c.node.outside, onNode(18207)))
	early := c.save(t)
	c.healed(t, "flushed ruleset", "steady", steadyPort, c.flush)
	if c.backend == "iptables" {
		c.healed(t, "flushed table nat", "steady", steadyPort, func() error {
			_, err := c.node.command("iptables", "-t", "nat", "-F")
			return err
		})
		c.healed(t, "deleted chain", "steady", steadyPort, c.cut)
	} else {
		c.healed(t, "deleted elements", "steady", steadyPort, c.cut)
	}

	c.replaceAgent(t)

	// Snapshots of moments at which there was a pod that is deleted by now, and
	// not yet another one.
	gone := c.ready(t, "second")
	late := c.save(t)
	c.remove(t, false, "second")
	c.awaitNone(t, ofAddress(gone.Status.PodIP))
	c.healed(t, "snapshot with a deleted pod", "steady", steadyPort, func() error { return c.restore(late) })
	c.awaitNone(t, ofAddress(gone.Status.PodIP), ofPort(18207))
	c.create(t, answerPod("third", hostPort(corev1.ProtocolTCP, 18208, 80)))
	c.ready(t, "third")
	c.answers(t, "third", "before", tcp(c.node.outside, onNode(18208)))
	c.healed(t, "snapshot without a pod", "third", 18208, func() error { return c.restore(early) })
	c.answers(t, "steady", "after all that", tcp(c.node.outside, onNode(steadyPort)))
	c.remove(t, false, "third")
	c.consistent(t, 1)
	c.proxyBack(t)
	c.described(t, "HostPortRulesRepaired", "node", nodeName)
	// Of the deleted pod, only what its main plugin had there came back.
	if err := c.none(ofPort(18207), regexp.MustCompile(`default/second`)); err != nil {
		t.Error(err)
	}
}

// healed does harm, and wants the pod to answer again in time, and the agent to
// have counted a repair.
func (c *cluster) healed(t *testing.T, what, pod string, port int32, harm func() error) {
	t.Helper()
	before := c.metric(t, "hostport_repairs_total")
	if err := harm(); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	start, failures := time.Now(), 0
	for ; ; failures++ {
		err := knock(c.node.outside, onNode(port), pod)
		if err == nil {
			break
		}
		if time.Since(start) > 30*time.Second {
			t.Fatalf("%s: never healed: %v\n%s", what, err, c.agentLog(10))
		}
	}
	took := time.Since(start)
	t.Logf("%s: %s answers %v later, after %d failures", what, pod, took.Round(time.Millisecond), failures)
	if took > healTime {
		t.Errorf("%s: healed after %v", what, took)
	}
	c.await(t, what+" to be counted", func(context.Context) error {
		if after := c.metric(t, "hostport_repairs_total"); after <= before {
			return fmt.Errorf("%v repairs, as before", after)
		}
		return nil
	})
}

// flush removes every rule of the node, kube-proxy's as well, which looks after
// them by itself.
func (c *cluster) flush() error {
	_, err := c.node.command("nft", "flush", "ruleset")
	return err
}

// cut removes a part of our rules.
func (c *cluster) cut() error {
	if c.backend == "iptables" {
		_, err := c.node.command("iptables", "-t", "nat", "-F", "CNI-HP-DNAT")
		return err
	}
	_, err := c.node.command("nft", "flush", "map", "inet", "hostport", "v4")
	return err
}

// save returns the ruleset as a firewall's service would save it.
func (c *cluster) save(t *testing.T) string {
	t.Helper()
	name, args := "nft", []string{"list", "ruleset"}
	if c.backend == "iptables" {
		name, args = "iptables-save", nil
	}
	text, err := c.node.command(name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// restore loads what save returned.
func (c *cluster) restore(text string) error {
	path := kubernetesFolder + "/saved"
	if c.backend == "iptables" {
		if err := os.WriteFile(c.node.file(path), []byte(text), 0o600); err != nil {
			return err
		}
		_, err := c.node.command("iptables-restore", path, "--wait")
		return err
	}
	if err := os.WriteFile(c.node.file(path), []byte("flush ruleset\n"+text), 0o600); err != nil {
		return err
	}
	_, err := c.node.command("nft", "-f", path)
	return err
}

// counters are what differs between two listings of the same rules.
var counters = regexp.MustCompile(`\[\d+:\d+\]|counter packets \d+ bytes \d+|-[0-9a-f]{16}\b`)

// ourRules returns our rules without counters and fingerprint, in one order.
func (c *cluster) ourRules(t *testing.T) []string {
	t.Helper()
	if c.backend == "nftables" {
		text, err := c.node.command("nft", "list", "table", "inet", "hostport")
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(counters.ReplaceAllString(text, ""), "\n")
		slices.Sort(lines)
		return lines
	}
	text, err := c.node.command("iptables-save")
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(text) {
		if strings.Contains(line, "CNI-HP-") {
			lines = append(lines, strings.TrimSpace(counters.ReplaceAllString(line, "")))
		}
	}
	slices.Sort(lines)
	return lines
}

// metric returns the sum of a metric's series, as the agent serves them now.
func (c *cluster) metric(t *testing.T, name string) float64 {
	t.Helper()
	var sum float64
	c.await(t, "the agent's metrics", func(ctx context.Context) error {
		text, err := c.metrics(ctx)
		if err != nil {
			return err
		}
		sum = 0
		for line := range strings.Lines(text) {
			series, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			if bare, _, _ := strings.Cut(series, "{"); bare != name {
				continue
			}
			v, err := strconv.ParseFloat(value[strings.LastIndex(value, " ")+1:], 64)
			if err != nil {
				return err
			}
			sum += v
		}
		return nil
	})
	return sum
}

func (c *cluster) metrics(ctx context.Context) (string, error) {
	return c.fetch(ctx, "http://127.0.0.1:9477/metrics")
}

// fetch gets a page from a server on the node.
func (c *cluster) fetch(ctx context.Context, url string) (string, error) {
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return c.node.network.dial(ctx, network, address, nil)
		},
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return string(text), err
}
