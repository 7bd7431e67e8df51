package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// operatorPairs are both backends, each beside the kube-proxy that it is chosen
// for.
var operatorPairs = []pair{
	{backend: "iptables", proxy: "iptables", agent: true},
	{backend: "nftables", proxy: "nftables", newest: true, agent: true},
}

// operatorScene is a scene of an operator's life.
type operatorScene struct {
	scene
	// alert is the alert of the chart that the scene is for: it has to fire.
	alert string
	// backend is the only one with which it can be played; "" is any.
	backend string
}

var operatorScenes = []operatorScene{
	{scene: scene{"manifests", manifestsAccepted}},
	{scene: scene{"installation", installation}},
	{scene: scene{"hostportctl in the agent's container", execTool}},
	{scene: scene{"port refused", portRefused}, alert: "HostportConflict"},
	{scene: scene{"rules fought over", rulesFoughtOver}, alert: "HostportRepairsRepeating"},
	{scene: scene{"rules taken away", rulesTakenAway}},
	{scene: scene{"rules that cannot be repaired", rulesUnrepairable}, alert: "HostportOutOfSync"},
	{scene: scene{"tools out of order", toolsBroken}, alert: "HostportBackendDown", backend: "iptables"},
	{scene: scene{"dead owner", deadOwner}, alert: "HostportDeadOwners"},
	{scene: scene{"conflist rewritten", conflistRewritten}, alert: "HostportInstallContested"},
	{scene: scene{"upgrade and rollback", upgradeAndRollback}},
	{scene: scene{"daemons restarted", daemonsRestarted}},
	{scene: scene{"agent killed", agentKilled}},
	{scene: scene{"no conflist", noConflist}, alert: "HostportNotInstalled"},
	{scene: scene{"uninstallation", uninstallation}},
	{scene: scene{"kubectl apply", kubectlApply}},
}

// steadyPort is of the pod that is there from before the installation until after
// the uninstallation.
const steadyPort = 18200

// TestOperator does to one node what an operator does in its life, and what others
// do to it. Each scene goes on where the one before ended.
func TestOperator(t *testing.T) {
	t.Parallel()
	if err := buildRelease(); err != nil {
		t.Fatal(err)
	}
	for _, p := range operatorPairs {
		t.Run(p.String(), func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, p)
			c.prepareRelease(t)
			c.startPrometheus(t)
			for _, s := range operatorScenes {
				if s.backend != "" && s.backend != p.backend {
					continue
				}
				if !t.Run(s.name, func(t *testing.T) {
					start := time.Now()
					s.play(t, c)
					if s.alert != "" {
						c.fired(t, s.alert, start)
					}
				}) {
					t.Fatalf("the agent's last words:\n%s", c.agentLog(30))
				}
			}
		})
	}
}

// installation takes a node over that portmap serves.
func installation(t *testing.T, c *cluster) {
	before := c.conflist(t)
	c.create(t,
		answerPod("steady", hostPort(corev1.ProtocolTCP, steadyPort, 80)),
		answerPod("old", hostPort(corev1.ProtocolTCP, 18201, 80), hostPort(corev1.ProtocolUDP, 18201, 80)))
	c.ready(t, "steady")
	old := c.ready(t, "old")
	c.answers(t, "old", "UDP by portmap", udp(c.node.outside, onNode(18201)))
	if err := c.none(regexp.MustCompile(`CNI-HP-|table inet hostport`)); err != nil {
		t.Fatal(err)
	}

	v := c.visit(t, "steady", steadyPort)
	c.install(t, productNow)
	v.leave(t)

	c.awaitNone(t, regexp.MustCompile(`CNI-DN-|CNI-HOSTPORT-|cni_hostport`))
	if got := strings.Replace(string(c.conflist(t)), `"hostport"`, `"portmap"`, 1); got != string(before) {
		t.Errorf("more than one word of the conflist changed:\n%s", c.conflist(t))
	}
	c.consistent(t, 2)
	c.create(t, answerPod("new", hostPort(corev1.ProtocolTCP, 18202, 80)))
	c.ready(t, "new")
	c.answers(t, "new", "after the installation", tcp(c.node.outside, onNode(18202)))
	c.consistent(t, 3)

	// An adopted pod goes like any other, and its port is free.
	c.remove(t, false, "old", "new")
	c.awaitNone(t, ofPort(18201), ofPort(18202), ofAddress(old.Status.PodIP))
	c.create(t, answerPod("heir", hostPort(corev1.ProtocolTCP, 18201, 80)))
	c.ready(t, "heir")
	c.answers(t, "heir", "a port that portmap served", tcp(c.node.outside, onNode(18201)))
	c.remove(t, false, "heir")
	c.consistent(t, 1)
	c.scraped(t)
	out, err := c.kubectl("get", "daemonset", daemonSetName, "--no-headers")
	if err != nil || !regexp.MustCompile(`^hostport +1 +1 +1 +1 +1 `).MatchString(out) {
		t.Errorf("kubectl get daemonset: %v\n%s", err, out)
	}
}

// execTool lists with the hostportctl of the agent's container.
func execTool(t *testing.T, c *cluster) {
	out, err := c.kubectl("exec", "daemonset/"+daemonSetName, "--", "hostportctl", "list")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out, "steady") || !strings.Contains(out, strconv.Itoa(steadyPort)) {
		t.Errorf("hostportctl list in the container:\n%s", out)
	}
	if out, err = c.kubectl("exec", "daemonset/"+daemonSetName, "--", "hostportctl", "check"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// conflistRewritten has another program write portmap's conflist in a loop.
func conflistRewritten(t *testing.T, c *cluster) {
	path := c.node.file(nodeCNI + "/net.d/10-pods.conflist")
	theirs, err := conflistText(c.pair)
	if err != nil {
		t.Fatal(err)
	}
	c.silent(t, "HostportInstallContested")
	v := c.visit(t, "steady", steadyPort)
	rewrites := c.metric(t, "hostport_conflist_rewrites_total")
	for i := range 3 {
		write(t, path, theirs)
		c.await(t, fmt.Sprintf("the entry after rewrite %d", i+1), func(context.Context) error {
			if text := string(c.conflist(t)); !strings.Contains(text, `"hostport"`) || strings.Contains(text, `"portmap"`) {
				return fmt.Errorf("the conflist is\n%s", text)
			}
			return nil
		})
	}
	if got := c.metric(t, "hostport_conflist_rewrites_total") - rewrites; got != 3 {
		t.Errorf("%v rewrites are counted, want 3", got)
	}
	write(t, path, theirs)
	c.await(t, "the agent to say who it is", func(context.Context) error {
		if !strings.Contains(c.agentLog(200), "again and again") {
			return errors.New("the log does not")
		}
		return nil
	})
	c.fires(t, "HostportInstallContested", nil)
	// A pod of this moment is portmap's, and adopted when the entry is back.
	c.create(t, answerPod("meanwhile", hostPort(corev1.ProtocolTCP, 18203, 80)))
	c.ready(t, "meanwhile")
	c.await(t, "the entry after the last rewrite", func(context.Context) error {
		if text := string(c.conflist(t)); !strings.Contains(text, `"hostport"`) {
			return fmt.Errorf("the conflist is\n%s", text)
		}
		return nil
	})
	c.answers(t, "meanwhile", "after the fight", tcp(c.node.outside, onNode(18203)))
	c.consistent(t, 2)
	c.awaitNone(t, regexp.MustCompile(`CNI-DN-`))
	c.remove(t, false, "meanwhile")
	v.leave(t)
	c.awaitNone(t, ofPort(18203))
	c.rolledOut(t, productNow)
}

// upgradeAndRollback goes to a version whose rules look different, and back.
func upgradeAndRollback(t *testing.T, c *cluster) {
	before := c.ourRules(t)
	v := c.visit(t, "steady", steadyPort)
	c.install(t, productNext)
	next := c.ourRules(t)
	if slices.Equal(before, next) {
		t.Errorf("the other version has the same rules: there was no upgrade\n%s", strings.Join(next, "\n"))
	}
	c.consistent(t, 1)
	c.create(t, answerPod("upgraded", hostPort(corev1.ProtocolTCP, 18204, 80)))
	c.ready(t, "upgraded")
	c.answers(t, "upgraded", "by the next version", tcp(c.node.outside, onNode(18204)))

	if _, err := c.helm("rollback", "hostport"); err != nil {
		t.Fatal(err)
	}
	c.rolledOut(t, productNow)
	c.answers(t, "upgraded", "after the rollback", tcp(c.node.outside, onNode(18204)))
	c.consistent(t, 2)
	c.remove(t, false, "upgraded")
	c.awaitNone(t, ofPort(18204))
	v.leave(t)
	if after := c.ourRules(t); !slices.Equal(before, after) {
		t.Errorf("rules before:\n%s\nand after:\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
}

// daemonsRestarted kills kubelet and containerd, beside the agent.
func daemonsRestarted(t *testing.T, c *cluster) {
	v := c.visit(t, "steady", steadyPort)
	if err := c.node.kill("containerd"); err != nil {
		t.Fatal(err)
	}
	c.startContainerd(t)
	c.restart(t, "kubelet")
	c.create(t, answerPod("later", hostPort(corev1.ProtocolTCP, 18205, 80)))
	c.ready(t, "later")
	c.answers(t, "later", "after the restarts", tcp(c.node.outside, onNode(18205)))
	c.rolledOut(t, productNow)
	c.remove(t, false, "later")
	c.awaitNone(t, ofPort(18205))
	v.leave(t)
	c.consistent(t, 1)
}

// restart kills a daemon and starts it again.
func (c *cluster) restart(t *testing.T, name string) {
	t.Helper()
	if err := c.node.kill(name); err != nil {
		t.Fatal(err)
	}
	c.startDaemon(t, name)
}

// startDaemon starts a daemon that was killed.
func (c *cluster) startDaemon(t *testing.T, name string) {
	t.Helper()
	for _, d := range c.daemons() {
		if d[0] == name {
			if err := c.node.daemon(d[0], d[1:]...); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// proxyBack gives the node kube-proxy's rules back after a flush: in its nftables
// mode it does not notice that they are gone, and the agent has no way to the API
// server without them.
func (c *cluster) proxyBack(t *testing.T) {
	t.Helper()
	c.restart(t, "kube-proxy")
	c.await(t, "the agent to reach the API server", func(context.Context) error {
		if log := c.agentLog(500); !strings.Contains(log, "the plugin goes when the DaemonSet is deleted") {
			return fmt.Errorf("the agent says\n%s", log)
		}
		return nil
	})
}

// agentKilled kills the agent at moments after it has got something to install,
// to heal and to adopt.
func agentKilled(t *testing.T, c *cluster) {
	path := c.node.file(nodeCNI + "/net.d/10-pods.conflist")
	theirs, err := conflistText(c.pair)
	if err != nil {
		t.Fatal(err)
	}
	for i, moment := range []time.Duration{0, 40 * time.Millisecond, 150 * time.Millisecond} {
		write(t, path, theirs)
		name := "killed-" + strconv.Itoa(i)
		port := int32(18210 + i)
		if i == 0 {
			// Without an agent, portmap serves it: the next agent has to adopt.
			c.killAgent(t)
		}
		c.create(t, answerPod(name, hostPort(corev1.ProtocolTCP, port, 80)))
		if err := c.flush(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(moment)
		c.killAgent(t)
		c.ready(t, name)
		c.rolledOut(t, productNow)
		c.answers(t, name, "after the agent was killed", tcp(c.node.outside, onNode(port)))
		c.answers(t, "steady", "after the agent was killed", tcp(c.node.outside, onNode(steadyPort)))
		c.consistent(t, 2)
		c.remove(t, false, name)
		c.awaitNone(t, ofPort(port), regexp.MustCompile(`CNI-DN-`))
	}
	c.proxyBack(t)
}

// uninstallation gives the node back to portmap.
func uninstallation(t *testing.T, c *cluster) {
	want, err := conflistText(c.pair)
	if err != nil {
		t.Fatal(err)
	}
	v := c.visit(t, "steady", steadyPort)
	c.keepAgentLog(t)
	if _, err := c.helm("uninstall", "hostport"); err != nil {
		t.Fatal(err)
	}
	c.await(t, "the conflist of before", func(context.Context) error {
		if got := string(c.conflist(t)); got != want {
			return fmt.Errorf("the conflist is\n%s", got)
		}
		return nil
	})
	v.leave(t)
	c.create(t, answerPod("after", hostPort(corev1.ProtocolTCP, 18206, 80)))
	c.ready(t, "after")
	c.answers(t, "after", "by portmap", tcp(c.node.outside, onNode(18206)))
	c.remove(t, false, "after", "steady")
	c.gone(t, want)
}

// gone waits until nothing of ours is left, and the conflist is as before.
func (c *cluster) gone(t *testing.T, conflist string) {
	t.Helper()
	c.await(t, "nothing of ours to be left", func(ctx context.Context) error {
		pods, err := c.agents(ctx)
		if err == nil && len(pods) > 0 {
			err = fmt.Errorf("agents are left: %s", pods[0].Name)
		}
		if got := string(c.conflist(t)); got != conflist {
			err = errors.Join(err, fmt.Errorf("the conflist is\n%s", got))
		}
		return errors.Join(err, c.none(regexp.MustCompile(`CNI-HP-|table inet hostport`), ofPort(steadyPort)), c.leftovers())
	})
}

// leftovers names files of ours.
func (c *cluster) leftovers() error {
	var errs []error
	for _, folder := range []string{c.cniBin(), nodeCNI + "/net.d", "/run"} {
		entries, err := os.ReadDir(c.node.file(folder))
		if err != nil {
			return err
		}
		for _, e := range entries {
			if strings.Contains(e.Name(), "hostport") {
				errs = append(errs, fmt.Errorf("%s/%s is left", folder, e.Name()))
			}
		}
	}
	return errors.Join(errs...)
}

// conflist returns the network's configuration.
func (c *cluster) conflist(t *testing.T) []byte {
	t.Helper()
	text, err := os.ReadFile(c.node.file(nodeCNI + "/net.d/10-pods.conflist"))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// write replaces a file by a rename, as careful programs do.
func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".theirs", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".theirs", path); err != nil {
		t.Fatal(err)
	}
}
