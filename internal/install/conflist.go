package install

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"

	"github.com/hostport-cni/hostport/internal/netconf"
)

// The types of the two plugins that can serve host ports.
const (
	hostportType = "hostport"
	portmapType  = "portmap"
)

// newEntry returns the entry of a plugin for a chain that has none.
func newEntry(plugin string) []byte {
	return fmt.Appendf(nil, `{"type":%q,"capabilities":{"portMappings":true}}`, plugin)
}

// ownKeys returns the keys of an entry that portmap does not have.
func ownKeys() []string {
	return []string{"dataDir", "lockTimeout", "hostListener", "logLevel", "logFile", "podPorts"}
}

// Setting is a key of the plugin's entry and its value as JSON. Without a
// value, the key is removed from the entry.
type Setting struct {
	Key   string
	Value string
}

// ParseSetting parses "KEY=VALUE". A value that is not JSON is a string.
func ParseSetting(s string) (Setting, error) {
	key, value, found := strings.Cut(s, "=")
	if !found || key == "" {
		return Setting{}, fmt.Errorf("%q: want KEY=VALUE", s)
	}
	if strings.EqualFold(key, "type") || strings.EqualFold(key, "capabilities") {
		return Setting{}, fmt.Errorf("%q: the key %s is not to be chosen", s, key)
	}
	if !json.Valid([]byte(value)) {
		quoted, err := json.Marshal(value)
		if err != nil {
			return Setting{}, err
		}
		value = string(quoted)
	}
	return Setting{key, value}, nil
}

// chain is a conflist as text, with the positions of its plugins.
type chain struct {
	text    []byte
	array   int // start of the array
	plugins []plugin
}

type plugin struct {
	span
	kind string
}

// parseChain finds the plugins of a conflist. libcni has to accept the text.
func parseChain(text []byte) (*chain, error) {
	ms, err := members(text, bytes.IndexByte(text, '{'))
	if err != nil {
		return nil, err
	}
	c := &chain{text: text, array: -1}
	for _, m := range ms {
		if m.key == "plugins" {
			c.array = m.value.start
		}
	}
	if c.array < 0 {
		return nil, errors.New("no plugins in the list")
	}
	array, _, err := elements(text, c.array)
	if err != nil {
		return nil, err
	}
	for _, s := range array {
		var head struct {
			Type string `json:"type"`
		}
		if err := json.Unmarshal(text[s.start:s.end], &head); err != nil {
			return nil, err
		}
		c.plugins = append(c.plugins, plugin{s, head.Type})
	}
	return c, nil
}

// first returns the index of the first plugin of a type, or -1.
func (c *chain) first(kind string) int {
	return slices.IndexFunc(c.plugins, func(p plugin) bool { return p.kind == kind })
}

// entry returns the text of the first plugin of a type; nil if there is none.
func (c *chain) entry(kind string) []byte {
	if i := c.first(kind); i >= 0 {
		return c.text[c.plugins[i].start:c.plugins[i].end]
	}
	return nil
}

// without returns the text without the plugins for which drop returns true,
// each with the comma before it, so that it undoes insertElement. The main
// plugin stays.
func (c *chain) without(drop func(i int, kind string) bool) []byte {
	text := c.text
	for i, p := range slices.Backward(c.plugins) {
		if i > 0 && drop(i, p.kind) {
			text = replace(text, span{c.plugins[i-1].end, p.end}, "")
		}
	}
	return text
}

// bare returns the text without both plugins.
func (c *chain) bare() []byte {
	return c.without(func(_ int, kind string) bool { return kind == hostportType || kind == portmapType })
}

// put returns a conflist in which kind is the only one of the two plugins, and
// occurs once. It is at the position of the first plugin of its own type, or
// else of the other type. In a chain without either, entry is inserted after
// the main plugin, which provides the pod's addresses.
func put(text []byte, kind string, entry []byte, settings []Setting) ([]byte, error) {
	c, err := parseChain(text)
	if err != nil {
		return nil, err
	}
	at := c.first(kind)
	if at < 0 {
		at = max(c.first(hostportType), c.first(portmapType)) // one of them is -1
	}
	if at < 0 {
		at = 1
		if text, err = insertElement(text, c.array, 0, entry); err != nil {
			return nil, err
		}
	} else {
		dropped := 0
		text = c.without(func(i int, k string) bool {
			drop := i != at && (k == hostportType || k == portmapType)
			if drop && i < at {
				dropped++
			}
			return drop
		})
		at -= dropped
	}
	if c, err = parseChain(text); err != nil {
		return nil, err
	}
	return configure(text, c.plugins[at].start, kind, settings)
}

// configure sets the type and settings of the entry at text[at].
func configure(text []byte, at int, kind string, settings []Setting) ([]byte, error) {
	quoted := fmt.Sprintf("%q", kind)
	text, err := setMember(text, at, "type", quoted)
	for _, s := range settings {
		switch {
		case err != nil:
		case s.Value == "":
			text, err = removeMember(text, at, s.Key)
		default:
			text, err = setMember(text, at, s.Key, s.Value)
		}
	}
	if kind == portmapType {
		for _, key := range ownKeys() {
			if err == nil {
				text, err = removeMember(text, at, key)
			}
		}
	}
	return text, err
}

// sameBare reports whether two conflists are byte-equal, apart from both
// plugins.
func sameBare(a, b []byte) (bool, error) {
	x, err := parseChain(a)
	if err != nil {
		return false, err
	}
	y, err := parseChain(b)
	if err != nil {
		return false, err
	}
	return bytes.Equal(x.bare(), y.bare()), nil
}

// backToPortmap returns a conflist with portmap in our place: the backup, if no
// other program has changed the file since, or else our entry turned into
// portmap's.
func backToPortmap(text, backup, entry []byte) ([]byte, error) {
	if was, err := parseChain(backup); err == nil && was.first(portmapType) >= 0 {
		if same, err := sameBare(text, backup); same || err != nil {
			return backup, err
		}
	}
	return put(text, portmapType, entry, nil)
}

// listOf returns a single-plugin configuration as a conflist, which can be
// chained: in the form that libcni converts it to when loading.
func listOf(conf *libcni.PluginConfig) ([]byte, error) {
	list := struct {
		CNIVersion string            `json:"cniVersion,omitempty"`
		Name       string            `json:"name"`
		Plugins    []json.RawMessage `json:"plugins"`
	}{conf.Network.CNIVersion, conf.Network.Name, []json.RawMessage{conf.Bytes}}
	b, err := json.MarshalIndent(list, "", "  ")
	return append(b, '\n'), err
}

// validate parses a result with libcni, before a runtime does. entries holds
// what libcni appends from the network's directory. It fails if anything but
// the two plugins has changed.
func validate(was, is []byte, entries ...[]byte) error {
	before, err := libcni.NetworkConfFromBytes(was)
	if err != nil {
		return err
	}
	after, err := libcni.NetworkConfFromBytes(is)
	if err != nil {
		return err
	}
	for _, e := range entries {
		p, err := libcni.NetworkPluginConfFromBytes(e)
		if err != nil {
			return err
		}
		after.Plugins = append(after.Plugins, p)
	}
	if x, y := others(before), others(after); !slices.EqualFunc(x, y, bytes.Equal) || before.Name != after.Name {
		return errors.New("the other plugins are not as they were")
	}
	for i, p := range after.Plugins {
		if p.Network.Type != hostportType {
			continue
		}
		if i == 0 {
			return errors.New("hostport would be the main plugin of the network")
		}
		if !p.Network.Capabilities["portMappings"] {
			return errors.New("hostport's entry lacks the capability portMappings: the runtime would send no ports")
		}
		if _, err := netconf.Parse(p.Bytes); err != nil {
			return err
		}
	}
	return nil
}

// others returns the plugins that are neither hostport nor portmap.
func others(list *libcni.NetworkConfigList) [][]byte {
	var out [][]byte
	for _, p := range list.Plugins {
		if k := p.Network.Type; k != hostportType && k != portmapType {
			out = append(out, p.Bytes)
		}
	}
	return out
}
