package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/podports"
	"github.com/hostport-cni/hostport/internal/state"
	"github.com/hostport-cni/hostport/test/netns"
)

// asPlugin makes the test program the plugin.
const asPlugin = "HOSTPORT_TEST_AS_PLUGIN"

func TestMain(m *testing.M) {
	if os.Getenv(asPlugin) != "" {
		os.Exit(Main("v9"))
	}
	os.Exit(m.Run())
}

type outcome struct {
	code           int
	stdout, stderr string
}

// errorObject is a CNI error as the plugin prints it.
type errorObject struct {
	CNIVersion string `json:"cniVersion"`
	types.Error
}

func (o outcome) error(t *testing.T) errorObject {
	t.Helper()
	var e errorObject
	if err := json.Unmarshal([]byte(o.stdout), &e); err != nil || e.Code == 0 {
		t.Fatalf("no error object: %v: %s", err, o.stdout)
	}
	return e
}

// run calls the plugin as a process in a network namespace of its own.
func run(t *testing.T, n ns.NetNS, config string, env map[string]string) outcome {
	t.Helper()
	all := map[string]string{
		asPlugin: "1", "PATH": os.Getenv("PATH"),
		"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_NETNS": "/nowhere", "CNI_IFNAME": "eth0", "CNI_PATH": "/opt/cni/bin",
	}
	maps.Copy(all, env)
	var out outcome
	err := n.Do(func(ns.NetNS) error {
		cmd := exec.Command(os.Args[0])
		for k, v := range all {
			cmd.Env = append(cmd.Env, k+"="+v)
		}
		var stdout, stderr bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(config), &stdout, &stderr
		err := cmd.Run()
		out = outcome{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
		if out.code == 0 {
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

const prevResult = `{"cniVersion":"1.1.0","ips":[{"address":"10.244.0.2/24"}]}`

// configuration returns a network configuration with further keys.
func configuration(t *testing.T, keys ...string) string {
	t.Helper()
	return fmt.Sprintf(`{"cniVersion":"1.1.0","name":"n","dataDir":%q,"prevResult":%s%s}`,
		filepath.Join(t.TempDir(), "state"), prevResult, strings.Join(append([]string{""}, keys...), ","))
}

func TestCalls(t *testing.T) {
	n := netns.New(t)
	good := configuration(t)
	with := func(before, after string) string { return strings.Replace(good, before, after, 1) }
	const environment, decoding, invalid, versions = types.ErrInvalidEnvironmentVariables, types.ErrDecodingFailure, types.ErrInvalidNetworkConfig, types.ErrIncompatibleCNIVersion
	type env = map[string]string
	for _, tc := range []struct {
		name, config string
		env          env
		code         uint // 0: accepted
		word         string
	}{
		{name: "ADD", config: good},
		{name: "DEL without sandbox", config: good, env: env{"CNI_COMMAND": "DEL", "CNI_NETNS": ""}},
		{name: "CHECK", config: with("1.1.0", "0.4.0"), env: env{"CNI_COMMAND": "CHECK"}},
		{name: "keys in other cases", config: with(`"name"`, `"NAME"`)},
		{name: "no sandbox and path", config: good, env: env{"CNI_NETNS": "", "CNI_PATH": ""}, code: environment, word: "[CNI_NETNS,CNI_PATH]"},
		{name: "unknown command", config: good, env: env{"CNI_COMMAND": "REPLACE"}, code: environment, word: "REPLACE"},
		{name: "container ID that begins with a dot", config: good, env: env{"CNI_CONTAINERID": ".c"}, code: environment, word: "containerID"},
		{name: "container ID with a slash", config: good, env: env{"CNI_CONTAINERID": "c/1"}, code: environment, word: "containerID"},
		{name: "container ID beyond ASCII", config: good, env: env{"CNI_CONTAINERID": "cé"}, code: environment, word: "containerID"},
		{name: "container ID with an escape sequence", config: good, env: env{"CNI_CONTAINERID": "c\x1b[31m"}, code: environment, word: "containerID"},
		{name: "interface name of 15", config: good, env: env{"CNI_IFNAME": strings.Repeat("x", 15)}},
		{name: "interface name of 16", config: good, env: env{"CNI_IFNAME": strings.Repeat("x", 16)}, code: environment, word: "too long"},
		{name: "interface name ..", config: good, env: env{"CNI_IFNAME": ".."}, code: environment, word: ".."},
		{name: "interface name with a no-break space", config: good, env: env{"CNI_IFNAME": "e\u00a0"}, code: environment, word: "whitespace"},
		{name: "no JSON", config: `{`, code: decoding, word: "network config"},
		{name: "nothing", code: decoding, word: "network config"},
		{name: "no name", config: with(`"n"`, `""`), code: invalid, word: "missing network name"},
		{name: "name with a slash", config: with(`"n"`, `"../n"`), code: invalid, word: "network name"},
		{name: "version that is no text", config: with(`"1.1.0"`, "1"), code: decoding, word: "version"},
		{name: "no version", config: with(`"cniVersion":"1.1.0",`, ""), code: versions, word: "0.1.0"},
		{name: "version null", config: with(`"1.1.0"`, "null"), code: versions, word: "0.1.0"},
		{name: "unknown version", config: with("1.1.0", "9.9.9"), code: versions, word: "9.9.9"},
		{name: "CHECK before there was any", config: with("1.1.0", "0.3.1"), env: env{"CNI_COMMAND": "CHECK"}, code: versions, word: "CHECK"},
		{name: "STATUS before there was any", config: with("1.1.0", "1.0.0"), env: env{"CNI_COMMAND": "STATUS"}, code: versions, word: "STATUS"},
		{name: "GC before there was any", config: with("1.1.0", "1.0.0"), env: env{"CNI_COMMAND": "GC"}, code: versions, word: "GC"},
		{name: "wrong key", config: configuration(t, `"snat":"\u001b[31m"`), code: invalid, word: "snat: want true or false"},
		{name: "wrong key at DEL", config: configuration(t, `"snat":1`), env: env{"CNI_COMMAND": "DEL"}},
		{name: "no prevResult", config: with(prevResult, "null"), code: invalid, word: "prevResult"},
		{
			name: "broadcast host IP", config: configuration(t, `"runtimeConfig":{"portMappings":[{"hostPort":1,"containerPort":1,"hostIP":"255.255.255.255"}]}`),
			code: invalid, word: "runtimeConfig.portMappings[0].hostIP: 255.255.255.255",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			out := run(t, n, tc.config, tc.env)
			if tc.code == 0 {
				if out.code != 0 || out.stderr != "" {
					t.Fatalf("exit status %d: %s%s", out.code, out.stdout, out.stderr)
				}
				if want := prevResult + "\n"; tc.env["CNI_COMMAND"] == "" && out.stdout != want {
					t.Errorf("ADD prints %q, want %q", out.stdout, want)
				}
				return
			}
			e := out.error(t)
			if out.code != 1 || e.Code != tc.code || !strings.Contains(e.Msg+e.Details, tc.word) {
				t.Errorf("exit status %d, error %d %q %q; want 1, %d and %q", out.code, e.Code, e.Msg, e.Details, tc.code, tc.word)
			}
			if strings.ContainsFunc(e.Msg+e.Details, unicode.IsControl) {
				t.Errorf("the error is not printable: %q %q", e.Msg, e.Details)
			}
		})
	}
}

// The error object names the version that is spoken: the configuration's once
// it is known to be supported, else the newest.
func TestErrorVersion(t *testing.T) {
	n := netns.New(t)
	for version, want := range map[string]string{"0.4.0": "0.4.0", "1.0.0": "1.0.0", "9.9.9": "1.1.0"} {
		config := fmt.Sprintf(`{"cniVersion":%q,"name":"n","snat":1}`, version)
		if e := run(t, n, config, nil).error(t); e.CNIVersion != want {
			t.Errorf("configuration of %s: the error is of version %q, want %q", version, e.CNIVersion, want)
		}
	}
}

// A pod in the node's own network namespace has its ports: nothing is mapped.
func TestHostNetwork(t *testing.T) {
	n := netns.New(t)
	config := configuration(t, `"runtimeConfig":{"portMappings":[{"hostPort":8080,"containerPort":80}]}`)
	for command, want := range map[string]string{"ADD": prevResult + "\n", "CHECK": ""} {
		out := run(t, n, config, map[string]string{"CNI_COMMAND": command, "CNI_NETNS": "/proc/self/ns/net"})
		if out.code != 0 || out.stdout != want || out.stderr != "" {
			t.Errorf("%s: exit status %d, %q, %q; want %q", command, out.code, out.stdout, out.stderr, want)
		}
	}
}

func TestVersions(t *testing.T) {
	n := netns.New(t)
	out := run(t, n, "", map[string]string{"CNI_COMMAND": "VERSION", "CNI_PATH": ""})
	if want := `{"cniVersion":"1.1.0","supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}` + "\n"; out.code != 0 || out.stdout != want {
		t.Errorf("VERSION: exit status %d, %q; want %q", out.code, out.stdout, want)
	}
	out = run(t, n, "", map[string]string{"CNI_COMMAND": ""})
	if out.code != 0 || out.stdout != "" || !strings.Contains(out.stderr, "hostport plugin v9\n") || !strings.Contains(out.stderr, "0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0") {
		t.Errorf("without CNI_COMMAND: exit status %d, %q, %q", out.code, out.stdout, out.stderr)
	}
}

// STATUS refuses a configuration that ADD would refuse, and tells it from a
// node that cannot serve pods.
func TestStatus(t *testing.T) {
	n := netns.New(t)
	for _, tc := range []struct {
		key, path string
		code      uint // 0: serves
		word      string
	}{
		{key: `"backend":"nftables"`},
		{key: `"backend":"nftables","markMasqBit":13`},
		{key: `"backend":"nftables","externalSetMarkChain":"X"`, code: types.ErrInvalidNetworkConfig, word: "externalSetMarkChain"},
		{key: `"backend":"nftables","conditionsV4":["ip saddr 192.0.2.1 accept"]`, code: types.ErrInvalidNetworkConfig, word: "conditionsV4"},
		{key: `"backend":"iptables","conditionsV4":["-j","ACCEPT"]`, code: types.ErrInvalidNetworkConfig, word: "conditionsV4"},
		{key: `"lockTimeout":"soon"`, code: types.ErrInvalidNetworkConfig, word: "lockTimeout"},
		{key: `"backend":"iptables"`, path: "/nowhere", code: types.ErrPluginNotAvailable, word: "iptables is not installed"},
		{key: `"markMasqBit":14`, path: "/nowhere", code: types.ErrPluginNotAvailable, word: "iptables is not installed"},
	} {
		env := map[string]string{"CNI_COMMAND": "STATUS"}
		if tc.path != "" {
			env["PATH"] = tc.path
		}
		out := run(t, n, configuration(t, tc.key), env)
		if tc.code == 0 {
			if out.code != 0 || out.stdout != "" {
				t.Errorf("%s: exit status %d: %s", tc.key, out.code, out.stdout)
			}
			continue
		}
		if e := out.error(t); e.Code != tc.code || !strings.Contains(e.Msg, tc.word) {
			t.Errorf("%s: error %d %q, want %d and %q", tc.key, e.Code, e.Msg, tc.code, tc.word)
		}
	}
}

// TestLogFileThatNobodyReads: a FIFO without a reader is no reason for a pod to wait.
func TestLogFileThatNobodyReads(t *testing.T) {
	n := netns.New(t)
	file := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(file, 0o600); err != nil {
		t.Fatal(err)
	}
	out := run(t, n, configuration(t, fmt.Sprintf(`"logFile":%q`, file)), nil)
	if out.code != 0 || out.stdout != prevResult+"\n" || !strings.Contains(out.stderr, "log file cannot be opened") {
		t.Errorf("exit status %d: %s%s", out.code, out.stdout, out.stderr)
	}
}

// A call that fails before it knows of any mapping is counted, and one that had
// nothing to do is not.
func TestCounts(t *testing.T) {
	n := netns.New(t)
	config := configuration(t)
	unlock := locked(t, config)
	del := map[string]string{"CNI_COMMAND": "DEL"}
	if e := run(t, n, with(config, someMapping), del).error(t); e.Code != types.ErrTryAgainLater {
		t.Errorf("DEL beside another call: error %d %q, want %d", e.Code, e.Msg, types.ErrTryAgainLater)
	}
	unlock()
	for _, env := range []map[string]string{del, {"CNI_COMMAND": "ADD"}, {"CNI_COMMAND": "CHECK"}} {
		if out := run(t, n, config, env); out.code != 0 {
			t.Errorf("%v: exit status %d: %s", env, out.code, out.stdout)
		}
	}
	got, err := state.Counts(dataDir(t, config))
	if err != nil {
		t.Fatal(err)
	}
	for name, count := range got {
		if want := map[string]uint64{"DEL/busy": 1}[name]; count.Number != want {
			t.Errorf("%s was counted %d times, want %d", name, count.Number, want)
		}
	}
}

// TestNobodyWaitsWithoutMappings: a pod without host ports starts and ends beside a
// call that takes long. Where the configuration does not tell for sure that there are
// none, its DEL waits: an ADD of the pod may be under way.
func TestNobodyWaitsWithoutMappings(t *testing.T) {
	n := netns.New(t)
	config := configuration(t)
	unlock := locked(t, config)
	defer unlock()
	for _, tc := range []struct {
		verb, keys string
		waits      bool
	}{
		{verb: "ADD"},
		{verb: "CHECK"},
		{verb: "DEL"},
		{verb: "DEL", keys: someMapping, waits: true},
		{verb: "DEL", keys: `"podPorts":"agent"`, waits: true},
		{verb: "DEL", keys: `"snat":1`, waits: true},
	} {
		out := run(t, n, with(config, tc.keys), map[string]string{"CNI_COMMAND": tc.verb, "CNI_ARGS": podOf})
		switch {
		case !tc.waits && out.code != 0:
			t.Errorf("%s: exit status %d: %s", tc.verb, out.code, out.stdout)
		case tc.waits && out.code == 0:
			t.Errorf("%s with %s does not wait for the other call", tc.verb, tc.keys)
		case tc.waits && out.error(t).Code != types.ErrTryAgainLater:
			t.Errorf("%s with %s: %s", tc.verb, tc.keys, out.stdout)
		}
	}
}

// someMapping is a key of a configuration.
const someMapping = `"runtimeConfig":{"portMappings":[{"hostPort":81,"containerPort":80}]}`

// with returns a configuration with further keys, and little patience.
func with(config, keys string) string {
	return strings.Replace(config, "{", strings.TrimSuffix(`{"backend":"nftables","lockTimeout":"50ms",`+keys, ",")+",", 1)
}

// dataDir returns the state directory that a configuration names.
func dataDir(t *testing.T, config string) string {
	t.Helper()
	var c struct{ DataDir string }
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		t.Fatal(err)
	}
	return c.DataDir
}

// locked makes a state in the directory that a configuration names, and holds it as a
// call does that takes long.
func locked(t *testing.T, config string) (unlock func()) {
	t.Helper()
	s, err := state.Open(t.Context(), state.Options{Dir: dataDir(t, config), Timeout: time.Second, BootID: "another", Layout: 1})
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A GC without a list of valid attachments is no error: null is the same.
func TestGCWithoutList(t *testing.T) {
	n := netns.New(t)
	for _, config := range []string{configuration(t), configuration(t, `"cni.dev/valid-attachments":null`), configuration(t, `"cni.dev/valid-attachments":[]`)} {
		if out := run(t, n, config, map[string]string{"CNI_COMMAND": "GC"}); out.code != 0 || out.stdout != "" {
			t.Errorf("%s: exit status %d: %s", config, out.code, out.stdout)
		}
	}
}

// podOf is CNI_ARGS of a pod.
const podOf = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_UID=u"

// agentFunc is an agent.
type agentFunc func(podports.Request) ([]podports.Mapping, error)

func (f agentFunc) Mappings(_ context.Context, r podports.Request) ([]podports.Mapping, error) {
	return f(r)
}

// TestPodPorts asks an agent, or nobody, for what the runtime does not send. What
// it says is on the way to an ADD when the sandbox is looked at, which is not
// there.
func TestPodPorts(t *testing.T) {
	n := netns.New(t)
	web := podports.Mapping{HostPort: 81, ContainerPort: 80, Protocol: "TCP"}
	says := func(ms ...podports.Mapping) agentFunc {
		return func(r podports.Request) ([]podports.Mapping, error) {
			if r != (podports.Request{Namespace: "default", Name: "web", UID: "u"}) {
				return nil, fmt.Errorf("asked for %v", r)
			}
			return ms, nil
		}
	}
	refuses := agentFunc(func(podports.Request) ([]podports.Mapping, error) { return nil, errors.New("no such pod") })
	const again, sandbox = types.ErrTryAgainLater, types.ErrInvalidNetNS
	for _, tc := range []struct {
		name   string
		agent  agentFunc
		keys   string
		args   string
		code   uint // 0: accepted
		word   string
		stderr string
	}{
		{name: "no agent", args: podOf, code: again, word: "the agent is not there"},
		{name: "the agent does not know", agent: refuses, args: podOf, code: again, word: "host ports of pod default/web are not known: the agent says: no such pod"},
		{name: "none", agent: says(), args: podOf},
		{name: "one", agent: says(web), args: podOf, code: sandbox},
		{name: "one that is wrong", agent: says(podports.Mapping{HostPort: 1, ContainerPort: 70000, Protocol: "TCP"}), args: podOf, code: again, word: "the agent's portMappings[0].containerPort"},
		{name: "no pod", args: "IgnoreUnknown=1"},
		{name: "a container of Podman's", args: "K8S_POD_NAME=web"},
		{name: "both agree", agent: says(web), keys: someMapping, args: podOf, code: sandbox},
		{name: "both differ", agent: says(), keys: someMapping, args: podOf, code: sandbox, stderr: "agent and runtime do not agree"},
		{name: "no agent, but a runtime", keys: someMapping, args: podOf, code: sandbox, stderr: "the agent could not be asked"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			keys := []string{`"podPorts":"agent"`}
			if tc.keys != "" {
				keys = append(keys, tc.keys)
			}
			config := configuration(t, keys...)
			if tc.agent != nil {
				serveAgent(t, config, tc.agent)
			}
			for _, verb := range []string{"ADD", "CHECK"} {
				out := run(t, n, config, map[string]string{"CNI_COMMAND": verb, "CNI_ARGS": tc.args, "CNI_NETNS": "/nowhere"})
				if (tc.stderr == "") != !strings.Contains(out.stderr, "level=WARN") || !strings.Contains(out.stderr, tc.stderr) {
					t.Errorf("%s: stderr %q, want %q", verb, out.stderr, tc.stderr)
				}
				if tc.code == 0 {
					if out.code != 0 || verb == "ADD" && out.stdout != prevResult+"\n" {
						t.Errorf("%s: exit status %d: %s", verb, out.code, out.stdout)
					}
					continue
				}
				if e := out.error(t); e.Code != tc.code || !strings.Contains(e.Msg, tc.word) {
					t.Errorf("%s: error %d %q, want %d and %q", verb, e.Code, e.Msg, tc.code, tc.word)
				}
			}
			// Nobody is asked for a DEL.
			if out := run(t, n, config, map[string]string{"CNI_COMMAND": "DEL", "CNI_ARGS": tc.args}); out.code != 0 {
				t.Errorf("DEL: exit status %d: %s", out.code, out.stdout)
			}
		})
	}
}

// serveAgent answers at the socket that a configuration leads to.
func serveAgent(t *testing.T, config string, agent agentFunc) {
	t.Helper()
	dir := dataDir(t, config)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- podports.Serve(ctx, dir, agent, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	for podports.Ping(podports.Socket(dir)) != nil {
		time.Sleep(time.Millisecond)
	}
}
