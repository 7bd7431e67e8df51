package kubernetes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// portRefused has a container of another runtime hold the port of a pod.
func portRefused(t *testing.T, c *cluster) {
	const port = 18220
	c.silent(t, "HostportConflict")
	c.stranger(t, "ADD", port)
	c.create(t, answerPod("refused", hostPort(corev1.ProtocolTCP, port, 80)))
	c.described(t, "HostPortConflict", "pod", "refused", "--namespace", namespace)
	c.fires(t, "HostportConflict", map[string]string{"kind": "port"})
	c.stranger(t, "DEL", port)
	c.ready(t, "refused")
	c.answers(t, "refused", "its port at last", tcp(c.node.outside, onNode(port)))
	c.remove(t, false, "refused")
	c.consistent(t, 1)
}

// stranger calls the plugin as another runtime on the node would.
func (c *cluster) stranger(t *testing.T, verb string, port int) {
	t.Helper()
	configuration, err := json.Marshal(map[string]any{
		"cniVersion": "1.0.0", "name": "strangers", "type": "hostport", "backend": c.backend,
		"runtimeConfig": map[string]any{"portMappings": []any{map[string]any{"hostPort": port, "containerPort": 80, "protocol": "tcp"}}},
		"prevResult": map[string]any{
			"cniVersion": "1.0.0",
			"interfaces": []any{map[string]any{"name": "eth0", "sandbox": "/run/stranger"}},
			"ips":        []any{map[string]any{"address": "10.244.0.250/24", "interface": 0}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("CNI_COMMAND=%s CNI_CONTAINERID=stranger CNI_NETNS=/run/stranger CNI_IFNAME=eth0 CNI_PATH=%s %[2]s/hostport <<'END'\n%s\nEND\n",
		verb, c.cniBin(), configuration)
	if verb == "ADD" {
		// ip netns would mount the directory of the other sandboxes over itself.
		script = "touch /run/stranger && unshare --net=/run/stranger true && " + script
	} else {
		script += "umount /run/stranger && rm /run/stranger\n"
	}
	if _, err := c.node.command("sh", "-c", script); err != nil {
		t.Fatal(err)
	}
}

// described waits until kubectl describe has an event about the object.
func (c *cluster) described(t *testing.T, reason string, object ...string) {
	t.Helper()
	c.await(t, "an event "+reason, func(context.Context) error {
		out, err := c.kubectl(append([]string{"describe"}, object...)...)
		if err == nil && !strings.Contains(out, reason) {
			err = errors.New(out)
		}
		return err
	})
}

// rulesFoughtOver has a program remove rules without end. The agent gives way, and
// says to whom.
func rulesFoughtOver(t *testing.T, c *cluster) {
	c.silent(t, "HostportRepairsRepeating")
	ctx, cancel := context.WithCancel(t.Context())
	var remover sync.WaitGroup
	remover.Go(func() {
		for ctx.Err() == nil {
			_ = c.cut() // there may be nothing to remove
			time.Sleep(500 * time.Millisecond)
		}
	})
	end := func() {
		cancel()
		remover.Wait()
	}
	defer end()
	c.await(t, "HostportRepairsRepeating with a name", func(ctx context.Context) error {
		firing, err := c.alerts(ctx)
		if err != nil {
			return err
		}
		for _, a := range firing["HostportRepairsRepeating"] {
			if by := a.Labels["process"]; strings.Contains(by, "nft") || strings.Contains(by, "iptables") {
				return nil
			}
		}
		return fmt.Errorf("firing: %v", firing)
	})
	end()
	c.answers(t, "steady", "after the fight", tcp(c.node.outside, onNode(steadyPort)))
	c.consistent(t, 1)
}

// rulesUnrepairable keeps the agent from a repair.
func rulesUnrepairable(t *testing.T, c *cluster) {
	c.ends(t, "HostportOutOfSync")
	release := c.obstruct(t)
	c.fires(t, "HostportOutOfSync", map[string]string{"backend": c.backend})
	if out, err := c.hostportctl("check"); err == nil {
		t.Errorf("hostportctl check finds nothing:\n%s", out)
	}
	release()
	c.answers(t, "steady", "after the repair", tcp(c.node.outside, onNode(steadyPort)))
	c.ends(t, "HostportOutOfSync")
	c.consistent(t, 1)
}

// obstruct damages rules so that nobody can repair them until release is called.
func (c *cluster) obstruct(t *testing.T) (release func()) {
	t.Helper()
	if c.backend == "iptables" {
		return c.breakTool(t)
	}
	return c.ownTable(t)
}

// brokenTool is an iptables-restore that lists rules, and adds none.
const brokenTool = `#!/bin/sh
text=$(cat)
case "$text" in *"-A "*) echo "the disk is full" >&2; exit 1 ;; esac
printf '%%s\n' "$text" | exec %s "$@"
`

// breakTool puts another iptables-restore before the node's.
func (c *cluster) breakTool(t *testing.T) (release func()) {
	t.Helper()
	tool, err := program("iptables-restore")
	if err != nil {
		t.Fatal(err)
	}
	restoreTools := c.replaceTools(t, fmt.Sprintf(brokenTool, tool), "iptables-restore")
	iptables := func(args ...string) {
		if _, err := c.node.command("iptables", append([]string{"-t", "nat"}, args...)...); err != nil {
			t.Fatal(err)
		}
	}
	iptables("-F", "CNI-HP-DNAT")
	return func() {
		restoreTools()
		// Or the agent leaves the rules alone for a minute.
		iptables("-A", "CNI-HP-DNAT", "-j", "RETURN")
	}
}

// replaceTools puts a script before programs of the node, until restore is called.
func (c *cluster) replaceTools(t *testing.T, script string, names ...string) (restore func()) {
	t.Helper()
	const folder = "/usr/local/sbin"
	command := func(name string, args ...string) {
		if _, err := c.node.command(name, args...); err != nil {
			t.Fatal(err)
		}
	}
	command("mount", "-t", "tmpfs", "tmpfs", folder)
	for _, name := range names {
		if err := os.WriteFile(c.node.file(folder+"/"+name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return func() { command("umount", "--lazy", folder) } // the agent may be at it
}

// toolsBroken has iptables fail, as it does after half of an update. Pods that run
// do not notice, and the next one waits.
func toolsBroken(t *testing.T, c *cluster) {
	const port = 18222
	c.silent(t, "HostportBackendDown")
	v := c.visit(t, "steady", steadyPort)
	restore := c.replaceTools(t, "#!/bin/sh\necho 'a library is missing' >&2\nexit 127\n",
		"iptables-save", "iptables-restore", "ip6tables-save", "ip6tables-restore")
	// A rule that does no harm has the agent look.
	if _, err := c.node.command("iptables", "-t", "nat", "-A", "CNI-HP-DNAT", "-p", "tcp", "--dport", "1", "-j", "RETURN"); err != nil {
		t.Fatal(err)
	}
	c.create(t, answerPod("waiting", hostPort(corev1.ProtocolTCP, port, 80)))
	c.described(t, "a library is missing", "pod", "waiting", "--namespace", namespace)
	c.fires(t, "HostportBackendDown", map[string]string{"backend": "iptables"})
	v.leave(t)
	restore()
	c.ready(t, "waiting")
	c.answers(t, "waiting", "with the tools back", tcp(c.node.outside, onNode(port)))
	c.ends(t, "HostportBackendDown")
	c.consistent(t, 2)
	c.remove(t, false, "waiting")
	c.awaitNone(t, ofPort(port))
}

// ownTable has a process own our table: the kernel then lets nobody else change it.
func (c *cluster) ownTable(t *testing.T) (release func()) {
	t.Helper()
	owner := exec.Command("/bin/sh", "-c", "HOME=/run exec nft -i") // it keeps a history
	lines, err := owner.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.node.launch(owner); err != nil {
		t.Fatal(err)
	}
	end := func() {
		_ = lines.Close()
		_ = owner.Wait()
	}
	t.Cleanup(end)
	if _, err := io.WriteString(lines, "delete table inet hostport; add table inet hostport { flags owner; }\n"); err != nil {
		t.Fatal(err)
	}
	return func() {
		end()
		// The kernel removes the table with its owner, and tells nobody.
		if _, err := c.node.command("nft", "add", "table", "inet", "hostport"); err != nil {
			t.Fatal(err)
		}
	}
}

// noConflist takes the network's configuration away, as a main plugin does that is
// installed anew. The agent waits for it.
func noConflist(t *testing.T, c *cluster) {
	theirs, err := conflistText(c.pair)
	if err != nil {
		t.Fatal(err)
	}
	c.silent(t, "HostportNotInstalled")
	v := c.visit(t, "steady", steadyPort)
	path := c.node.file(nodeCNI + "/net.d/10-pods.conflist")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	c.fires(t, "HostportNotInstalled", nil)
	if log := c.agentLog(20); !strings.Contains(log, "no network configuration") {
		t.Errorf("the agent does not say why:\n%s", log)
	}
	write(t, path, theirs)
	c.ends(t, "HostportNotInstalled")
	v.leave(t)
	c.rolledOut(t, productNow)
	c.create(t, answerPod("installed", hostPort(corev1.ProtocolTCP, 18209, 80)))
	c.ready(t, "installed")
	c.answers(t, "installed", "with the conflist back", tcp(c.node.outside, onNode(18209)))
	c.consistent(t, 2)
	c.remove(t, false, "installed")
	c.awaitNone(t, ofPort(18209))
}

// deadOwner ends a pod's sandbox whose DEL does not come, because kubelet is away.
func deadOwner(t *testing.T, c *cluster) {
	const port = 18221
	c.silent(t, "HostportDeadOwners")
	c.create(t, answerPod("dead", hostPort(corev1.ProtocolTCP, port, 80)))
	c.ready(t, "dead")
	if err := c.node.kill("kubelet"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.node.command("sh", "-ec", fmt.Sprintf(`
		for id in $(ctr --address %[1]s --namespace k8s.io containers list --quiet 'labels."io.kubernetes.pod.name"==dead'); do
			ctr --address %[1]s --namespace k8s.io tasks kill --signal SIGKILL $id
		done
		umount %[2]s
		rm %[2]s`, criSocket, c.sandboxPath(t, "dead"))); err != nil {
		t.Fatal(err)
	}
	c.fires(t, "HostportDeadOwners", nil)
	c.awaitNone(t, ofPort(port)) // its main plugin's rules are there until kubelet is back
	c.ends(t, "HostportDeadOwners")
	c.startDaemon(t, "kubelet")
	c.remove(t, true, "dead")
	c.consistent(t, 1)
}

// sandboxPath returns where the network namespace of a pod is mounted.
func (c *cluster) sandboxPath(t *testing.T, pod string) string {
	t.Helper()
	listing, err := c.hostportctl("list", "--pod", namespace+"/"+pod, "--output", "json")
	if err != nil {
		t.Fatal(err)
	}
	var held struct{ HostPorts []struct{ Sandbox string } }
	if err := json.Unmarshal([]byte(listing), &held); err != nil || len(held.HostPorts) != 1 || held.HostPorts[0].Sandbox == "" {
		t.Fatalf("want one host port of %s, %v:\n%s", pod, err, listing)
	}
	return held.HostPorts[0].Sandbox
}
