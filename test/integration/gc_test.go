package integration

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/test/world"
)

// gcScenarios are about GC and STATUS.
func gcScenarios() []scenario {
	return []scenario{
		{name: "GC removes what is not valid, of one network", report: "cri-o 4727", run: func(e *env) {
			stays := e.web()
			goes := e.add("goes", world.TCP(8081, 80))
			other := e.network(world.NetworkOptions{Name: "other", Second: true})
			e.addTo(other, "elsewhere", world.TCP(8082, 80)).Pod.Serve("tcp", 80)
			e.gc(world.Config{"cni.dev/valid-attachments": valid(stays)})
			e.forget(goes)
			e.w.Node.Serve("tcp", 8081)
			e.reaches(e.w.Client, "tcp", e.node(8080), "web")
			e.reaches(e.w.Client, "tcp", e.node(8081), "node")
			e.reaches(e.w.Client, "tcp", e.node(8082), "elsewhere")
			e.checks(stays)
		}},
		{name: "GC by the runtime", run: func(e *env) {
			stays := e.web()
			goes := e.add("goes", world.TCP(8081, 80))
			before := e.w.Ruleset()
			if err := e.net.GC(stays, goes); err != nil {
				e.Fatalf("GC with every attachment valid: %v", err)
			}
			e.sameRules("GC with every attachment valid", before)
			if err := e.net.GC(stays); err != nil {
				e.Fatalf("GC: %v", err)
			}
			e.forget(goes)
		}},
		{name: "GC tells interfaces of one container apart", report: "multus-cni 208", run: func(e *env) {
			second := e.network(world.NetworkOptions{Name: "second", Second: true})
			a := e.web()
			b, err := second.AddInterface(a.Pod, "net1", world.TCP(8081, 80))
			if err != nil {
				e.Fatal(err)
			}
			e.live = append(e.live, b)
			e.invoke(world.Invocation{Command: "GC", Stdin: e.w.Stdin(world.Config{
				"name": "second", "cni.dev/valid-attachments": valid(a),
			})})
			e.forget(b)
			e.reaches(e.w.Client, "tcp", e.node(8080), "web")
		}},
		{name: "GC with an empty list", run: func(e *env) {
			e.web()
			e.add("other", world.TCP(8081, 80))
			e.gc(world.Config{"cni.dev/valid-attachments": []any{}})
			e.live = nil
			e.sameRules("GC with nothing valid", e.before)
		}},
		{name: "GC with a null list", run: func(e *env) {
			e.gcDead(strings.Replace(string(e.w.Stdin(world.Config{"cni.dev/valid-attachments": "LIST"})), `"LIST"`, "null", 1))
		}},
		{name: "GC without a list", report: "cri-o 4727", run: func(e *env) { e.gcDead(string(e.w.Stdin(nil))) }},
		{name: "GC on a node without state", run: func(e *env) {
			e.gc(world.Config{"cni.dev/valid-attachments": []any{}})
			e.sameRules("GC", e.before)
		}},
	}
}

// statusScenarios are about STATUS, which answers before a pod is scheduled.
func statusScenarios() []scenario {
	return []scenario{
		{name: "STATUS of a node that can serve", run: func(e *env) {
			if err := e.net.Status(); err != nil {
				e.Errorf("STATUS: %v", err)
			}
			e.web()
			if err := e.net.Status(); err != nil {
				e.Errorf("STATUS with a pod: %v", err)
			}
		}},
		{name: "STATUS and ADD with a missing tool", report: "talos 11846, containernetworking/plugins 1280", backends: iptablesOnly, run: missingTool},
		{name: "STATUS with a tool that fails", report: "talos 11846", backends: iptablesOnly, run: func(e *env) {
			for _, tool := range allTools {
				e.w.ReplaceTool(tool, `echo "modprobe: FATAL: Module ip_tables not found" >&2; exit 3`)
			}
			e.unavailable("")
			e.w.RestoreTools()
		}},
		{name: "STATUS and ADD where IPv6 cannot be served", backends: iptablesOnly, families: v4Only, run: func(e *env) {
			for _, tool := range toolsOf(world.V6) {
				e.w.ReplaceTool(tool, `echo "$0: unable to initialize table 'nat'" >&2; exit 3`)
			}
			const advice = "IPv6: host ports cannot be programmed"
			status := e.invoke(world.Invocation{Command: "STATUS", Stdin: e.w.Stdin(nil)})
			if !strings.Contains(string(status.Stderr), advice) {
				e.Errorf("STATUS does not say %q: %s", advice, status.Stderr)
			}
			e.web()
			e.reaches(e.w.Client, "tcp", e.node(8080), "web")
			e.w.RestoreTools()
		}},
		{
			name:     "STATUS while another program holds the xtables lock",
			backends: []world.Backend{world.IptablesLegacy}, families: v4Only, run: heldLock,
		},
		{name: "versions older than those that pass are named", families: v4Only, run: oldVersions},
		{name: "STATUS with a state directory that cannot be used", run: func(e *env) {
			if err := os.WriteFile(e.w.DataDir, nil, 0o600); err != nil {
				e.Fatal(err)
			}
			e.unavailable(e.w.DataDir)
			a, err := e.net.Add(e.w.NewPod("web"), world.TCP(8080, 80))
			if err == nil {
				e.Error("ADD succeeded without state")
			}
			e.sameRules("ADD without state", e.before)
			if err := os.Remove(e.w.DataDir); err != nil {
				e.Fatal(err)
			}
			a.MustDel(e)
		}},
	}
}

// gc sends a GC that has to succeed.
func (e *env) gc(changes world.Config) {
	e.Helper()
	e.invoke(world.Invocation{Command: "GC", Stdin: e.w.Stdin(changes)})
}

// valid is the value of cni.dev/valid-attachments.
func valid(attachments ...*world.Attachment) []types.GCAttachment {
	var list []types.GCAttachment
	for _, a := range attachments {
		list = append(list, types.GCAttachment{ContainerID: a.Pod.ContainerID, IfName: a.IfName})
	}
	return list
}

// gcDead sends a GC that does not say who is valid: the dead go.
func (e *env) gcDead(stdin string) {
	e.Helper()
	e.web()
	dead := e.add("dead", world.TCP(8081, 80))
	dead.Pod.Close()
	e.forget(dead)
	e.invoke(world.Invocation{Command: "GC", Stdin: []byte(stdin)})
	if rules := e.w.Rules(e.f); strings.Contains(rules, dead.Pod.ContainerID[:12]) {
		e.Errorf("the dead owner is still in the rules:\n%s", rules)
	}
	e.reaches(e.w.Client, "tcp", e.node(8080), "web")
}

// unavailable wants STATUS to answer with error 50 and a reason.
func (e *env) unavailable(reason string) {
	e.Helper()
	cniErr, ok := errors.AsType[*types.Error](e.net.Status())
	if !ok || cniErr.Code != types.ErrPluginNotAvailable || !strings.Contains(cniErr.Msg+cniErr.Details, reason) {
		e.Errorf("STATUS: %v, want error %d that names %q", cniErr, types.ErrPluginNotAvailable, reason)
	}
}

// heldLock has another program hold the lock of iptables-legacy for longer than anybody
// waits. iptables 1.8.8 and 1.8.9 would wait for ever if told not to wait.
func heldLock(e *env) {
	file := filepath.Join(e.w.ConfDir, "xtables.lock") // the machine's own is the other tests' too
	lock, err := os.Create(file)
	if err != nil {
		e.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		e.Fatal(err)
	}
	held := []string{"XTABLES_LOCKFILE=" + file}
	start := time.Now()
	status := e.invoke(world.Invocation{Command: "STATUS", Stdin: e.w.Stdin(nil), Env: held})
	if took := time.Since(start); took > 20*time.Second || len(status.Stderr) > 0 {
		e.Errorf("STATUS took %v, with a lockTimeout of 1m, and says %q", took, status.Stderr)
	}
	a := e.web()
	again := a.Invocation("ADD", world.Config{"lockTimeout": "1s", "masqAll": true})
	again.Env = held
	if cniErr, err := e.w.Invoke(again).Error(); err != nil || cniErr == nil || cniErr.Code != types.ErrTryAgainLater {
		e.Errorf("ADD while the lock is held: %v, %v; want error %d", cniErr, err, types.ErrTryAgainLater)
	}
	e.reaches(e.w.Client, "tcp", e.node(8080), "web")
}

// allTools are those of both families.
var allTools = []string{"iptables", "iptables-restore", "iptables-save", "ip6tables", "ip6tables-restore", "ip6tables-save"}

// missingTool takes iptables off the node. Nothing is left of an ADD.
func missingTool(e *env) {
	for _, tool := range allTools {
		e.w.RemoveTool(tool)
	}
	e.unavailable("iptables")
	a, err := e.net.Add(e.w.NewPod("web"), world.TCP(8080, 80))
	if err == nil || !strings.Contains(err.Error(), "iptables") {
		e.Errorf("ADD without iptables: %v", err)
	}
	e.w.RestoreTools()
	a.MustDel(e)
	e.sameRules("ADD without iptables", e.before)
}
