package cni

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"

	"github.com/containernetworking/cni/pkg/types"
)

// What skel does for other plugins is done here, with the same errors. It
// decodes the configuration three times, makes a regular expression and pulls
// in every version's result types before main begins: a third of what a pod
// without mappings costs above a program that does nothing.

// request is what the runtime asks for: verb and arguments from the
// environment, the configuration from standard input.
type request struct {
	verb        string
	containerID string
	netns       string
	ifName      string
	args        string
	config      []byte
}

// versions are those of the specification that the plugin speaks. VERSION is
// answered in the last.
func versions() []string { return []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} }

// since names the version of the specification that brought a verb; the others
// have always been there.
func since(verb string) string {
	switch verb {
	case "CHECK":
		return "0.4.0"
	case "GC", "STATUS":
		return "1.1.0"
	default:
		return ""
	}
}

// readRequest reads environment and, unless the verb is VERSION, standard
// input, and refuses what the specification does not allow.
func readRequest(getenv func(string) string, stdin io.Reader) (*request, *types.Error) {
	r := &request{
		verb: getenv("CNI_COMMAND"), containerID: getenv("CNI_CONTAINERID"),
		netns: getenv("CNI_NETNS"), ifName: getenv("CNI_IFNAME"), args: getenv("CNI_ARGS"),
	}
	if err := r.checkEnvironment(getenv("CNI_PATH")); err != nil {
		return nil, err
	}
	if r.verb == "VERSION" {
		return r, nil
	}
	data, err := io.ReadAll(stdin)
	if err != nil {
		return nil, types.NewError(types.ErrIOFailure, "error reading from stdin: "+err.Error(), "")
	}
	r.config = data
	return r, r.checkConfig()
}

func (r *request) checkEnvironment(path string) *types.Error {
	attaches := r.verb == "ADD" || r.verb == "CHECK"
	keyed := attaches || r.verb == "DEL"
	var missing []string
	for _, v := range []struct {
		name, value string
		required    bool
		check       func(string) *types.Error
	}{
		{"CNI_COMMAND", r.verb, true, nil},
		{"CNI_CONTAINERID", r.containerID, keyed, checkContainerID},
		{"CNI_NETNS", r.netns, attaches, nil},
		{"CNI_IFNAME", r.ifName, keyed, checkIfName},
		{"CNI_PATH", path, keyed || r.verb == "GC" || r.verb == "STATUS", nil},
	} {
		switch {
		case !v.required:
		case v.value == "":
			missing = append(missing, v.name)
		case v.check != nil:
			if err := v.check(v.value); err != nil {
				return err
			}
		}
	}
	if len(missing) > 0 {
		return types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("required env variables [%s] missing", strings.Join(missing, ",")), "")
	}
	return nil
}

// checkConfig looks at the keys that every plugin's configuration has.
func (r *request) checkConfig() *types.Error {
	var c struct {
		Name       string          `json:"name"`
		CNIVersion json.RawMessage `json:"cniVersion"`
	}
	if err := json.Unmarshal(r.config, &c); err != nil {
		return types.NewError(types.ErrDecodingFailure, "error unmarshall network config: "+err.Error(), "")
	}
	switch {
	case c.Name == "":
		return types.NewError(types.ErrInvalidNetworkConfig, "missing network name", "")
	case !isName(c.Name):
		return types.NewError(types.ErrInvalidNetworkConfig, "invalid characters found in network name", c.Name)
	}
	version := ""
	if len(c.CNIVersion) > 0 {
		if err := json.Unmarshal(c.CNIVersion, &version); err != nil {
			return types.NewError(types.ErrDecodingFailure, "decoding version from network config: "+err.Error(), "")
		}
	}
	if version == "" {
		version = "0.1.0" // what a configuration without one is
	}
	if !slices.Contains(versions(), version) {
		return types.NewError(types.ErrIncompatibleCNIVersion, "incompatible CNI versions", fmt.Sprintf("config is %q, plugin supports %q", version, versions()))
	}
	// As text, the versions that are spoken are in order.
	if version < since(r.verb) {
		return types.NewError(types.ErrIncompatibleCNIVersion, "config version does not allow "+r.verb, "")
	}
	return nil
}

func checkContainerID(id string) *types.Error {
	if !isName(id) {
		return types.NewError(types.ErrInvalidEnvironmentVariables, "invalid characters in containerID", id)
	}
	return nil
}

// checkIfName refuses what is no interface name to the kernel.
func checkIfName(name string) *types.Error {
	const longest = 15
	invalid := func(msg, details string) *types.Error {
		return types.NewError(types.ErrInvalidEnvironmentVariables, msg, details)
	}
	switch {
	case len(name) > longest:
		return invalid("interface name is too long", fmt.Sprintf("interface name should be less than %d characters", longest+1))
	case name == "." || name == "..":
		return invalid("interface name is . or ..", "")
	case strings.ContainsFunc(name, func(r rune) bool { return r == '/' || r == ':' || unicode.IsSpace(r) }):
		return invalid("interface name contains / or : or whitespace characters", "")
	}
	return nil
}

// isName reports whether s may be a container ID or the name of a network: a
// letter or digit, then letters, digits, '_', '.' and '-'.
func isName(s string) bool {
	for i, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case i > 0 && (c == '_' || c == '.' || c == '-'):
		default:
			return false
		}
	}
	return s != ""
}
