package integration

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/hostport-cni/hostport/test/world"
)

// refusal is an input that the plugin must not act on.
type refusal struct {
	name string
	// config changes a good configuration; stdin replaces it.
	config world.Config
	stdin  string
	// code and word are what the CNI error must have.
	code uint
	word string
	// invocation changes the environment.
	invocation func(i *world.Invocation)
}

// mappings is a runtimeConfig with entries as JSON text.
func mappings(entries string) world.Config {
	return world.Config{"runtimeConfig": world.Config{"portMappings": json.RawMessage(entries)}}
}

// mappingRefusals are wrong entries of portMappings.
func mappingRefusals() []refusal {
	const bad = types.ErrInvalidNetworkConfig
	return []refusal{
		{name: "host port 0", config: mappings(`[{"hostPort":0,"containerPort":80}]`), code: bad, word: "portMappings[0].hostPort"},
		{name: "host port 65536", config: mappings(`[{"hostPort":65536,"containerPort":80}]`), code: bad, word: "portMappings[0].hostPort"},
		{name: "host port -1", config: mappings(`[{"hostPort":-1,"containerPort":80}]`), code: bad, word: "portMappings[0].hostPort"},
		{name: "host port 1e99", config: mappings(`[{"hostPort":1e99,"containerPort":80}]`), code: bad, word: "portMappings[0].hostPort"},
		{name: "host port 80.5", config: mappings(`[{"hostPort":80.5,"containerPort":80}]`), code: bad, word: "portMappings[0].hostPort"},
		{name: "host port as text", config: mappings(`[{"hostPort":"80","containerPort":80}]`), code: bad, word: "portMappings[0].hostPort"},
		{name: "no host port", config: mappings(`[{"containerPort":80}]`), code: bad, word: "portMappings[0].hostPort"},
		{name: "container port 0", config: mappings(`[{"hostPort":80,"containerPort":0}]`), code: bad, word: "portMappings[0].containerPort"},
		{name: "container port 65536", config: mappings(`[{"hostPort":80,"containerPort":65536}]`), code: bad, word: "portMappings[0].containerPort"},
		{name: "the second of two", config: mappings(`[{"hostPort":80,"containerPort":80},{"hostPort":81,"containerPort":true}]`), code: bad, word: "portMappings[1].containerPort"},
		{name: "protocol icmp", config: mappings(`[{"hostPort":80,"containerPort":80,"protocol":"icmp"}]`), code: bad, word: "portMappings[0].protocol"},
		{name: "protocol as number", config: mappings(`[{"hostPort":80,"containerPort":80,"protocol":6}]`), code: bad, word: "portMappings[0].protocol"},
		{name: "protocol with a newline", config: mappings(`[{"hostPort":80,"containerPort":80,"protocol":"tcp\n-j ACCEPT"}]`), code: bad, word: "portMappings[0].protocol"},
		{name: "host IP that is a name", config: mappings(`[{"hostPort":80,"containerPort":80,"hostIP":"localhost"}]`), code: bad, word: "portMappings[0].hostIP"},
		{name: "host IP with a prefix length", config: mappings(`[{"hostPort":80,"containerPort":80,"hostIP":"192.0.2.1/24"}]`), code: bad, word: "portMappings[0].hostIP"},
		{name: "host IP with a zone", config: mappings(`[{"hostPort":80,"containerPort":80,"hostIP":"fe80::1%up0"}]`), code: bad, word: "portMappings[0].hostIP"},
		{name: "host IP that is multicast", config: mappings(`[{"hostPort":80,"containerPort":80,"hostIP":"224.0.0.1"}]`), code: bad, word: "portMappings[0].hostIP"},
		{name: "host IP that is multicast of IPv6", config: mappings(`[{"hostPort":80,"containerPort":80,"hostIP":"ff02::1"}]`), code: bad, word: "portMappings[0].hostIP"},
		{name: "host IP that is broadcast", config: mappings(`[{"hostPort":80,"containerPort":80,"hostIP":"255.255.255.255"}]`), code: bad, word: "portMappings[0].hostIP"},
		{name: "mapping that is no object", config: mappings(`[80]`), code: bad, word: "portMappings[0]"},
		{name: "mapping that is null", config: mappings(`[null]`), code: bad, word: "portMappings[0]"},
		{name: "mappings that are no list", config: mappings(`{"hostPort":80}`), code: bad, word: "portMappings"},
		{name: "mappings that contradict each other", config: mappings(`[{"hostPort":80,"containerPort":80},{"hostPort":80,"containerPort":81}]`), code: bad, word: "portMappings[1]"},
		{name: "runtimeConfig that is no object", config: world.Config{"runtimeConfig": 1}, code: bad, word: "runtimeConfig"},
	}
}

// configRefusals are wrong values of the other keys.
func configRefusals() []refusal {
	const bad = types.ErrInvalidNetworkConfig
	return []refusal{
		{name: "unknown backend", config: world.Config{"backend": "ebtables"}, code: bad, word: "backend"},
		{name: "backend that is no text", config: world.Config{"backend": 1}, code: bad, word: "backend"},
		{name: "markMasqBit 32", config: world.Config{"backend": "iptables", "markMasqBit": 32}, code: bad, word: "markMasqBit"},
		{name: "markMasqBit -1", config: world.Config{"backend": "iptables", "markMasqBit": -1}, code: bad, word: "markMasqBit"},
		{name: "markMasqBit as text", config: world.Config{"backend": "iptables", "markMasqBit": "13"}, code: bad, word: "markMasqBit"},
		{name: "markMasqBit and externalSetMarkChain", config: world.Config{"backend": "iptables", "markMasqBit": 13, "externalSetMarkChain": "KUBE-MARK-MASQ"}, code: bad, word: "externalSetMarkChain"},
		{name: "externalSetMarkChain with a space", config: world.Config{"backend": "iptables", "externalSetMarkChain": "A -j ACCEPT"}, code: bad, word: "externalSetMarkChain"},
		{name: "externalSetMarkChain too long", config: world.Config{"backend": "iptables", "externalSetMarkChain": strings.Repeat("X", 40)}, code: bad, word: "externalSetMarkChain"},
		{name: "externalSetMarkChain on nftables", config: world.Config{"backend": "nftables", "externalSetMarkChain": "KUBE-MARK-MASQ"}, code: bad, word: "externalSetMarkChain"},
		{name: "snat as text", config: world.Config{"snat": "yes"}, code: bad, word: "snat"},
		{name: "masqAll as number", config: world.Config{"masqAll": 1}, code: bad, word: "masqAll"},
		{name: "conditions as text", config: world.Config{"conditionsV4": "-s 10.0.0.0/8"}, code: bad, word: "conditionsV4"},
		{name: "condition that jumps", config: world.Config{"backend": "iptables", "conditionsV4": []string{"-j", "ACCEPT"}}, code: bad, word: "conditionsV4"},
		{name: "condition with a newline", config: world.Config{"backend": "iptables", "conditionsV6": []string{"-s", "::1\nCOMMIT\n*filter"}}, code: bad, word: "conditionsV6"},
		{name: "iptables condition on nftables", config: world.Config{"backend": "nftables", "conditionsV4": []string{"-s", "10.0.0.0/8"}}, code: bad, word: "conditionsV4"},
		{name: "nftables condition with a verdict", config: world.Config{"backend": "nftables", "conditionsV4": []string{"ip saddr 10.0.0.0/8 accept"}}, code: bad, word: "ip saddr 10.0.0.0/8 accept"},
		{name: "nftables condition of the other family", config: world.Config{"backend": "nftables", "conditionsV4": []string{"ip6 saddr ::1"}}, code: bad, word: "conditionsV4"},
		{name: "relative dataDir", config: world.Config{"dataDir": "run/hostport"}, code: bad, word: "dataDir"},
		{name: "lockTimeout that is none", config: world.Config{"lockTimeout": "soon"}, code: bad, word: "lockTimeout"},
		{name: "negative lockTimeout", config: world.Config{"lockTimeout": "-1s"}, code: bad, word: "lockTimeout"},
		{name: "unknown hostListener", config: world.Config{"hostListener": "warn"}, code: bad, word: "hostListener"},
		{name: "unknown logLevel", config: world.Config{"logLevel": "loud"}, code: bad, word: "logLevel"},
		{name: "relative logFile", config: world.Config{"logFile": "hostport.log"}, code: bad, word: "logFile"},
		{name: "no prevResult", config: world.Config{"prevResult": nil}, code: bad, word: "prevResult"},
		{name: "prevResult without addresses", config: world.Config{"prevResult": world.Config{"cniVersion": "1.1.0"}}, code: bad, word: "prevResult"},
		{name: "prevResult of another interface", config: world.Config{"prevResult": world.Config{
			"cniVersion": "1.1.0", "interfaces": []world.Config{{"name": "eth7", "sandbox": "/x"}},
			"ips": []world.Config{{"address": "10.244.0.2/24", "interface": 0}},
		}}, code: bad, word: "eth0"},
		{name: "prevResult that names no interface there is", config: world.Config{"prevResult": world.Config{
			"cniVersion": "1.1.0", "ips": []world.Config{{"address": "10.244.0.2/24", "interface": 3}},
		}}, code: bad, word: "prevResult.ips[0].interface"},
		{name: "prevResult with a bad address", config: world.Config{"prevResult": world.Config{
			"cniVersion": "1.1.0", "ips": []world.Config{{"address": "10.244.0.2"}},
		}}, code: bad, word: "prevResult"},
		{name: "prevResult that is text", config: world.Config{"prevResult": "none"}, code: bad, word: "prevResult"},
	}
}

// callRefusals are wrong in what every CNI plugin is given.
func callRefusals() []refusal {
	const bad, decoding = types.ErrInvalidNetworkConfig, types.ErrDecodingFailure
	return []refusal{
		{name: "no name", config: world.Config{"name": nil}, code: bad, word: "name"},
		{name: "name with a slash", config: world.Config{"name": "../x"}, code: bad, word: "name"},
		{name: "empty stdin", stdin: " ", code: decoding, word: ""},
		{name: "broken JSON", stdin: `{"cniVersion":"1.1.0","name":"podnet",`, code: decoding, word: ""},
		{name: "JSON that is no object", stdin: `[]`, code: decoding, word: ""},
		{name: "unknown cniVersion", config: world.Config{"cniVersion": "9.9.9"}, code: types.ErrIncompatibleCNIVersion, word: "9.9.9"},
		{
			name: "container ID with ../", code: types.ErrInvalidEnvironmentVariables, word: "container",
			invocation: func(i *world.Invocation) { i.ContainerID = "../../etc/passwd" },
		},
		{
			name: "no container ID", code: types.ErrInvalidEnvironmentVariables, word: "CNI_CONTAINERID",
			invocation: func(i *world.Invocation) { i.ContainerID = "" },
		},
		{
			name: "no interface name", code: types.ErrInvalidEnvironmentVariables, word: "CNI_IFNAME",
			invocation: func(i *world.Invocation) { i.IfName = "" },
		},
		{
			name: "interface name with a slash", code: types.ErrInvalidEnvironmentVariables, word: "interface",
			invocation: func(i *world.Invocation) { i.IfName = "a/b" },
		},
		{
			name: "no CNI_NETNS", code: types.ErrInvalidEnvironmentVariables, word: "CNI_NETNS",
			invocation: func(i *world.Invocation) { i.Netns = "" },
		},
		{
			name: "CNI_NETNS that is not there", code: types.ErrInvalidNetNS, word: "CNI_NETNS",
			invocation: func(i *world.Invocation) { i.Netns = "/nowhere/netns" },
		},
		{
			name: "CNI_NETNS that is no namespace", code: types.ErrInvalidNetNS, word: "CNI_NETNS",
			invocation: func(i *world.Invocation) { i.Netns = "/proc/self/status" },
		},
		{
			name: "unknown command", code: types.ErrInvalidEnvironmentVariables, word: "CNI_COMMAND",
			invocation: func(i *world.Invocation) { i.Command = "REPLACE" },
		},
	}
}

// TestRefusals sends every bad input to ADD, on one node a backend: nothing
// may be left behind that could disturb the next one.
func TestRefusals(t *testing.T) {
	for _, b := range world.Backends {
		t.Run(string(b), func(t *testing.T) {
			t.Parallel()
			w := world.New(t, world.Options{Backend: b})
			pod := w.NewPod("web")
			good := world.Config{
				"runtimeConfig": world.Config{"portMappings": []world.Mapping{world.TCP(8080, 80)}},
				"prevResult":    world.PrevResult(pod.Path, "10.244.0.2/24", "fd00:10:244::2/64"),
			}
			for _, r := range slices.Concat(mappingRefusals(), configRefusals(), callRefusals()) {
				i := world.Invocation{Command: "ADD", ContainerID: pod.ContainerID, IfName: "eth0", Netns: pod.Path, Args: pod.Args()}
				config := world.Config{}
				for _, part := range []world.Config{good, r.config} {
					maps.Copy(config, part)
				}
				i.Stdin = w.Stdin(config)
				if r.stdin != "" {
					i.Stdin = []byte(strings.TrimSpace(r.stdin))
				}
				if r.invocation != nil {
					r.invocation(&i)
				}
				t.Run(r.name, func(t *testing.T) { refuse(t, w, i, r) })
			}
			for _, r := range configRefusals() {
				if _, result := r.config["prevResult"]; result {
					continue // STATUS is given none
				}
				out := w.Invoke(world.Invocation{Command: "STATUS", Stdin: w.Stdin(r.config)})
				if cniErr, err := out.Error(); err != nil || cniErr == nil || cniErr.Code != r.code || !strings.Contains(cniErr.Msg+cniErr.Details, r.word) {
					t.Errorf("STATUS with %s: %v, %v; want error %d that names %s", r.name, cniErr, err, r.code, r.word)
				}
			}
			// What was refused for its input is accepted without the fault.
			out := w.Invoke(world.Invocation{
				Command: "ADD", ContainerID: pod.ContainerID, IfName: "eth0", Netns: pod.Path,
				Args: pod.Args(), Stdin: w.Stdin(good),
			})
			if out.ExitCode != 0 {
				t.Errorf("the good configuration: %s", out.Stdout)
			}
		})
	}
}

// refuse wants a CNI error with a code and a word, and a node as it was.
func refuse(t *testing.T, w *world.World, i world.Invocation, r refusal) {
	out := w.Invoke(i)
	if bytes.Contains(out.Stderr, []byte("goroutine ")) {
		t.Fatalf("panic:\n%s", out.Stderr)
	}
	cniErr, err := out.Error()
	var object struct{ CNIVersion string }
	switch {
	case err != nil:
		t.Error(err)
	case json.Unmarshal(out.Stdout, &object) != nil || object.CNIVersion != "1.1.0":
		t.Errorf("the error object has cniVersion %q: %s", object.CNIVersion, out.Stdout)
	case cniErr == nil:
		t.Errorf("accepted: %s", out.Stdout)
	case cniErr.Code != r.code:
		t.Errorf("error code %d, want %d: %s %s", cniErr.Code, r.code, cniErr.Msg, cniErr.Details)
	case !strings.Contains(cniErr.Msg+cniErr.Details, r.word):
		t.Errorf("the error does not name %q: %s %s", r.word, cniErr.Msg, cniErr.Details)
	}
	if got := w.Ruleset(); got != (world.Ruleset{}) {
		t.Errorf("rules were left behind: %+v", got)
	}
	if got := attachments(w); len(got) > 0 {
		t.Errorf("records were left behind: %q", got)
	}
}

// attachments are the keys of the state file that name a container.
func attachments(w *world.World) []string {
	var keys []string
	for key := range w.State() {
		if strings.HasPrefix(key, "attachments/") {
			keys = append(keys, key)
		}
	}
	return keys
}
