package world

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
)

// Config holds the keys of a plugin's JSON configuration.
type Config map[string]any

// NetworkOptions configure a Network. The zero value is a bridge for both
// families with hostport chained after it.
type NetworkOptions struct {
	// Name is the network's name, "podnet" when empty.
	Name string
	// Main is the plugin that creates the interface: "bridge" (default) or "ptp".
	Main string
	// MainConfig adds to or replaces the main plugin's keys.
	MainConfig Config
	// Families are those of the pods' addresses. Empty means both.
	Families []Family
	// Second uses the subnets 10.245.0.0/24 and fd00:10:245::/64, and the bridge
	// cni1, so that a node can have two bridge networks.
	Second bool
	// Type is the chained plugin, "hostport" when empty.
	Type string
	// Hostport adds to or replaces the chained plugin's keys. A nil value
	// removes the key.
	Hostport Config
	// CNIVersion is "1.1.0" when empty.
	CNIVersion string
}

// Network is a conflist on the World's node.
type Network struct {
	Name string
	// Conflist is what the runtime reads from its configuration directory.
	Conflist []byte

	w    *World
	list *libcni.NetworkConfigList
	cni  *libcni.CNIConfig
}

// NewNetwork returns a network with a new conflist. It does not change the
// node.
func (w *World) NewNetwork(o NetworkOptions) *Network {
	w.t.Helper()
	if o.Name == "" {
		o.Name = "podnet"
	}
	if o.CNIVersion == "" {
		o.CNIVersion = "1.1.0"
	}
	conflist, err := json.Marshal(Config{
		"cniVersion": o.CNIVersion,
		"name":       o.Name,
		"plugins":    []Config{w.mainConfig(o), w.HostportConfig(o.Type, o.Hostport)},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return w.NetworkFromConflist(conflist)
}

// NetworkFromConflist returns a network with the given conflist.
func (w *World) NetworkFromConflist(conflist []byte) *Network {
	w.t.Helper()
	list, err := libcni.ConfListFromBytes(conflist)
	if err != nil {
		w.t.Fatal(err)
	}
	return &Network{
		Name:     list.Name,
		Conflist: conflist,
		w:        w,
		list:     list,
		cni:      libcni.NewCNIConfigWithCacheDir([]string{w.PluginDir}, w.CacheDir, w),
	}
}

// HostportConfig returns the configuration of the chained plugin, as in a
// conflist: without name, cniVersion and prevResult. A nil value in changes
// removes a key.
func (w *World) HostportConfig(plugin string, changes Config) Config {
	if plugin == "" {
		plugin = "hostport"
	}
	config := Config{
		"type":         plugin,
		"backend":      w.Backend.Config(),
		"capabilities": map[string]bool{"portMappings": true},
	}
	if plugin == "hostport" {
		config["dataDir"] = w.DataDir
		config["lockTimeout"] = "1m" // the machine may be busy
	}
	return config.with(changes)
}

// with returns a copy with changes applied.
func (c Config) with(changes Config) Config {
	c = maps.Clone(c)
	for key, value := range changes {
		if value == nil {
			delete(c, key)
			continue
		}
		c[key] = value
	}
	return c
}

func (w *World) mainConfig(o NetworkOptions) Config {
	if len(o.Families) == 0 {
		o.Families = Families
	}
	var ranges [][]map[string]string
	var routes []map[string]string
	for _, f := range o.Families {
		subnet := plan[f].podNet
		if o.Second {
			subnet = plan[f].otherNet
		}
		ranges = append(ranges, []map[string]string{{"subnet": subnet}})
		routes = append(routes, map[string]string{"dst": plan[f].zero})
	}
	config := Config{
		"type": "bridge",
		"ipam": Config{"type": "host-local", "dataDir": w.ipam, "ranges": ranges, "routes": routes},
	}
	if o.Main == "ptp" {
		config["type"] = "ptp"
		return config.with(o.MainConfig)
	}
	config["bridge"] = "cni0"
	if o.Second {
		config["bridge"] = "cni1"
	}
	config["isGateway"] = true
	config["hairpinMode"] = true
	return config.with(o.MainConfig)
}

// ForgetLeases deletes host-local's leases, so that the next pod gets the first
// address again.
func (w *World) ForgetLeases() {
	w.t.Helper()
	if err := os.RemoveAll(w.ipam); err != nil {
		w.t.Fatal(err)
	}
}

// GC tells the network's plugins which attachments are still valid, as a
// runtime does. libcni first sends DEL for invalid attachments in its cache;
// Invoke sends a GC without that.
func (n *Network) GC(valid ...*Attachment) error {
	return n.cni.GCNetworkList(context.Background(), n.list, &libcni.GCArgs{ValidAttachments: gcAttachments(valid)})
}

func gcAttachments(valid []*Attachment) []types.GCAttachment {
	list := make([]types.GCAttachment, 0, len(valid))
	for _, a := range valid {
		list = append(list, types.GCAttachment{ContainerID: a.Pod.ContainerID, IfName: a.IfName})
	}
	return list
}

// Status asks the network's plugins whether they could serve an ADD.
func (n *Network) Status() error {
	return n.cni.GetStatusNetworkList(context.Background(), n.list)
}

// String returns the network's name for failures.
func (n *Network) String() string { return fmt.Sprintf("network %s", n.Name) }
