package cni

import (
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
)

// environment is what a runtime sets for ADD, with changes.
func environment(changes ...string) func(string) string {
	env := map[string]string{
		"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/a",
		"CNI_IFNAME": "eth0", "CNI_PATH": "/opt/cni/bin",
	}
	for i := 0; i+1 < len(changes); i += 2 {
		env[changes[i]] = changes[i+1]
	}
	return func(name string) string { return env[name] }
}

func TestReadRequest(t *testing.T) {
	const good = `{"name":"n","cniVersion":"1.1.0"}`
	for _, tc := range []struct {
		name, config string
		change       []string
		code         uint // 0: accepted
		word         string
	}{
		{name: "ADD", config: good},
		{name: "DEL without sandbox", config: good, change: []string{"CNI_COMMAND", "DEL", "CNI_NETNS", ""}},
		{name: "GC", config: good, change: []string{"CNI_COMMAND", "GC", "CNI_CONTAINERID", "", "CNI_NETNS", "", "CNI_IFNAME", ""}},
		{name: "VERSION", change: []string{"CNI_COMMAND", "VERSION", "CNI_PATH", ""}},
		{name: "keys in other cases", config: `{"NAME":"n","cniversion":"0.3.1"}`},
		{name: "no command", config: good, change: []string{"CNI_COMMAND", ""}, code: types.ErrInvalidEnvironmentVariables, word: "CNI_COMMAND"},
		{name: "ADD without sandbox and path", config: good, change: []string{"CNI_NETNS", "", "CNI_PATH", ""}, code: types.ErrInvalidEnvironmentVariables, word: "[CNI_NETNS,CNI_PATH]"},
		{name: "container ID that begins with a dot", config: good, change: []string{"CNI_CONTAINERID", ".c"}, code: types.ErrInvalidEnvironmentVariables, word: "containerID"},
		{name: "container ID with a slash", config: good, change: []string{"CNI_CONTAINERID", "c/1"}, code: types.ErrInvalidEnvironmentVariables, word: "containerID"},
		{name: "container ID beyond ASCII", config: good, change: []string{"CNI_CONTAINERID", "cé"}, code: types.ErrInvalidEnvironmentVariables, word: "containerID"},
		{name: "interface name of 15", config: good, change: []string{"CNI_IFNAME", strings.Repeat("x", 15)}},
		{name: "interface name of 16", config: good, change: []string{"CNI_IFNAME", strings.Repeat("x", 16)}, code: types.ErrInvalidEnvironmentVariables, word: "too long"},
		{name: "interface name ..", config: good, change: []string{"CNI_IFNAME", ".."}, code: types.ErrInvalidEnvironmentVariables, word: ".."},
		{name: "interface name with a no-break space", config: good, change: []string{"CNI_IFNAME", "e\u00a0"}, code: types.ErrInvalidEnvironmentVariables, word: "whitespace"},
		{name: "no JSON", config: `{`, code: types.ErrDecodingFailure, word: "network config"},
		{name: "no name", config: `{"cniVersion":"1.1.0"}`, code: types.ErrInvalidNetworkConfig, word: "missing network name"},
		{name: "name with a slash", config: `{"name":"../n","cniVersion":"1.1.0"}`, code: types.ErrInvalidNetworkConfig, word: "network name"},
		{name: "version that is no text", config: `{"name":"n","cniVersion":1}`, code: types.ErrDecodingFailure, word: "version"},
		{name: "no version", config: `{"name":"n"}`, code: types.ErrIncompatibleCNIVersion, word: "0.1.0"},
		{name: "version null", config: `{"name":"n","cniVersion":null}`, code: types.ErrIncompatibleCNIVersion, word: "0.1.0"},
		{name: "unknown version", config: `{"name":"n","cniVersion":"9.9.9"}`, code: types.ErrIncompatibleCNIVersion, word: "9.9.9"},
		{name: "CHECK before there was any", config: `{"name":"n","cniVersion":"0.3.1"}`, change: []string{"CNI_COMMAND", "CHECK"}, code: types.ErrIncompatibleCNIVersion, word: "CHECK"},
		{name: "CHECK", config: `{"name":"n","cniVersion":"0.4.0"}`, change: []string{"CNI_COMMAND", "CHECK"}},
		{name: "STATUS before there was any", config: `{"name":"n","cniVersion":"1.0.0"}`, change: []string{"CNI_COMMAND", "STATUS"}, code: types.ErrIncompatibleCNIVersion, word: "STATUS"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, err := readRequest(environment(tc.change...), strings.NewReader(tc.config))
			switch {
			case tc.code == 0 && err != nil:
				t.Fatalf("refused: %v", err)
			case tc.code == 0:
				if r.verb == "ADD" && (r.containerID != "c1" || string(r.config) != tc.config) {
					t.Errorf("request is %+v", r)
				}
			case err == nil:
				t.Fatal("accepted")
			case err.Code != tc.code || !strings.Contains(err.Msg+err.Details, tc.word):
				t.Errorf("error %d %q %q, want code %d and %q", err.Code, err.Msg, err.Details, tc.code, tc.word)
			}
		})
	}
}
